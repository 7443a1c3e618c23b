//! What went wrong with an operation.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// What an operation was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Making earlier writes durable.
    Sync,
    /// Making a range read as zeros.
    Zero,
    /// Reserving storage.
    Reserve,
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Action::Read => "read",
            Action::Write => "write",
            Action::Sync => "sync",
            Action::Zero => "zero",
            Action::Reserve => "reserve storage for",
        })
    }
}

/// Why an operation failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IoError {
    /// The kernel refused or failed.
    #[error("{}: cannot {action}{}: {}", path.display(), Range(*offset, *len), io::Error::from_raw_os_error(*errno))]
    Failed {
        /// What was attempted.
        action: Action,
        /// The path that the file was opened by.
        path: PathBuf,
        /// Start of the whole operation in bytes; 0 for a sync.
        offset: u64,
        /// Length of the whole operation in bytes; 0 for a sync.
        len: u64,
        /// The kernel's reason.
        errno: i32,
    },
    /// The operation named a file that is not, or no longer, registered with this executor.
    #[error("cannot {action}: the file is not registered with the executor")]
    NotRegistered {
        /// What was attempted.
        action: Action,
    },
}

impl IoError {
    pub(super) fn failed(action: Action, path: &Path, offset: u64, len: u64, errno: i32) -> Self {
        Self::Failed {
            action,
            path: path.to_owned(),
            offset,
            len,
            errno,
        }
    }

    /// The kernel's reason, as an errno value; `EBADF` for a file that is not registered.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Failed { errno, .. } => *errno,
            Self::NotRegistered { .. } => libc::EBADF,
        }
    }

    /// Whether the host has run out of space (or of quota), which room given later cures.
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno(), libc::ENOSPC | libc::EDQUOT)
    }
}

/// Writes a range as part of a message, or nothing where there is none (a sync).
struct Range(u64, u64);

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Range(0, 0) => Ok(()),
            Range(offset, len) => write!(formatter, " {len} bytes at offset {offset}"),
        }
    }
}
