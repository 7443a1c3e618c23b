//! How a command ends.

use std::path::PathBuf;
use std::process::ExitCode;

use blockio::image::ImageError;
use thiserror::Error;

use crate::client::ClientError;

/// Why a command failed.
#[derive(Debug, Error)]
pub(crate) enum CommandError {
    /// Something is wrong with an image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A guest would lose its disk.
    #[error(
        "{}: is in use by a guest that waits for cowbackd, which is not running: start cowbackd first (or, to give up what the \
         guest has written last, remove {})",
        image.display(), run_state.display()
    )]
    GuestWaits {
        /// The image.
        image: PathBuf,
        /// What the daemon has left.
        run_state: PathBuf,
    },
    /// The daemon did not answer, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A guest might lose its disk: a daemon that was stopped in order leaves its images closed, with no word about their guests.
    #[error(
        "{}: {cause} It has left guests that wait for it, and one of them may be using this image: start cowbackd first",
        image.display()
    )]
    GuestsMayWait {
        /// The image.
        image: PathBuf,
        #[source]
        cause: ClientError,
    },
    /// Clients cannot be listened for.
    #[error(transparent)]
    Listen(#[from] nbd_server::ListenError),
    /// The export cannot be offered as asked for.
    #[error(transparent)]
    Export(#[from] nbd_server::ExportError),
    /// Serving failed.
    #[error(transparent)]
    Serve(#[from] nbd_server::RunError),
    /// No I/O is possible.
    #[error("cannot set up I/O: {0}")]
    Executor(#[source] std::io::Error),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signals(#[source] std::io::Error),
    /// The arguments do not fit each other.
    #[error("{0}")]
    Usage(String),
    /// The output could not be made.
    #[error("cannot write the output: {0}")]
    Output(#[from] serde_json::Error),
    /// The output could not be written.
    #[error("cannot write the output: {0}")]
    Print(#[source] std::io::Error),
    /// The JSON that was printed says already what failed.
    #[error(transparent)]
    Told(Box<CommandError>),
}

/// How a command that did its work ends.
pub(crate) enum Outcome {
    /// All is well.
    Done,
    /// Something is wrong with what was looked at.
    ProblemsFound,
    /// The disks differ, and the caller wants to know by the exit code.
    Different,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::ProblemsFound => Self::from(3),
            Outcome::Different => Self::from(4),
        }
    }
}

/// Result of a command.
pub(crate) type CommandResult = Result<Outcome, CommandError>;
