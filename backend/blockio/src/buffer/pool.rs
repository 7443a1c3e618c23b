//! Reuse of aligned memory, so that the hot path neither allocates nor clears it.

use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::{Rc, Weak};

use super::{AlignedBuf, BUFFER_ALIGNMENT, Buffer, IoMemory};

/// Size classes are powers of two from one page to the longest request of any protocol.
const CLASS_COUNT: usize = 14;

/// The largest allocation that is kept, in bytes: 32 MiB.
const LARGEST_CLASS: usize = BUFFER_ALIGNMENT << (CLASS_COUNT - 1);

/// Hands out aligned buffers and takes their memory back when the last clone or slice is dropped.
///
/// Belongs to one thread; clones share the same pool.
#[derive(Clone)]
pub struct BufferPool {
    shelf: Rc<RefCell<Shelf>>,
}

struct Shelf {
    free: [Vec<AlignedBuf>; CLASS_COUNT],
    kept_bytes: usize,
    kept_bytes_max: usize,
}

impl BufferPool {
    /// A pool that keeps at most `kept_bytes_max` bytes of unused memory.
    pub fn new(kept_bytes_max: usize) -> Self {
        let shelf = Shelf {
            free: Default::default(),
            kept_bytes: 0,
            kept_bytes_max,
        };
        Self {
            shelf: Rc::new(RefCell::new(shelf)),
        }
    }

    /// A buffer of `len` bytes in one segment, aligned to [`BUFFER_ALIGNMENT`].
    ///
    /// It holds whatever its last use left, which may be another guest's data: overwrite all of it before any of it
    /// is shown to anyone.
    pub fn take(&self, len: usize) -> Buffer {
        let Some(class) = class_of(len) else {
            return AlignedBuf::zeroed(len).into_buffer();
        };
        let kept = self.shelf.borrow_mut().take(class);
        let memory = kept.unwrap_or_else(|| AlignedBuf::zeroed(BUFFER_ALIGNMENT << class));
        let owner = Pooled {
            memory: Some(memory),
            class,
            shelf: Rc::downgrade(&self.shelf),
        };
        Buffer::from_memory(Rc::new(owner)).slice(0, len)
    }

    /// Bytes of unused memory that the pool holds now.
    pub fn kept_bytes(&self) -> usize {
        self.shelf.borrow().kept_bytes
    }
}

impl Shelf {
    fn take(&mut self, class: usize) -> Option<AlignedBuf> {
        let memory = self.free[class].pop()?;
        self.kept_bytes -= memory.len();
        Some(memory)
    }

    fn put(&mut self, class: usize, memory: AlignedBuf) {
        if self.kept_bytes + memory.len() <= self.kept_bytes_max {
            self.kept_bytes += memory.len();
            self.free[class].push(memory);
        }
    }
}

/// The smallest class that holds `len` bytes; `None` if it is too large to be kept.
fn class_of(len: usize) -> Option<usize> {
    (0..CLASS_COUNT)
        .find(|class| BUFFER_ALIGNMENT << class >= len)
        .filter(|_| len <= LARGEST_CLASS)
}

/// Memory that goes back to its pool when dropped, if the pool is still there.
struct Pooled {
    /// `None` only during the drop.
    memory: Option<AlignedBuf>,
    class: usize,
    shelf: Weak<RefCell<Shelf>>,
}

impl Drop for Pooled {
    fn drop(&mut self) {
        if let (Some(memory), Some(shelf)) = (self.memory.take(), self.shelf.upgrade()) {
            shelf.borrow_mut().put(self.class, memory);
        }
    }
}

// SAFETY: the allocation stays in place and alive until this value is dropped, was zeroed at birth, and is private,
// so no reference to it can be made while a buffer uses it.
unsafe impl IoMemory for Pooled {
    fn for_each_segment(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
        if let Some(memory) = &self.memory {
            visit(memory.address(), memory.len());
        }
    }
}
