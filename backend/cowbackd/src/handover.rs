//! Whether the daemon before this one stopped in order.
//!
//! A daemon that stops answers what it has taken before, so that a ring stands exactly where its responses stand, and
//! the next one can go on from there. One that was killed leaves no such ring: of the requests that it took it is not
//! known which were answered, since responses come out of order. To execute one again that was answered already would
//! write what its pages hold now over a sector that the guest believes to be settled.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::daemon::{DaemonError, failed};

/// The file in the runtime directory by which a daemon says that it stopped in order.
const MARKER: &str = "stopped-in-order";

/// How the daemon before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handover {
    /// It drained every ring and closed every image.
    InOrder,
    /// It was killed, or there was none since the host started.
    None,
}

impl Handover {
    /// Finds out, and takes the marker away, so that it cannot speak for this daemon.
    pub(crate) fn take(runtime_dir: &Path) -> Result<Self, DaemonError> {
        match fs::remove_file(marker(runtime_dir)) {
            Ok(()) => Ok(Self::InOrder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::None),
            Err(error) => Err(failed("take over from the daemon before")(error)),
        }
    }

    /// Leaves the marker for the next daemon.
    pub(crate) fn leave(runtime_dir: &Path) -> Result<(), DaemonError> {
        fs::write(marker(runtime_dir), "").map_err(failed("hand over to the next daemon"))
    }
}

fn marker(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join(MARKER)
}
