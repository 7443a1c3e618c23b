//! Locks on images and bases: open-file-description locks, which belong to the open file and not to the process.
//!
//! So a second open of an image conflicts with the first also within one process. Locks are taken on a [`BlockFile`]
//! and are released by [`unlock`] or with it. If the process dies instead, they last until the last use of the open
//! file is gone, that is, until the kernel has finished the dead process's operations in flight.
//!
//! - A dscow image is locked as a whole: exclusively for writing ([`lock_exclusive`]), shared for reading
//!   ([`lock_shared`]).
//! - A raw base is locked by [`lock_raw_base`] in the bytes that QEMU's file driver uses, so that QEMU and `qemu-img`
//!   refuse to write it while we read it, and by a shared lock on byte 0, which conflicts with an exclusive lock of
//!   the whole file.

mod holder;
mod qemu;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use libc::c_int;
use thiserror::Error;

pub use holder::Holder;
pub use qemu::lock_raw_base;

use crate::file::{Access, BlockFile};

/// How a file is to be locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockMode {
    /// By any number of readers.
    Shared,
    /// By one writer alone.
    Exclusive,
}

impl fmt::Display for LockMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            LockMode::Shared => "reading",
            LockMode::Exclusive => "writing",
        })
    }
}

/// Why a file could not be locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody holds a lock that excludes ours.
    #[error("{}: cannot be locked for {mode}: it is in use by {holder}", path.display())]
    Held {
        /// The file.
        path: PathBuf,
        /// What we wanted.
        mode: LockMode,
        /// Who holds it, as far as it can be known.
        holder: Holder,
    },
    /// Writing was asked for on a file opened for reading.
    #[error("{}: cannot be locked for writing: it is open for reading only", .0.display())]
    ReadOnly(PathBuf),
    /// The kernel or the file system refused.
    #[error("{}: cannot be locked for {mode}: {cause}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What we wanted.
        mode: LockMode,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
}

/// How long to wait for a lock that ends by itself: a process that was killed holds its locks until the kernel is done with
/// its last operations, which reading one of its images must wait for as much as writing it.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How long [`patiently`] waits between two tries.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// Locks a whole image for writing, or turns a shared lock of the same open file into an exclusive one.
///
/// # Errors
///
/// [`LockError::Held`] if anybody else has locked any of it; [`LockError::ReadOnly`] if it is not open for writing.
pub fn lock_exclusive(file: &BlockFile) -> Result<(), LockError> {
    if file.access() == Access::ReadOnly {
        return Err(LockError::ReadOnly(file.path().to_owned()));
    }
    set(file, LockMode::Exclusive, WHOLE_FILE)
}

/// Takes a lock by one of the functions here, and waits up to `patience` for it to become free. Blocks the thread.
///
/// # Errors
///
/// As for `lock`.
pub fn patiently(
    patience: Duration,
    file: &BlockFile,
    lock: impl Fn(&BlockFile) -> Result<(), LockError>,
) -> Result<(), LockError> {
    let begun = Instant::now();
    loop {
        match lock(file) {
            // The kernel can wait for a lock, but not with a limit.
            Err(LockError::Held { .. }) if begun.elapsed() < patience => {
                thread::sleep(RETRY_INTERVAL);
            }
            result => return result,
        }
    }
}

/// Locks a whole image for reading, or turns an exclusive lock of the same open file into a shared one.
///
/// # Errors
///
/// [`LockError::Held`] if somebody else has locked any of it for writing.
pub fn lock_shared(file: &BlockFile) -> Result<(), LockError> {
    set(file, LockMode::Shared, WHOLE_FILE)
}

/// Releases all locks of the open file at once, without waiting for its last use to end.
///
/// # Errors
///
/// [`LockError::Failed`] if the file system cannot be reached.
pub fn unlock(file: &BlockFile) -> Result<(), LockError> {
    let mut request = request(libc::F_UNLCK, WHOLE_FILE);
    control(file, libc::F_OFD_SETLK, &mut request).map_err(|cause| LockError::Failed {
        path: file.path().to_owned(),
        mode: LockMode::Shared,
        cause,
    })
}

/// The whole file, however long it is or becomes: the end is said as 0 to the kernel.
const WHOLE_FILE: Range<i64> = 0..i64::MAX;

/// One byte.
fn byte(offset: i64) -> Range<i64> {
    offset..offset + 1
}

/// Locks a range of bytes, if nobody holds what excludes it.
fn set(file: &BlockFile, mode: LockMode, range: Range<i64>) -> Result<(), LockError> {
    let mut wanted = request(lock_type(mode), range.clone());
    let Err(cause) = control(file, libc::F_OFD_SETLK, &mut wanted) else {
        return Ok(());
    };
    if !matches!(cause.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) {
        return Err(LockError::Failed {
            path: file.path().to_owned(),
            mode,
            cause,
        });
    }
    // Who it was may have gone meanwhile; then the holder is unknown.
    let conflict = conflict(file, mode, range).ok().flatten();
    Err(held(file, mode, conflict.as_ref()))
}

/// A lock of somebody else that would exclude ours, if there is one.
fn conflict(
    file: &BlockFile,
    mode: LockMode,
    range: Range<i64>,
) -> io::Result<Option<libc::flock>> {
    let mut found = request(lock_type(mode), range);
    control(file, libc::F_OFD_GETLK, &mut found)?;
    Ok((c_int::from(found.l_type) != libc::F_UNLCK).then_some(found))
}

fn held(file: &BlockFile, mode: LockMode, conflict: Option<&libc::flock>) -> LockError {
    let holder = conflict.map_or(Holder::UNKNOWN, |conflict| Holder::find(file, conflict));
    LockError::Held {
        path: file.path().to_owned(),
        mode,
        holder,
    }
}

fn lock_type(mode: LockMode) -> c_int {
    match mode {
        LockMode::Shared => libc::F_RDLCK,
        LockMode::Exclusive => libc::F_WRLCK,
    }
}

fn request(lock_type: c_int, range: Range<i64>) -> libc::flock {
    let len = if range.end == i64::MAX {
        0
    } else {
        range.end - range.start
    };
    libc::flock {
        l_type: i16::try_from(lock_type).expect("lock types are 0, 1 and 2"),
        l_whence: i16::try_from(libc::SEEK_SET).expect("SEEK_SET is 0"),
        l_start: range.start,
        l_len: len,
        // The kernel insists on 0 for locks of open files.
        l_pid: 0,
    }
}

/// `fcntl` with one of the commands on locks of open files.
fn control(file: &BlockFile, command: c_int, request: &mut libc::flock) -> io::Result<()> {
    loop {
        // SAFETY: the descriptor is open, and the commands used here take a pointer to a `flock`, which is valid and
        // exclusively borrowed.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut *request) };
        if result == 0 {
            return Ok(());
        }
        let cause = io::Error::last_os_error();
        if cause.kind() != io::ErrorKind::Interrupted {
            return Err(cause);
        }
    }
}
