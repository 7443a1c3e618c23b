//! One daemon for each runtime directory: what is in it, the run states above all, belongs to one process at a time.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

/// Name of the file in the runtime directory that the running daemon has locked. It stays when the daemon ends; the lock does not.
const FILE: &str = "daemon.lock";

/// Why this process is not the one.
#[derive(Debug, Error)]
pub(crate) enum SoleError {
    /// Another process is.
    #[error("{}: is locked: another cowbackd is running", .0.display())]
    Taken(PathBuf),
    /// Nobody can be.
    #[error("{}: cannot be locked: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
}

/// Proof that no other daemon works with the runtime directory, until it is dropped.
pub(crate) struct Sole {
    _locked: File,
}

impl Sole {
    /// Makes the directory if it is not there, and locks it for this process.
    pub(crate) fn become_in(runtime_dir: &Path) -> Result<Self, SoleError> {
        let path = runtime_dir.join(FILE);
        let file = open(runtime_dir, &path);
        let locked =
            file.and_then(
                |file| match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => Ok(Some(file)),
                    Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
                    Err(error) => Err(error.into()),
                },
            );
        match locked {
            Ok(Some(file)) => Ok(Self { _locked: file }),
            Ok(None) => Err(SoleError::Taken(path)),
            Err(cause) => Err(SoleError::File { path, cause }),
        }
    }
}

fn open(runtime_dir: &Path, path: &Path) -> io::Result<File> {
    fs::create_dir_all(runtime_dir)?;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let runtime_dir = folder.path().join("run");
        let first = Sole::become_in(&runtime_dir).unwrap();
        let Err(SoleError::Taken(path)) = Sole::become_in(&runtime_dir) else {
            panic!("there are two");
        };
        assert_eq!(path, runtime_dir.join("daemon.lock"));
        drop(first);
        Sole::become_in(&runtime_dir).unwrap();
    }

    #[test]
    fn what_cannot_be_locked_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let runtime_dir = folder.path().join("run");
        fs::write(&runtime_dir, "a file").unwrap();
        let error = Sole::become_in(&runtime_dir).err().unwrap().to_string();
        assert!(
            error.contains("run/daemon.lock: cannot be locked: "),
            "{error}"
        );
    }
}
