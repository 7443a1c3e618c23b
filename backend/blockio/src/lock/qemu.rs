//! The byte locks of QEMU's file driver (`block/file-posix.c`).
//!
//! QEMU says with shared locks on single bytes what it does with a file and what it lets others do, and looks for
//! conflicts by asking whether an exclusive lock would be granted:
//!
//! - byte `100 + n` locked: the holder uses permission `n`;
//! - byte `200 + n` locked: the holder does **not** let others use permission `n`.
//!
//! Permissions: 0 consistent read, 1 write, 2 write unchanged, 3 resize, and more that do not matter here.

use super::{LockError, LockMode, WHOLE_FILE, byte, conflict, control, held, request, set};
use crate::file::BlockFile;

/// First of the bytes that say what a holder does (`RAW_LOCK_PERM_BASE`).
const USED_BASE: i64 = 100;
/// First of the bytes that say what a holder does not let others do (`RAW_LOCK_SHARED_BASE`).
const FORBIDDEN_BASE: i64 = 200;

/// `BLK_PERM_CONSISTENT_READ`.
const CONSISTENT_READ: i64 = 0;
/// `BLK_PERM_WRITE`.
const WRITE: i64 = 1;
/// `BLK_PERM_RESIZE`.
const RESIZE: i64 = 3;

/// The byte of our own: excludes, and is excluded by, an exclusive lock on the whole file.
const OWN_BYTE: i64 = 0;

/// Locks a raw base for reading: any number of readers may have it, among them QEMU and `qemu-img info`, but nobody
/// may write or resize it who honours these locks.
///
/// # Errors
///
/// [`LockError::Held`] if somebody writes the file, or does not let others read it, or holds it as a dscow image for
/// writing. No lock is left then.
pub fn lock_raw_base(file: &BlockFile) -> Result<(), LockError> {
    let result = take(file).and_then(|()| look_for_conflicts(file));
    if result.is_err() {
        let mut release = request(libc::F_UNLCK, WHOLE_FILE);
        // Locks that cannot be released go when the file is closed, which is what the caller does now.
        let _ = control(file, libc::F_OFD_SETLK, &mut release);
    }
    result
}

/// Says what we do. Before looking at what others do: two that start at the same time must see each other.
fn take(file: &BlockFile) -> Result<(), LockError> {
    let said = [
        OWN_BYTE,
        USED_BASE + CONSISTENT_READ,
        FORBIDDEN_BASE + WRITE,
        FORBIDDEN_BASE + RESIZE,
    ];
    said.into_iter()
        .try_for_each(|offset| set(file, LockMode::Shared, byte(offset)))
}

/// Looks whether others do what we do not allow, or do not allow what we do.
fn look_for_conflicts(file: &BlockFile) -> Result<(), LockError> {
    let mode = LockMode::Shared;
    for offset in [
        FORBIDDEN_BASE + CONSISTENT_READ,
        USED_BASE + WRITE,
        USED_BASE + RESIZE,
    ] {
        // Asking is allowed on a file open for reading only, where taking an exclusive lock is not.
        let found = conflict(file, LockMode::Exclusive, byte(offset)).map_err(|cause| {
            LockError::Failed {
                path: file.path().to_owned(),
                mode,
                cause,
            }
        })?;
        if found.is_some() {
            return Err(held(file, mode, found.as_ref()));
        }
    }
    Ok(())
}
