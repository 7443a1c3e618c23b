//! Finding out who holds a lock, for the message that says so.
//!
//! The kernel names the holder of a classic POSIX lock. A lock of an open file has no process (it may be open in
//! several), so the kernel answers -1; but each process's `/proc/<pid>/fdinfo/<fd>` lists the locks of its open files.

use std::fmt;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

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
            _ => Lock::new(file, conflict).and_then(|lock| lock.find_holder()),
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

/// A lock of somebody else, as the listings in `/proc` show it.
struct Lock {
    /// Hexadecimal major and minor device numbers of the file, and its inode number.
    file: String,
    /// First byte.
    start: String,
    /// Last byte, or `EOF`.
    end: String,
    /// The listing of our own descriptor, which may have a lock on the same range.
    own_listing: PathBuf,
}

impl Lock {
    fn new(file: &BlockFile, conflict: &libc::flock) -> Option<Self> {
        let status = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::INO).ok()?;
        let (major, minor) = (status.stx_dev_major, status.stx_dev_minor);
        let end = match conflict.l_len {
            0 => "EOF".to_owned(),
            len => (conflict.l_start + len - 1).to_string(),
        };
        Some(Self {
            file: format!("{major:02x}:{minor:02x}:{}", status.stx_ino),
            start: conflict.l_start.to_string(),
            end,
            own_listing: format!("/proc/{}/fdinfo/{}", std::process::id(), file.as_raw_fd()).into(),
        })
    }

    /// The first process found to have an open file with the lock.
    fn find_holder(&self) -> Option<u32> {
        processes().find(|&pid| self.is_held_by(pid))
    }

    fn is_held_by(&self, pid: u32) -> bool {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
            return false;
        };
        let mut listings = descriptors.flatten().map(|descriptor| descriptor.path());
        listings.any(|listing| listing != self.own_listing && self.is_listed_in(&listing))
    }

    fn is_listed_in(&self, listing: &Path) -> bool {
        let Ok(text) = fs::read_to_string(listing) else {
            return false;
        };
        text.lines()
            .filter_map(|line| line.strip_prefix("lock:"))
            .any(|line| self.is_on(line))
    }

    /// Whether a line like `1: OFDLCK  ADVISORY  WRITE -1 fe:00:1234 0 EOF` is about this lock.
    fn is_on(&self, line: &str) -> bool {
        let words = line.split_whitespace().skip(5);
        words.eq([self.file.as_str(), &self.start, &self.end])
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

#[cfg(test)]
mod tests {
    use super::Lock;
    use crate::file::{Access, BlockFile, Caching};
    use crate::lock::{WHOLE_FILE, lock_shared, request};

    /// Who asks for more than the shared lock it has must hear about the other holder, not about itself.
    #[test]
    fn our_own_lock_is_not_taken_for_somebody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        std::fs::write(&path, b"").unwrap();
        let open = || BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
        let ours = open();
        lock_shared(&ours).unwrap();
        let whole = Lock::new(&ours, &request(libc::F_RDLCK, WHOLE_FILE)).unwrap();
        assert_eq!(whole.find_holder(), None);
        let theirs = open();
        lock_shared(&theirs).unwrap();
        assert_eq!(whole.find_holder(), Some(std::process::id()));
    }
}
