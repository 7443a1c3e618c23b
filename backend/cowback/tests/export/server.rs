//! The command as a process, and images to serve.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with images and sockets.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes an image of so many bytes, over a base if there is one.
    pub(crate) fn create(&self, name: &str, size: u64, base: Option<&Path>) -> PathBuf {
        let path = self.path(name);
        let mut command = cowback(["create"]);
        command.arg(&path).arg("--size").arg(size.to_string());
        if let Some(base) = base {
            command.arg("--base").arg(base);
        }
        succeeds(&mut command);
        path
    }
}

pub(crate) fn cowback<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cowback"));
    command.args(args);
    command
}

/// A served image.
pub(crate) struct Server {
    child: Child,
    /// What it said when it was ready.
    pub(crate) ready: Value,
}

impl Server {
    pub(crate) fn new(image: &Path, socket: &Path) -> Self {
        Self::with(image, socket, &[])
    }

    pub(crate) fn with(image: &Path, socket: &Path, args: &[&str]) -> Self {
        Self::start(Self::command(image, socket).args(args))
    }

    pub(crate) fn command(image: &Path, socket: &Path) -> Command {
        let mut command = cowback(["export", "--json", "--socket"]);
        command.arg(socket).arg(image);
        command
    }

    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("a line of JSON says that it is ready");
        Self { child, ready }
    }

    pub(crate) fn uri(&self) -> &str {
        self.ready["uri"].as_str().unwrap()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it with a signal, which must go well.
    pub(crate) fn stop(self, signal: &str) {
        let pid = self.child.id().to_string();
        succeeds(Command::new("kill").args([signal, &pid]));
        assert!(self.wait().success());
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    /// A test that fails leaves no process behind. One that has ended already cannot be killed, and need not be.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks an image, which must be without fault and closed.
pub(crate) fn check(image: &Path) -> Value {
    let output = succeeds(cowback(["check", "--json"]).arg(image));
    let report: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(report["clean"], true, "{output}");
    assert_eq!(report["closed_cleanly"], true, "{output}");
    report
}

/// Runs a command that must succeed; returns its output.
#[track_caller]
pub(crate) fn succeeds(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|cause| panic!("{command:?}: {cause}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail in this way; returns what it said.
#[track_caller]
pub(crate) fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A program that these tests need and that is not ours. Where it is missing the test ends here, and says so; but in CI
/// it must be there.
pub(crate) fn tool(name: &str) -> Option<Command> {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(OsStr::new(name)).is_file())
    });
    if found {
        return Some(Command::new(name));
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "{name} is missing, and CI must not skip what needs it; `make deps-check` installs it"
    );
    eprintln!("SKIPPED: {name} is missing; `make deps-check` installs it");
    None
}

/// `len` bytes that do not repeat.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut random = std::fs::File::open("/dev/urandom").unwrap();
    random.read_exact(&mut bytes).unwrap();
    bytes
}
