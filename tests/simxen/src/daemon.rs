//! A backend under test as a process of its own: started with the simulation beneath it, killed, restarted, watched.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::error::{Error, Result};
use crate::process::{pid_of, wait_for_exit};

/// What to run.
#[derive(Clone, Debug)]
pub struct DaemonCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl DaemonCommand {
    /// A program without arguments.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Sets a variable of the environment, besides those of the simulation.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let entry = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.push(entry);
        self
    }
}

/// What one run has written.
#[derive(Debug, Default)]
struct RunLog {
    text: String,
    /// The process and all that inherited its output have closed it.
    ended: bool,
}

/// What the process has written, by run: the end of one may be read only after the next has begun.
#[derive(Debug, Default)]
struct Log {
    runs: Mutex<Vec<RunLog>>,
    grown: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<RunLog>> {
        self.runs.lock().expect("no holder panicked")
    }

    /// Begins a run; returns its index.
    fn begin_run(&self) -> usize {
        let mut runs = self.lock();
        runs.push(RunLog::default());
        runs.len() - 1
    }

    fn collect(&self, run: usize, mut output: impl Read) {
        let mut buffer = [0; 4096];
        loop {
            let read = output.read(&mut buffer).unwrap_or(0);
            let mut runs = self.lock();
            let text = String::from_utf8_lossy(&buffer[..read]);
            runs[run].text.push_str(&text);
            runs[run].ended = read == 0;
            drop(runs);
            self.grown.notify_all();
            if read == 0 {
                return;
            }
        }
    }

    fn text(&self) -> String {
        self.lock().iter().map(|run| run.text.as_str()).collect()
    }
}

/// A running daemon. It is killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    command: DaemonCommand,
    child: Child,
    log: Arc<Log>,
}

impl Daemon {
    pub(crate) fn spawn(command: DaemonCommand) -> Result<Self> {
        let log = Arc::new(Log::default());
        let child = start(&command, &log)?;
        Ok(Self {
            command,
            child,
            log,
        })
    }

    /// The process identifier of the present run.
    #[must_use]
    pub fn pid(&self) -> i32 {
        pid_of(&self.child).as_raw_nonzero().get()
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the process at once (`SIGKILL`) and waits until it is gone.
    ///
    /// # Errors
    /// [`Error::Io`] if the process cannot be waited for.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        let attempt = format!("kill daemon {}", self.pid());
        self.child.kill().map_err(Error::io(attempt.as_str()))?;
        self.child.wait().map_err(Error::io(attempt))
    }

    /// Asks the process to end (`SIGTERM`) and waits until it has.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it does not; it then still runs.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(timeout)
    }

    /// Sends a signal, e.g. to stop and continue the process.
    ///
    /// # Errors
    /// [`Error::Io`] if the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        rustix::process::kill_process(pid_of(&self.child), signal)
            .map_err(Error::os(format!("signal daemon {}", self.pid())))
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it does not.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        wait_for_exit(&mut self.child, timeout)?.ok_or_else(|| Error::Timeout {
            what: format!("the end of daemon {}", self.pid()),
            waited: timeout,
            last: format!("it runs; its log:\n{}", self.log()),
        })
    }

    /// Starts the program again, as it was started before. Kills it first if it runs.
    ///
    /// # Errors
    /// [`Error::Io`] if the program cannot be started.
    pub fn restart(&mut self) -> Result<()> {
        if self.is_running() {
            self.kill()?;
        }
        self.child = start(&self.command, &self.log)?;
        Ok(())
    }

    /// Starts another program from now on: an upgrade takes effect at the next [`Self::restart`].
    pub fn replace_command(&mut self, command: DaemonCommand) {
        self.command = command;
    }

    /// Sets a variable of the environment from the next [`Self::restart`] on, or takes it away.
    pub fn set_variable(&mut self, name: &str, value: Option<String>) {
        let environment = &mut self.command.environment;
        environment.retain(|(known, _)| known != name);
        environment.extend(value.map(|value| (name.into(), value.into())));
    }

    /// What the process has written to its standard output and error so far, over all runs.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until the present run has written this text.
    ///
    /// # Errors
    /// [`Error::Timeout`] if it does not; [`Error::DaemonEnded`] if it ended without.
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let what = format!("{text:?} in its log");
        let log = Arc::clone(&self.log);
        let mut runs = log.lock();
        loop {
            let (found, ended) = runs
                .last()
                .map_or((false, false), |run| (run.text.contains(text), run.ended));
            if found {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if ended {
                drop(runs);
                return Err(Error::DaemonEnded {
                    status: self.wait(left)?.to_string(),
                    what,
                    log: self.log(),
                });
            }
            if left.is_zero() {
                drop(runs);
                return Err(Error::Timeout {
                    what,
                    waited: timeout,
                    last: self.log(),
                });
            }
            let (guard, _) = log
                .grown
                .wait_timeout(runs, left)
                .expect("no holder panicked");
            runs = guard;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if the process has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(command: &DaemonCommand, log: &Arc<Log>) -> Result<Child> {
    let attempt = format!("start {}", command.program.display());
    let (reader, writer) = std::io::pipe().map_err(Error::io(attempt.as_str()))?;
    let second_writer = writer.try_clone().map_err(Error::io(attempt.as_str()))?;
    let child = Command::new(&command.program)
        .args(&command.arguments)
        .envs(
            command
                .environment
                .iter()
                .map(|(name, value)| (name, value)),
        )
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(second_writer)
        .spawn()
        .map_err(Error::io(attempt))?;
    let (log, run) = (Arc::clone(log), log.begin_run());
    std::thread::spawn(move || log.collect(run, reader));
    Ok(child)
}
