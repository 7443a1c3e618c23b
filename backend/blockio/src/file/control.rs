//! Blocking reads, writes and changes of size, for control paths. Any offset and length will do, also on a file open
//! for direct I/O: what is not aligned goes through a bounce buffer.

use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::FallocateFlags;

use super::{BlockFile, FileKind, ZEROS};
use crate::buffer::AlignedBuf;

/// Bytes moved at a time through a bounce buffer.
const BOUNCE_SIZE: usize = 1 << 20;

impl BlockFile {
    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` if the file ends before; otherwise what the kernel says.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let Some(alignment) = self.dio_alignment() else {
            return self.file.read_exact_at(bytes, offset);
        };
        let mut done = 0;
        let mut bounce = AlignedBuf::zeroed(bounce_size(bytes.len()));
        while done < bytes.len() {
            let window = window(offset + done as u64, bytes.len() - done, alignment.offset);
            let filled = self.fill(&mut bounce.as_mut_slice()[..window.outer_len], window.start)?;
            let Some(part) = bounce.as_slice()[..filled].get(window.inner.clone()) else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            bytes[done..done + part.len()].copy_from_slice(part);
            done += part.len();
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`. On a file open for direct I/O, unaligned edges are read, changed and written back,
    /// so nobody else may be writing those sectors; and a file that it makes longer ends on a multiple of the
    /// alignment.
    ///
    /// # Errors
    ///
    /// What the kernel says. Part of the bytes may have been written.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let Some(alignment) = self.dio_alignment() else {
            return self.file.write_all_at(bytes, offset);
        };
        let mut done = 0;
        let mut bounce = AlignedBuf::zeroed(bounce_size(bytes.len()));
        while done < bytes.len() {
            let window = window(offset + done as u64, bytes.len() - done, alignment.offset);
            let outer = &mut bounce.as_mut_slice()[..window.outer_len];
            if window.inner != (0..window.outer_len) {
                let filled = self.fill(outer, window.start)?;
                outer[filled..].fill(0);
            }
            let count = window.inner.len();
            outer[window.inner].copy_from_slice(&bytes[done..done + count]);
            self.file.write_all_at(outer, window.start)?;
            done += count;
        }
        Ok(())
    }

    /// Reads until `bytes` is full or the file ends, and returns how many bytes there were.
    pub(super) fn fill(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => return Err(cause),
            }
            // A direct read that stops inside a block has met the end of the file.
            if self
                .dio_alignment()
                .is_some_and(|alignment| !done.is_multiple_of(alignment.offset as usize))
            {
                break;
            }
        }
        Ok(done)
    }

    /// Makes all written data durable, and of the metadata what is needed to read it (`fdatasync`).
    ///
    /// # Errors
    ///
    /// What the kernel says. After an error the state of earlier writes is unknown: trying again proves nothing.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes all written data and metadata durable (`fsync`).
    ///
    /// # Errors
    ///
    /// As for [`BlockFile::sync_data`].
    pub fn sync_all(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Sets the size of a regular file in bytes; new bytes are a hole.
    ///
    /// # Errors
    ///
    /// What the kernel says; block devices cannot change.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    /// Sees to it that the file is at least `len` bytes long: a regular file is made longer by a hole, a block device
    /// has to be large enough.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if the device is too small; otherwise what the kernel says.
    pub fn ensure_len(&self, len: u64) -> io::Result<()> {
        if self.size()? >= len {
            return Ok(());
        }
        match self.kind() {
            FileKind::Regular => self.set_len(len),
            FileKind::BlockDevice => Err(rustix::io::Errno::NOSPC.into()),
        }
    }

    /// The bytes of storage that a regular file takes; the size of a block device.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn allocated_bytes(&self) -> io::Result<u64> {
        match self.kind() {
            // st_blocks counts in 512 bytes, whatever the file system's block size is.
            FileKind::Regular => Ok(self.file.metadata()?.blocks() * 512),
            FileKind::BlockDevice => self.size(),
        }
    }

    /// Makes a range read as zeros, giving its storage back where that is possible. Does not change the size unless
    /// zeros have to be written past the end.
    ///
    /// # Errors
    ///
    /// What the kernel says. Part of the range may be zero already.
    pub fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let mut method = self.zero_method();
        while let Some(mode) = method.fallocate_mode() {
            let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
            match retrying(|| rustix::fs::fallocate(&self.file, flags, offset, len)) {
                Ok(()) => return Ok(()),
                Err(errno) => method = method.next_after(errno.raw_os_error()).ok_or(errno)?,
            }
        }
        self.write_zeros(offset, len)
    }

    /// Gives the storage of a range of a file back; it reads as zeros then. The size stays.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the file system cannot.
    pub fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(retrying(|| {
            rustix::fs::fallocate(&self.file, flags, offset, len)
        })?)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        let mut at = offset;
        while at < end {
            let count = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(ZEROS.0.len());
            self.write_all_at(&ZEROS.0[..count], at)?;
            at += count as u64;
        }
        Ok(())
    }
}

fn retrying(mut call: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Enough for `len` bytes that are aligned at neither end, within reason. The coarsest alignment known is that of
/// the buffers themselves.
fn bounce_size(len: usize) -> usize {
    len.next_multiple_of(crate::buffer::BUFFER_ALIGNMENT)
        .saturating_add(crate::buffer::BUFFER_ALIGNMENT)
        .min(BOUNCE_SIZE)
}

/// An aligned part of the file, and the bytes within it that are wanted.
struct Window {
    start: u64,
    outer_len: usize,
    inner: Range<usize>,
}

/// The first window for `len` bytes at `offset`, with edges on multiples of `alignment`.
fn window(offset: u64, len: usize, alignment: u32) -> Window {
    let skipped = offset % u64::from(alignment);
    let skip = usize::try_from(skipped).expect("less than the alignment");
    let outer_len = (skip + len.min(BOUNCE_SIZE))
        .next_multiple_of(alignment as usize)
        .min(BOUNCE_SIZE);
    Window {
        start: offset - skipped,
        outer_len,
        inner: skip..outer_len.min(skip + len),
    }
}
