//! Why the program could not do its work. What it finds wrong with an image is no error, but a violation.

use std::io;
use std::path::{Path, PathBuf};

use blockio::image::ImageError;
use thiserror::Error;

use crate::log::LogError;

/// Why the program could not do its work.
#[derive(Debug, Error)]
pub enum Error {
    /// A file or device cannot be used.
    #[error("{}: cannot {action} it: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
    /// The workload's image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A request of the workload failed.
    #[error("{what} failed: {}", io::Error::from_raw_os_error(*errno))]
    Request {
        /// The request.
        what: String,
        /// The reason.
        errno: i32,
    },
    /// The executor is broken.
    #[error("the executor cannot go on: {0}")]
    Executor(#[source] io::Error),
    /// A line of the journal is not an event.
    #[error("{}: line {line} is not an event: {cause}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
    /// The log of writes cannot be understood.
    #[error("{}: {cause}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: LogError,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
}

/// Says what was attempted on which file.
pub(crate) trait IoContext<T> {
    fn context(self, path: &Path, action: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, path: &Path, action: &'static str) -> Result<T, Error> {
        self.map_err(|cause| Error::Io {
            path: path.to_owned(),
            action,
            cause: cause.into(),
        })
    }
}
