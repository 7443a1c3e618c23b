//! Whether storage answers without having its caller sleep.

use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;

use super::BlockFile;
use crate::buffer::AlignedBuf;

/// Bytes that are read to find out; a multiple of any alignment that images are opened with.
const PROBE: usize = 4096;

/// How often it is read in a row without a sleep, to be sure that none was spared by chance.
const PROBES: usize = 4;

impl BlockFile {
    /// Whether a read past the page cache is answered by its storage without having the reader sleep: it is memory, like a RAM
    /// disk. It is found out when the file is opened. Unknown, and so `false`, of files that are buffered or empty or in file
    /// systems other than ext4, XFS and tmpfs, and of devices.
    pub fn answers_at_once(&self) -> bool {
        self.answers_at_once
    }

    /// Has it taken for granted, so that a test does not depend on what there is.
    #[cfg(any(test, feature = "faults"))]
    pub fn assume_answers_at_once(&mut self) {
        self.answers_at_once = true;
    }

    pub(super) fn find_out_answers_at_once(&mut self) {
        if !self.direct() || !self.direct_reads_are_of_storage() {
            return;
        }
        let mut memory = AlignedBuf::zeroed(PROBE);
        let mut is_read = || matches!(self.file.read_at(memory.as_mut_slice(), 0), Ok(PROBE));
        // The first time may have to wait for what was written before.
        if !is_read() {
            return;
        }
        let before = sleeps();
        let at_once = || before.is_some() && sleeps() == before;
        self.answers_at_once = (0..PROBES).all(|_| is_read() && at_once());
    }
}

/// How often the calling thread has slept in the kernel so far, by the kernel's account (`getrusage`), or `None` if it does
/// not tell. To lose the processor to others does not count.
pub(crate) fn sleeps() -> Option<i64> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes no more than the structure.
    let told = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) } == 0;
    // SAFETY: it is all numbers, for which zeros are valid too.
    let usage = unsafe { usage.assume_init() };
    told.then_some(usage.ru_nvcsw)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::file::{Access, Caching};
    use crate::testing::not_tested;

    #[test]
    fn a_sleep_counts_and_work_does_not() {
        let before = sleeps().unwrap();
        let sum = (0..1_000_000_u64).fold(0, u64::wrapping_add);
        assert!(sum > 0);
        assert_eq!(sleeps(), Some(before));
        std::thread::sleep(Duration::from_millis(1));
        assert!(sleeps().unwrap() > before);
    }

    #[test]
    fn memory_answers_at_once() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
            return not_tested("storage that answers at once", "there is no /dev/shm");
        };
        let path = folder.path().join("image");
        std::fs::write(&path, [1; 4096]).unwrap();
        let file = BlockFile::open(&path, Access::ReadWrite, Caching::DIRECT).unwrap();
        // Before Linux 6.6 tmpfs has no direct I/O.
        assert_eq!(file.answers_at_once(), file.direct());
    }

    #[test]
    fn nothing_is_known_of_files_that_are_buffered_or_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        for (contents, caching) in [(4096, Caching::Buffered), (0, Caching::DIRECT)] {
            std::fs::write(&path, vec![1; contents]).unwrap();
            let file = BlockFile::open(&path, Access::ReadWrite, caching).unwrap();
            assert!(!file.answers_at_once(), "{contents} bytes, {caching:?}");
        }
    }
}
