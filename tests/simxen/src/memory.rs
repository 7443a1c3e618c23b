//! Memory that several processes share: a memfd and its mapping here. All unsafe memory access of the crate is in this
//! file.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::{Error, Result};

/// A memfd and its mapping, readable and writable, for as long as the value lives.
///
/// The other processes that map it may change any byte at any time; what is read here is whatever was there at that
/// moment.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    fd: OwnedFd,
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the pointer is to a shared mapping that lives until drop and is not tied to the thread that made it.
unsafe impl Send for SharedMemory {}
// SAFETY: every access through a shared reference is a raw copy or an atomic; no Rust reference to plain bytes of the
// mapping is ever made.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes `len` bytes of zeros; they use real memory only once touched.
    pub(crate) fn create(name: &str, len: usize) -> Result<Self> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)
            .map_err(Error::os(format!("create memfd {name}")))?;
        rustix::fs::ftruncate(&fd, len as u64)
            .map_err(Error::os(format!("size memfd {name} to {len} bytes")))?;
        Self::map(fd, len, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// Maps an existing memfd, for reading only: writing through the value then faults.
    #[cfg(test)]
    pub(crate) fn map_read_only(fd: OwnedFd, len: usize) -> Result<Self> {
        Self::map(fd, len, ProtFlags::READ)
    }

    fn map(fd: OwnedFd, len: usize, prot: ProtFlags) -> Result<Self> {
        // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing that exists.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, &fd, 0) }
                .map_err(Error::os(format!("map a memfd of {len} bytes")))?;
        let base = NonNull::new(base.cast::<u8>())
            .expect("the kernel does not place a mapping at address zero");
        Ok(Self { fd, base, len })
    }

    /// The memfd, for passing to another process.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "access of {len} bytes at {offset} is outside of {} bytes",
            self.len
        );
        // SAFETY: the assertion above keeps the result within the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }

    /// Copies bytes out. Panics if the range is outside of the memory.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        let from = self.at(offset, into.len());
        // SAFETY: `at` checked the source range; the destination is a Rust slice, which never lies in this mapping.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    /// Copies bytes in. Panics if the range is outside of the memory.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: `at` checked the destination range; the source is a Rust slice, which never lies in this mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Sets a range to one value. Panics if it is outside of the memory.
    pub(crate) fn fill(&self, offset: usize, len: usize, value: u8) {
        let to = self.at(offset, len);
        // SAFETY: `at` checked the range.
        unsafe { std::ptr::write_bytes(to, value, len) }
    }

    /// A 32-bit word of the memory. Panics if it is outside of the memory or not aligned.
    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        assert_eq!(offset % 4, 0, "offset {offset} is not aligned to a word");
        let at = self.at(offset, 4).cast::<u32>();
        // SAFETY: the word is in the mapping, aligned (the mapping is page aligned), and lives as long as `self`.
        unsafe { AtomicU32::from_ptr(at) }
    }

    /// A 64-bit word of the memory. Panics if it is outside of the memory or not aligned.
    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        assert_eq!(
            offset % 8,
            0,
            "offset {offset} is not aligned to a double word"
        );
        let at = self.at(offset, 8).cast::<u64>();
        // SAFETY: the word is in the mapping, aligned (the mapping is page aligned), and lives as long as `self`.
        unsafe { AtomicU64::from_ptr(at) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: base and len are those of the mapping made in `map`, and borrows of `self` have ended.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "unmapping {} bytes failed", self.len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn another_mapping_sees_what_was_written() {
        let memory = SharedMemory::create("test", 8192).unwrap();
        memory.write(4094, b"abcd");
        memory.atomic_u32(8).store(0x0403_0201, Ordering::Release);
        let other =
            SharedMemory::map_read_only(memory.fd().try_clone_to_owned().unwrap(), 8192).unwrap();
        let mut seen = [0; 4];
        other.read(4094, &mut seen);
        assert_eq!(&seen, b"abcd");
        other.read(8, &mut seen);
        assert_eq!(seen, 0x0403_0201_u32.to_ne_bytes());
    }

    #[test]
    #[should_panic(expected = "outside of 4096 bytes")]
    fn access_past_the_end_panics() {
        let memory = SharedMemory::create("test", 4096).unwrap();
        memory.write(4093, b"abcd");
    }
}
