//! Why a file cannot be opened.

use std::fs::FileType;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use thiserror::Error;

/// A file that cannot be opened as an image: which, and why, in one sentence.
#[derive(Debug, Error)]
#[error("{}: {problem}", path.display())]
pub struct OpenError {
    /// The path as it was given.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: OpenProblem,
}

/// What is wrong with a file that cannot be opened.
#[derive(Debug, Error)]
pub enum OpenProblem {
    /// Nothing is there.
    #[error("does not exist")]
    Missing,
    /// It is a directory.
    #[error("is a directory, not an image")]
    Directory,
    /// It is something else that holds no blocks.
    #[error("is {0}, not a regular file or block device")]
    NotAFile(&'static str),
    /// The process may not open it this way.
    #[error("permission denied")]
    PermissionDenied,
    /// It is to be written, but its file system is mounted read-only.
    #[error("is on a read-only file system and cannot be opened for writing")]
    ReadOnlyFileSystem,
    /// It is to be written, but it is a device set read-only.
    #[error("is a read-only device and cannot be opened for writing")]
    ReadOnlyDevice,
    /// It is a device node whose device is not there, or holds no medium.
    #[error("is a device node without a device behind it")]
    NoDevice,
    /// It is in use in a way that excludes us: a program being run, a swap file.
    #[error("is in use by the system and cannot be opened for writing")]
    Busy,
    /// It is a device that something on this host uses as a whole.
    #[error("is mounted, or claimed by a volume group, an array or another program")]
    Claimed,
    /// Another file has taken its place while it was being opened.
    #[error("was replaced while it was being opened")]
    Replaced,
    /// Any other reason.
    #[error("cannot be opened: {0}")]
    Other(#[source] io::Error),
}

impl OpenError {
    pub(super) fn new(path: &Path, problem: OpenProblem) -> Self {
        Self {
            path: path.to_owned(),
            problem,
        }
    }

    pub(super) fn other(path: &Path, cause: io::Error) -> Self {
        Self::new(path, OpenProblem::Other(cause))
    }

    /// The refusal of `open`.
    pub(super) fn of_open(path: &Path, errno: Errno) -> Self {
        let problem = match errno {
            Errno::NOENT => OpenProblem::Missing,
            Errno::ISDIR => OpenProblem::Directory,
            Errno::ACCESS | Errno::PERM => OpenProblem::PermissionDenied,
            Errno::ROFS => OpenProblem::ReadOnlyFileSystem,
            Errno::TXTBSY | Errno::BUSY => OpenProblem::Busy,
            // A socket gives the same answer as a device node without a driver.
            Errno::NXIO | Errno::NODEV | Errno::NOMEDIUM => match std::fs::metadata(path) {
                Ok(metadata) if !metadata.file_type().is_block_device() => {
                    return Self::of_type(path, metadata.file_type());
                }
                _ => OpenProblem::NoDevice,
            },
            other => OpenProblem::Other(other.into()),
        };
        Self::new(path, problem)
    }

    /// It can be opened, but is of a type that holds no blocks.
    pub(super) fn of_type(path: &Path, file_type: FileType) -> Self {
        let problem = if file_type.is_dir() {
            OpenProblem::Directory
        } else if file_type.is_char_device() {
            OpenProblem::NotAFile("a character device")
        } else if file_type.is_fifo() {
            OpenProblem::NotAFile("a FIFO")
        } else if file_type.is_socket() {
            OpenProblem::NotAFile("a socket")
        } else {
            OpenProblem::NotAFile("something else")
        };
        Self::new(path, problem)
    }
}
