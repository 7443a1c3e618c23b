//! Finding out who holds a lock, for the message that says so.
//!
//! The kernel names the holder of a classic POSIX lock. A lock of an open file has no process (it may be open in
//! several), so the kernel answers -1; but each process's `/proc/<pid>/fdinfo/<fd>` lists the locks of its open files.

use std::fmt;
use std::fs;
use std::path::Path;

use rustix::fs::{AtFlags, StatxFlags};

use crate::file::BlockFile;

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process, if it can be known: it may belong to another user or container, or have gone already.
    pub pid: Option<u32>,
    /// The name of its program, for people.
    pub program: Option<String>,
}

impl Holder {
    pub(super) const UNKNOWN: Holder = Holder {
        pid: None,
        program: None,
    };

    /// Finds the process behind a conflicting lock on `file`.
    pub(super) fn find(file: &BlockFile, conflict: &libc::flock) -> Self {
        let pid = match u32::try_from(conflict.l_pid) {
            Ok(pid) if pid > 0 => Some(pid),
            _ => LockedFile::of(file).and_then(|locked| locked.find_holder(conflict)),
        };
        Self {
            pid,
            program: pid.and_then(program_of),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.program) {
            (Some(pid), Some(program)) => write!(formatter, "process {pid} ({program})"),
            (Some(pid), None) => write!(formatter, "process {pid}"),
            (None, _) => {
                formatter.write_str("another process, or another opening of it in this one")
            }
        }
    }
}

/// A file as lock listings name it: hexadecimal major and minor device numbers, and the inode number.
struct LockedFile(String);

impl LockedFile {
    fn of(file: &BlockFile) -> Option<Self> {
        let status = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).ok()?;
        let (major, minor) = (status.stx_dev_major, status.stx_dev_minor);
        Some(Self(format!("{major:02x}:{minor:02x}:{}", status.stx_ino)))
    }

    /// The first process found to have an open file with the lock.
    fn find_holder(&self, conflict: &libc::flock) -> Option<u32> {
        processes().find(|&pid| self.is_held_by(pid, conflict))
    }

    fn is_held_by(&self, pid: u32, conflict: &libc::flock) -> bool {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
            return false;
        };
        descriptors
            .flatten()
            .any(|descriptor| self.is_locked_through(&descriptor.path(), conflict))
    }

    fn is_locked_through(&self, descriptor: &Path, conflict: &libc::flock) -> bool {
        let Ok(text) = fs::read_to_string(descriptor) else {
            return false;
        };
        text.lines()
            .filter_map(|line| line.strip_prefix("lock:"))
            .any(|line| self.is_lock(line, conflict))
    }

    /// Whether a line like `1: OFDLCK  ADVISORY  WRITE -1 fe:00:1234 0 EOF` is about this file and the range.
    fn is_lock(&self, line: &str, conflict: &libc::flock) -> bool {
        let mut words = line.split_whitespace().skip(5);
        let (Some(file), Some(start)) = (words.next(), words.next()) else {
            return false;
        };
        file == self.0 && start.parse() == Ok(conflict.l_start)
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn program_of(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}
