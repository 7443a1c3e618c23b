//! The hotplug step of a disk: what libxl runs once the backend is in state 2, and once it has closed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::disk::Disk;
use super::hotplug_error;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::process::wait_for_exit;

/// How long libxl lets a script run (`LIBXL_HOTPLUG_TIMEOUT`).
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(40);

/// Which of the two runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Add,
    Remove,
}

impl Action {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Remove => "remove",
        }
    }
}

/// What happens in the hotplug step.
#[derive(Clone, Debug)]
pub enum Hotplug {
    /// Nothing runs; on `add` the nodes are written that a script leaves behind.
    Pretend {
        /// For `physical-device-path`; empty to leave that out.
        physical_device_path: String,
    },
    /// A command runs.
    Command(HotplugCommand),
}

/// The command of a hotplug step. It gets `add` or `remove` as an argument, and the environment that libxl gives to a
/// script, with the host's xenstore.
#[derive(Clone, Debug)]
pub struct HotplugCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    is_script: bool,
}

impl HotplugCommand {
    /// A command that does the work of the script's binary half: it gets the action and the backend's path, as in
    /// `cowback hotplug add backend/vbd3/1/51712`. The first line of its output is the `physical-device-path`; the
    /// nodes are written for it.
    #[must_use]
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            is_script: false,
        }
    }

    /// A whole script: it gets only the action, and writes the nodes itself.
    #[must_use]
    pub fn script(program: impl AsRef<Path>) -> Self {
        Self {
            is_script: true,
            ..Self::new(program)
        }
    }

    /// Adds an argument before the action.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Sets a variable of the environment, besides libxl's.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let entry = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.push(entry);
        self
    }
}

pub(super) fn run(host: &Host, disk: &Disk, action: Action) -> Result<()> {
    match &disk.spec().hotplug {
        Hotplug::Pretend {
            physical_device_path,
        } => match action {
            Action::Add => write_connected(disk, physical_device_path),
            Action::Remove => Ok(()),
        },
        Hotplug::Command(command) => {
            let outcome = run_command(host, disk, action, command);
            match (outcome, action) {
                (Ok(path), Action::Add) if !command.is_script => write_connected(disk, &path),
                (
                    Err(Error::Hotplug {
                        action,
                        path,
                        detail,
                    }),
                    _,
                ) if !command.is_script => {
                    let xenstore = disk.xenstore();
                    xenstore.write(&disk.backend_node("hotplug-error"), &detail)?;
                    xenstore.write(&disk.backend_node("hotplug-status"), "error")?;
                    Err(Error::Hotplug {
                        action,
                        path,
                        detail,
                    })
                }
                (outcome, _) => outcome.map(drop),
            }
        }
    }
}

fn write_connected(disk: &Disk, physical_device_path: &str) -> Result<()> {
    if !physical_device_path.is_empty() {
        let node = disk.backend_node("physical-device-path");
        disk.xenstore().write(&node, physical_device_path)?;
    }
    let status = disk.backend_node("hotplug-status");
    disk.xenstore().write(&status, "connected")
}

/// Runs the command; returns the first line of its output.
fn run_command(
    host: &Host,
    disk: &Disk,
    action: Action,
    hotplug: &HotplugCommand,
) -> Result<String> {
    let attempt = format!("run {}", hotplug.program.display());
    let io_error = || Error::io(attempt.clone());
    let output = tempfile::tempfile().map_err(io_error())?;
    let errors = tempfile::tempfile().map_err(io_error())?;
    let mut command = Command::new(&hotplug.program);
    command
        .args(&hotplug.arguments)
        .arg(action.name())
        .envs(host.xenstore_environment())
        .envs(script_environment(disk))
        .envs(
            hotplug
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .stdout(output.try_clone().map_err(io_error())?)
        .stderr(errors.try_clone().map_err(io_error())?);
    if !hotplug.is_script {
        command.arg(disk.xenbus_path());
    }
    let mut child = command.spawn().map_err(io_error())?;
    let status = wait_for_exit(&mut child, SCRIPT_TIMEOUT)?;
    if status.is_none() {
        // As libxl: a script that takes too long is killed.
        child.kill().map_err(io_error())?;
        child.wait().map_err(io_error())?;
    }
    if status.is_some_and(|status| status.success()) {
        let text = contents(output)?;
        return Ok(text.lines().next().unwrap_or("").trim().to_owned());
    }
    Err(hotplug_error(
        action,
        disk,
        failure(status, &contents(errors)?),
    ))
}

fn failure(status: Option<ExitStatus>, errors: &str) -> String {
    let status = status.map_or("killed after 40 s".to_owned(), |status| status.to_string());
    format!("{status}: {}", errors.trim_end())
}

fn contents(mut file: File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(Error::io("read the output of a hotplug command"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What libxl sets for a block script (`get_hotplug_env`).
fn script_environment(disk: &Disk) -> [(&'static str, String); 4] {
    [
        ("script", disk.spec().script.clone()),
        ("XENBUS_TYPE", disk.spec().backend_kind.name().to_owned()),
        ("XENBUS_PATH", disk.xenbus_path().to_owned()),
        ("XENBUS_BASE_PATH", "backend".to_owned()),
    ]
}
