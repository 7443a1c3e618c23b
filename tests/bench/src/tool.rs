//! Running the programs that a measurement takes.

use std::io::IsTerminal;
use std::process::{Command, Stdio};

use crate::error::{BenchError, Result};

/// The processors that the two sides of a measurement are kept on, the same for every peer: servers on one,
/// and on the other whoever asks, be it a client or a driver without a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who answers.
    Server,
    /// Who asks.
    Client,
}

impl Side {
    /// A command that runs on this side's processor.
    pub fn command(self, program: &str) -> Command {
        let mut command = Command::new("taskset");
        let processor = match self {
            Self::Server => "0",
            Self::Client => "1",
        };
        command.args(["--cpu-list", processor, program]);
        command
    }
}

/// Runs a command to its end and gives what it printed.
///
/// # Errors
/// If it cannot be started or fails; with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(BenchError::io(format!("run `{}`", line(command))))?;
    if !output.status.success() {
        return Err(BenchError::Failed {
            command: line(command),
            status: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Shows what is being done in the last line of the terminal, if there is one; nothing takes the line away.
pub fn show(what: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{what}");
    }
}

/// The command as a person would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_handed_back() {
        assert_eq!(run(Command::new("echo").arg("hello")).unwrap(), "hello\n");
    }

    #[test]
    fn failure_says_what_and_why() {
        let error = run(Command::new("sh").args(["-c", "echo sorry >&2; exit 3"])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c echo sorry >&2; exit 3` failed, exit status: 3: sorry"
        );
    }
}
