//! NBD servers: ours, and the one to compare with.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::error::{BenchError, Result};
use crate::tool::{self, Side};

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind<'a> {
    /// `cowback export`, the program at this path.
    Cowback(&'a Path),
    /// `qemu-nbd`, with an image of this format.
    Qemu {
        /// Its name in QEMU.
        format: &'static str,
        /// How QEMU does its I/O.
        aio: QemuAio,
    },
}

/// How QEMU does its I/O; always past the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QemuAio {
    /// io_uring.
    IoUring,
    /// Linux's own asynchronous I/O, where QEMU was built without io_uring.
    Native,
}

impl QemuAio {
    /// The best that the QEMU here can do with the image at `probe`, which is raw.
    ///
    /// # Errors
    /// If it cannot serve the image at all.
    pub fn best(probe: &Path, socket: &Path) -> Result<Self> {
        let attempt = |aio| {
            let kind = ServerKind::Qemu { format: "raw", aio };
            Server::start(kind, probe, socket)?.stop().map(|()| aio)
        };
        attempt(Self::IoUring).or_else(|_| attempt(Self::Native))
    }

    /// Its name in QEMU's options.
    pub fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Native => "native",
        }
    }
}

/// A server that runs, and takes clients.
///
/// One that is not stopped is killed.
pub struct Server {
    /// `None` when it has ended.
    process: Option<Process>,
    socket: PathBuf,
}

/// When a server that has not ended is told once more.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(1);

enum Process {
    Child(Child),
    /// It detached itself when it was ready, and this process became its parent.
    Detached(Pid),
}

impl Server {
    /// Starts a server for the image on a socket, and waits until it takes clients.
    ///
    /// # Errors
    /// If it does not come up, with what it said.
    pub fn start(kind: ServerKind<'_>, image: &Path, socket: &Path) -> Result<Self> {
        let process = match kind {
            ServerKind::Cowback(program) => start_ours(program, image, socket)?,
            ServerKind::Qemu { format, aio } => start_qemu(format, aio, image, socket)?,
        };
        Ok(Self {
            process: Some(process),
            socket: socket.to_owned(),
        })
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Lets it close its image and end.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn stop(mut self) -> Result<()> {
        let ended_well = self
            .process
            .take()
            .map_or(Ok(true), |process| process.end(Signal::TERM))
            .map_err(BenchError::io("stop the NBD server"))?;
        if !ended_well {
            return Err(BenchError::Failed {
                command: "the NBD server".to_owned(),
                status: "after SIGTERM".to_owned(),
                stderr: "what it said is above".to_owned(),
            });
        }
        // qemu-nbd leaves it.
        match fs::remove_file(&self.socket) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(BenchError::io(format!(
                "remove {}",
                self.socket.display()
            ))(cause)),
            _ => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // Something else has failed already, which is what is worth telling.
            let _ = process.end(Signal::KILL);
            let _ = fs::remove_file(&self.socket);
        }
    }
}

impl Process {
    /// Tells it to end, and waits until it has. Gives whether it ended well.
    fn end(self, signal: Signal) -> io::Result<bool> {
        match self {
            Self::Child(mut child) => {
                kill_process(Pid::from_child(&child), signal)?;
                Ok(child.wait()?.success())
            }
            Self::Detached(pid) => {
                // qemu-nbd was seen to go on after a signal that came as soon as it had detached itself.
                loop {
                    kill_process(pid, signal)?;
                    let told = Instant::now();
                    while told.elapsed() < TOLD_AGAIN_AFTER {
                        if let Some((_, status)) = waitpid(Some(pid), WaitOptions::NOHANG)? {
                            return Ok(status.exit_status() == Some(0));
                        }
                        thread::sleep(Duration::from_millis(5));
                    }
                }
            }
        }
    }
}

fn start_ours(program: &Path, image: &Path, socket: &Path) -> Result<Process> {
    let mut command = Side::Server.command(&program.to_string_lossy());
    command.arg("export").arg(image).arg("--socket").arg(socket);
    // fio ends its connection without a word, which is worth a warning; not here.
    command.env("COWBACK_LOG", "error");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let name = tool::line(&command);
    let mut child = command
        .spawn()
        .map_err(BenchError::io(format!("run `{name}`")))?;
    let output = child.stdout.take().expect("it is piped");
    // It prints a line when it takes clients.
    let mut ready = String::new();
    BufReader::new(output)
        .read_line(&mut ready)
        .map_err(BenchError::io(format!("read from `{name}`")))?;
    if ready.is_empty() {
        let status = child
            .wait()
            .map_err(BenchError::io(format!("wait for `{name}`")))?;
        return Err(BenchError::Failed {
            command: name,
            status: status.to_string(),
            stderr: "what it said is above".to_owned(),
        });
    }
    Ok(Process::Child(child))
}

fn start_qemu(format: &str, aio: QemuAio, image: &Path, socket: &Path) -> Result<Process> {
    let pid_file = socket.with_extension("pid");
    let mut command = Side::Server.command("qemu-nbd");
    // It returns when the server takes clients.
    command.args(["--fork", "--persistent", "--cache=none"]);
    command
        .arg(format!("--aio={}", aio.name()))
        .arg(format!("--format={format}"));
    command
        .arg("--pid-file")
        .arg(&pid_file)
        .arg("--socket")
        .arg(socket)
        .arg(image);
    run_detaching(&mut command)?;
    let pid = fs::read_to_string(&pid_file)
        .map_err(BenchError::io(format!("read {}", pid_file.display())))?;
    let pid = pid
        .trim()
        .parse()
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| BenchError::Output {
            command: tool::line(&command),
            problem: format!("{pid:?} is not the number of a process"),
        })?;
    Ok(Process::Detached(pid))
}

/// Runs a command that leaves a process behind. That keeps the standard error that it was started with, so nobody can
/// wait for the end of it: it goes where ours goes.
fn run_detaching(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .map_err(BenchError::io(format!("run `{}`", tool::line(command))))?;
    if status.success() {
        return Ok(());
    }
    Err(BenchError::Failed {
        command: tool::line(command),
        status: status.to_string(),
        stderr: "what it said is above".to_owned(),
    })
}
