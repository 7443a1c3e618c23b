//! A place of its own for the benchmark, which the kernel cleans up.
//!
//! The benchmark runs as the first process of its own process namespace, and mounts what it needs in its own mount
//! namespace. However it ends (Ctrl-C, `kill -9`, an error) the kernel then ends every process that it started, takes
//! its mounts away, and with the last user its loop devices and the memory behind them.

use std::ffi::OsString;
use std::process::{Command, ExitStatus};

use crate::error::{BenchError, Result};
use crate::tool;

/// Runs this program again with these arguments, inside.
///
/// # Errors
/// If that is not possible, such as for users other than root.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<ExitStatus> {
    if !rustix::process::geteuid().is_root() {
        return Err(BenchError::NotRoot);
    }
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    // When this process ends, so does `unshare`, and with it everything inside.
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.arg(program).args(arguments);
    command
        .status()
        .map_err(BenchError::io(format!("run `{}`", tool::line(&command))))
}
