//! What the daemon is to be like: what its command line says, else what its configuration file says, else the defaults.

use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{self, Path, PathBuf};
use std::thread;

use serde::Deserialize;
use thiserror::Error;

use crate::Options;
use crate::logging;

/// The file that is read if it is there and no other is named.
const DEFAULT_FILE: &str = "/etc/cowback/cowbackd.toml";

/// What is logged if nobody says otherwise.
const DEFAULT_LOG: &str = "info";

/// Where the control socket and what outlives the daemon are, if nobody says otherwise.
const DEFAULT_RUNTIME_DIR: &str = "/run/cowback";

/// Most queues of a disk.
const QUEUES_MAX: u8 = 8;

/// Most worker threads: more than any dom0 has cores to run them.
const WORKERS_MAX: usize = 256;

/// How many workers and queues there are by themselves, if there are as many cores: a worker can serve many disks, and dom0 has
/// other work.
const BY_CORES_MAX: u8 = 4;

/// What the daemon is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where the control socket is, and what the next daemon needs.
    pub(crate) runtime_dir: PathBuf,
    /// How many worker threads there are; by the number of cores if not given.
    workers: Option<NonZeroUsize>,
    /// How many queues a disk may have; by the number of cores if not given.
    queues: Option<u8>,
    /// Who reaches the control socket.
    pub(crate) control_access: ControlAccess,
    /// A file system in memory, where xentop looks.
    pub(crate) shared_memory: PathBuf,
    /// What is logged: a level, and levels for parts.
    pub(crate) log: String,
}

/// Who reaches the control socket.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ControlAccess {
    /// The daemon's own user and root, who may do everything
    #[default]
    Root,
    /// The daemon's group as well, who may look and change nothing
    Group,
}

/// The settings as a configuration file would say them.
impl fmt::Display for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            runtime_dir,
            workers,
            queues,
            control_access,
            shared_memory: _,
            log,
        } = self;
        writeln!(
            formatter,
            "runtime-dir = {:?}",
            runtime_dir.display().to_string()
        )?;
        match workers {
            Some(workers) => writeln!(formatter, "workers = {workers}")?,
            None => writeln!(
                formatter,
                "# workers = {}, by the number of cores",
                by_cores()
            )?,
        }
        match queues {
            Some(queues) => writeln!(formatter, "queues = {queues}")?,
            None => writeln!(
                formatter,
                "# queues = {}, by the number of cores",
                by_cores()
            )?,
        }
        let control_access = match control_access {
            ControlAccess::Root => "root",
            ControlAccess::Group => "group",
        };
        writeln!(formatter, "control-access = {control_access:?}")?;
        write!(formatter, "log = {log:?}")
    }
}

/// The configuration file. What it does not know is an error: a setting that is misspelt must not be ignored.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    runtime_dir: Option<PathBuf>,
    workers: Option<NonZeroUsize>,
    queues: Option<u8>,
    control_access: Option<ControlAccess>,
    log: Option<String>,
}

/// Why the daemon's settings cannot be used.
#[derive(Debug, Error)]
pub(crate) enum SettingsError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: io::Error },
    /// The file is not understood. The cause names the line.
    #[error("{}: {cause}", path.display())]
    Syntax {
        path: PathBuf,
        cause: Box<toml::de::Error>,
    },
    /// A setting makes no sense.
    #[error("{place}: {cause}")]
    Value { place: String, cause: String },
}

impl Settings {
    /// Gathers the settings, and checks all of them.
    pub(crate) fn gather(options: &Options) -> Result<Self, SettingsError> {
        let default = Path::new(DEFAULT_FILE);
        let (path, must_be_there) = match &options.config {
            Some(path) => (path.as_path(), true),
            None => (default, false),
        };
        let file = File::read(path, must_be_there)?;
        let in_file = |setting: &str| format!("{}: {setting}", path.display());
        for (place, workers) in [
            ("--workers".to_owned(), options.workers),
            (in_file("workers"), file.workers),
        ] {
            if let Some(workers) = workers.filter(|workers| workers.get() > WORKERS_MAX) {
                let cause = format!("{workers} is not between 1 and {WORKERS_MAX}");
                return Err(SettingsError::Value { place, cause });
            }
        }
        if let Some(queues) = file.queues
            && !(1..=QUEUES_MAX).contains(&queues)
        {
            return Err(SettingsError::Value {
                place: in_file("queues"),
                cause: format!("{queues} is not between 1 and {QUEUES_MAX}"),
            });
        }
        if let Some(folder) = &file.runtime_dir
            && !folder.is_absolute()
        {
            return Err(SettingsError::Value {
                place: in_file("runtime-dir"),
                cause: format!("{} is not an absolute path", folder.display()),
            });
        }
        let (log, place) = match (&options.log, file.log) {
            (Some(log), _) => (log.clone(), format!("--log (or COWBACKD_LOG) {log}")),
            (None, Some(log)) => (log, in_file("log")),
            (None, None) => (DEFAULT_LOG.to_owned(), String::new()),
        };
        logging::check(&log).map_err(|cause| SettingsError::Value {
            place,
            cause: cause.to_string(),
        })?;
        let control_access = options.control_access.or(file.control_access);
        let runtime_dir = options.runtime_dir.clone().or(file.runtime_dir);
        let runtime_dir = runtime_dir.unwrap_or_else(|| DEFAULT_RUNTIME_DIR.into());
        // What is said on a command line is meant from where that was given.
        let runtime_dir = path::absolute(runtime_dir).map_err(|cause| SettingsError::Value {
            place: "--runtime-dir".to_owned(),
            cause: cause.to_string(),
        })?;
        Ok(Self {
            runtime_dir,
            workers: options.workers.or(file.workers),
            queues: options.queues.or(file.queues),
            control_access: control_access.unwrap_or_default(),
            shared_memory: options.shared_memory.clone(),
            log,
        })
    }

    /// How many worker threads there are.
    pub(crate) fn workers(&self) -> usize {
        self.workers
            .map_or_else(|| by_cores().into(), NonZeroUsize::get)
    }

    /// How many queues a disk may have.
    pub(crate) fn queues(&self) -> u8 {
        self.queues.unwrap_or_else(by_cores)
    }
}

/// The number of cores, but not too many.
fn by_cores() -> u8 {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    u8::try_from(cores).map_or(BY_CORES_MAX, |cores| cores.min(BY_CORES_MAX))
}

impl File {
    fn read(path: &Path, must_be_there: bool) -> Result<Self, SettingsError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be_there => {
                return Ok(Self::default());
            }
            Err(cause) => {
                let path = path.to_owned();
                return Err(SettingsError::Unreadable { path, cause });
            }
        };
        toml::from_str(&text).map_err(|cause| SettingsError::Syntax {
            path: path.to_owned(),
            cause: Box::new(cause),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// What a file and a command line come to.
    fn gather(text: &str, arguments: &[&str]) -> Result<Settings, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cowbackd.toml");
        fs::write(&path, text).unwrap();
        let named = ["cowbackd", "--config", path.to_str().unwrap()];
        let options = Options::parse_from(named.iter().chain(arguments));
        let folder = folder.path().to_str().unwrap();
        Settings::gather(&options).map_err(|error| error.to_string().replace(folder, "DIR"))
    }

    #[test]
    fn the_command_line_goes_before_the_file_and_that_before_the_defaults() {
        let plain = gather("", &[]).unwrap();
        let expected = Settings {
            runtime_dir: "/run/cowback".into(),
            workers: None,
            queues: None,
            control_access: ControlAccess::Root,
            shared_memory: "/dev/shm".into(),
            log: "info".into(),
        };
        assert_eq!(plain, expected);
        let text = "runtime-dir = '/run/other'\nworkers = 2\nqueues = 3\ncontrol-access = 'group'\nlog = 'debug'\n";
        let of_file = Settings {
            runtime_dir: "/run/other".into(),
            workers: NonZeroUsize::new(2),
            queues: Some(3),
            control_access: ControlAccess::Group,
            shared_memory: "/dev/shm".into(),
            log: "debug".into(),
        };
        assert_eq!(gather(text, &[]).unwrap(), of_file);
        let both = gather(text, &["--queues", "8", "--log", "warn"]).unwrap();
        let expected = Settings {
            queues: Some(8),
            log: "warn".into(),
            ..of_file
        };
        assert_eq!(both, expected);
        // What is shown is a file that says the same.
        assert_eq!(gather(&both.to_string(), &[]).unwrap(), both);
        assert_eq!(gather(&plain.to_string(), &[]).unwrap(), plain);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, arguments, parts) in [
            (
                "worker = 2",
                &[][..],
                &[
                    "DIR/cowbackd.toml",
                    "line 1",
                    "unknown field `worker`",
                    "`workers`",
                ][..],
            ),
            ("workers = 0", &[], &["line 1", "nonzero"]),
            ("workers = 'two'", &[], &["line 1", "invalid type"]),
            (
                "queues = 9",
                &[],
                &["cowbackd.toml: queues: 9 is not between 1 and 8"],
            ),
            ("queues = 0", &[], &["is not between"]),
            (
                "runtime-dir = 'run'",
                &[],
                &["runtime-dir: run is not an absolute path"],
            ),
            ("log = 'a=b=c'", &[], &["cowbackd.toml: log: "]),
            (
                "",
                &["--log", "a=b=c"],
                &["--log (or COWBACKD_LOG) a=b=c: "],
            ),
            (
                "workers = 257",
                &[],
                &["cowbackd.toml: workers: 257 is not between 1 and 256"],
            ),
            (
                "",
                &["--workers", "1000"],
                &["--workers: 1000 is not between 1 and 256"],
            ),
            ("workers = 1\nworkers = 2", &[], &["line 2", "duplicate"]),
            ("[section]", &[], &["unknown field `section`"]),
        ] {
            let error = gather(text, arguments).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
        let options = Options::parse_from(["cowbackd", "--config", "/nowhere/c.toml"]);
        let error = Settings::gather(&options).unwrap_err().to_string();
        assert!(
            error.starts_with("/nowhere/c.toml: cannot be read: "),
            "{error}"
        );
    }
}
