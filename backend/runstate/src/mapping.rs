//! A file as memory that other processes see too, and that stays when this one dies.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use crate::words::Words;

/// A shared mapping of a whole file. Whoever touches a part that has no storage yet, on a file system that is full, is
/// killed by the kernel: reserve it before.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<AtomicU32>,
    words: usize,
}

// SAFETY: it is memory that belongs to no thread, and is only accessed by atomic operations.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a file, a multiple of 4.
    pub(crate) fn of(file: &File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping, at an address of the kernel's choice, overlaps nothing.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )?
        };
        Ok(Self {
            start: NonNull::new(start.cast()).expect("a mapping is not at address 0"),
            words: len / size_of::<u32>(),
        })
    }

    fn word(&self, index: usize) -> &AtomicU32 {
        assert!(index < self.words, "word {index} is not in the run state");
        // SAFETY: the index is within the mapping.
        let word = unsafe { self.start.add(index) };
        // SAFETY: the mapping lasts as long as `self`, is readable and writable, and begins at a page, so that words are
        // aligned. Everybody accesses it by atomic operations only.
        unsafe { word.as_ref() }
    }
}

impl Words for Mapping {
    fn load(&self, index: usize) -> u32 {
        self.word(index).load(Ordering::Acquire)
    }

    fn store(&self, index: usize, value: u32) {
        self.word(index).store(value, Ordering::Release);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and nothing borrows from it any more.
        let unmapped = unsafe {
            rustix::mm::munmap(self.start.as_ptr().cast(), self.words * size_of::<u32>())
        };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be taken down");
    }
}
