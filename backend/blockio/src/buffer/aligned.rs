//! Heap memory aligned for direct I/O.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::rc::Rc;

use super::{Buffer, IoMemory};

/// Alignment in bytes of every [`AlignedBuf`]: a page, which satisfies direct I/O on devices of 512 and 4096 bytes.
pub const BUFFER_ALIGNMENT: usize = 4096;

/// An owned allocation on the heap, aligned to [`BUFFER_ALIGNMENT`].
#[derive(Debug)]
pub struct AlignedBuf {
    address: NonNull<u8>,
    len: usize,
}

impl AlignedBuf {
    /// Allocates `len` bytes of zeros. Large allocations cost nothing until they are touched.
    ///
    /// # Panics
    ///
    /// If `len` is larger than half of the address space. Running out of memory aborts, as everywhere in Rust.
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self {
                address: NonNull::dangling(),
                len,
            };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above 0.
        let address = unsafe { alloc_zeroed(layout) };
        let Some(address) = NonNull::new(address) else {
            handle_alloc_error(layout)
        };
        Self { address, len }
    }

    /// An allocation that holds a copy of `bytes`.
    pub fn from_slice(bytes: &[u8]) -> Self {
        let mut buf = Self::zeroed(bytes.len());
        buf.as_mut_slice().copy_from_slice(bytes);
        buf
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The contents.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: the allocation is initialised (zeroed at birth). It is borrowed through the only value that owns
        // it, so no `Buffer` over it exists: making one consumes the value.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.len) }
    }

    /// The contents, to change.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.len) }
    }

    /// Turns it into a buffer for I/O, which frees it when the last clone or slice is gone.
    pub fn into_buffer(self) -> Buffer {
        Buffer::from_memory(Rc::new(Owned(self)))
    }

    pub(super) fn address(&self) -> NonNull<u8> {
        self.address
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len, BUFFER_ALIGNMENT)
            .expect("a buffer is smaller than half of the address space")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the address came from `alloc_zeroed` with the same layout and is freed only here.
            unsafe { dealloc(self.address.as_ptr(), Self::layout(self.len)) };
        }
    }
}

// SAFETY: it owns its memory alone, as a `Vec` does.
unsafe impl Send for AlignedBuf {}

// SAFETY: through a shared reference the memory can only be read.
unsafe impl Sync for AlignedBuf {}

/// An allocation that has become the memory of a buffer. A type of its own, and private, so that nobody can reach
/// `as_slice` of an allocation that is in use for I/O.
struct Owned(AlignedBuf);

// SAFETY: the allocation lives and stays in place until this value is dropped, was zeroed at birth, and no reference
// to it can be made any more, since nothing gives access to the inner value.
unsafe impl IoMemory for Owned {
    fn for_each_segment(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
        visit(self.0.address(), self.0.len());
    }
}
