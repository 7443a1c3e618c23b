//! A probe process under the shim, for the tests of grants and event channels.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use simxen::Host;

pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Probe {
    child: Child,
    commands: ChildStdin,
    results: BufReader<ChildStdout>,
}

impl Probe {
    pub(crate) fn start(host: &Host) -> Self {
        let mut child = host
            .command(env!("CARGO_BIN_EXE_simxen-probe"))
            .unwrap()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            commands: child.stdin.take().unwrap(),
            results: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Runs a command and returns its result, or its failure as `errno N`.
    pub(crate) fn run(&mut self, command: &str) -> String {
        writeln!(self.commands, "{command}").unwrap();
        let mut line = String::new();
        self.results.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the probe died at {command:?}");
        line.trim_end().to_owned()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
