//! The one place where this crate vouches for memory and descriptors that other crates own.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use blkif::{Segment, SharedMemory};
use blockio::buffer::{Buffer, IoMemory};
use smallvec::SmallVec;
use xenevtchn::XenEventChannel;
use xengnttab::{
    CopyDirection, DomId, Error, Gnttab, GrantRef, GrantStatus, Mapping, PAGE_SIZE, Page, RawCopy,
};

/// The mapped pages of a ring.
pub(super) struct RingMemory(pub(super) Mapping);

// SAFETY: a `Mapping` is page-aligned, stays mapped in its place until it is dropped, and was made for
// reading and writing (`Link` maps rings so). Nobody but the `BackRing` that owns this value accesses it.
unsafe impl SharedMemory for RingMemory {
    fn base(&self) -> NonNull<u8> {
        self.0.as_ptr()
    }

    fn len_bytes(&self) -> usize {
        self.0.len_bytes()
    }
}

/// Where a segment of a request lies within its page, in bytes.
#[derive(Clone, Copy)]
pub(super) struct PagePart {
    pub(super) offset: usize,
    pub(super) len: usize,
}

/// The data of a guest's request: parts of granted pages.
pub(super) struct GuestMemory {
    parts: SmallVec<[(Page<Mapping>, PagePart); 11]>,
}

impl GuestMemory {
    /// Parts of pages, in the order of the disk.
    ///
    /// # Panics
    /// If a part is not within its page: requests were validated before.
    pub(super) fn new(parts: impl IntoIterator<Item = (Page<Mapping>, PagePart)>) -> Self {
        let parts: SmallVec<[(Page<Mapping>, PagePart); 11]> = parts.into_iter().collect();
        for (_, part) in &parts {
            assert!(
                part.offset + part.len <= PAGE_SIZE,
                "a part is within its page"
            );
        }
        Self { parts }
    }
}

// SAFETY: each `Page` keeps its mapping in place until it is dropped, which is with this value; `new` checked
// that the parts are within the pages. Mapped foreign memory counts as initialised, and nobody makes
// references to it (`xengnttab` hands out raw pointers only). Pages of a write may be mapped for reading
// only: the engine never writes to the buffer of a write. Two parts that touch may lie in two mappings: all of
// it is memory that the kernel mapped and no Rust allocation, so a copy may run from one into the other.
unsafe impl IoMemory for GuestMemory {
    fn for_each_segment(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
        for (page, part) in &self.parts {
            // SAFETY: the offset is within the page, as checked in `new`.
            let start = unsafe { page.as_ptr().add(part.offset) };
            visit(start, part.len);
        }
    }
}

/// Copies between buffers of ours and granted pages, to be made together.
#[derive(Default)]
pub(super) struct GrantCopies {
    copies: Vec<RawCopy>,
    /// Keeps the memory of `copies` alive.
    buffers: Vec<Buffer>,
}

impl GrantCopies {
    /// Adds the copies between the segments and `buffer`, which nobody else uses until they are made; gives their places
    /// among the results of [`GrantCopies::run`].
    ///
    /// # Panics
    /// If the buffer is not as long as the segments together.
    pub(super) fn add(
        &mut self,
        direction: CopyDirection,
        segments: &[Segment],
        buffer: &Buffer,
    ) -> Range<usize> {
        let start = self.copies.len();
        let mut at = 0;
        for segment in segments {
            let mut offset = segment.byte_offset();
            let part = buffer.slice(at, segment.byte_len());
            part.for_each_piece(&mut |local, len| {
                self.copies.push(RawCopy {
                    gref: GrantRef(segment.gref().0),
                    offset,
                    local,
                    len,
                    direction,
                });
                offset += len;
            });
            at += segment.byte_len();
        }
        assert_eq!(at, buffer.len(), "a buffer for exactly these segments");
        self.buffers.push(buffer.clone());
        start..self.copies.len()
    }

    /// Makes them, with one call to the kernel, and forgets them.
    ///
    /// # Errors
    /// If the call failed as a whole.
    pub(super) fn run(
        &mut self,
        gnttab: &Gnttab,
        domid: DomId,
    ) -> Result<Vec<Result<(), GrantStatus>>, Error> {
        // SAFETY: the buffers, which are kept until after the call, keep their memory mapped, and never let a reference
        // to it exist. `add` took addresses and lengths from them. Memory that is copied into is our own, and not in use
        // by any operation: a request's data is fetched before it is submitted.
        let results = unsafe { gnttab.copy_raw(domid, &self.copies) };
        self.copies.clear();
        self.buffers.clear();
        results
    }
}

/// The descriptor that is readable when the channel has an event.
///
/// # Errors
/// If the library does not tell.
pub(super) fn channel_descriptor(channel: &XenEventChannel) -> io::Result<BorrowedFd<'_>> {
    let fd = channel.xenevtchn_fd()?;
    if fd < 0 {
        return Err(io::Error::other("the event channel has no descriptor"));
    }
    // SAFETY: the channel owns the descriptor and keeps it open as long as it lives, which the borrow of
    // the channel makes the lifetime of the result.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}
