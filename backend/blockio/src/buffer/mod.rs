//! Memory for I/O: a list of segments and the owner that keeps them alive.
//!
//! Part of this memory is shared with a guest, which may change it at any moment. So no Rust reference or slice is
//! ever made to it: bytes are moved by raw pointer copies only, and nothing is decided twice from the same byte.
//! Bytes that matter are copied out once and looked at in the copy.

mod aligned;
mod pool;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use smallvec::SmallVec;

pub use aligned::{AlignedBuf, BUFFER_ALIGNMENT};
pub use pool::BufferPool;

/// Memory that the kernel may read and write while an operation is in flight.
///
/// Implemented for memory of our own ([`AlignedBuf`]) and, elsewhere, for mapped grant pages.
///
/// # Safety
///
/// The implementor guarantees, from the first call of [`IoMemory::for_each_segment`] until the value is dropped:
/// - every segment reported stays mapped, readable and writable, at the same address, and the same segments are
///   reported each time;
/// - every byte of them has been initialised (memory mapped from another domain or a file counts as initialised);
/// - no Rust reference to any byte of them is alive while a [`Buffer`] made from this value exists;
/// - two segments that touch (one ends where the next begins) belong to the same allocation or mapping, since they
///   are treated as one.
///
/// The contents may change at any time, as memory shared with a guest does.
pub unsafe trait IoMemory: 'static {
    /// Calls `visit` with address and length in bytes of each segment, in order.
    fn for_each_segment(&self, visit: &mut dyn FnMut(NonNull<u8>, usize));
}

/// A contiguous piece of memory: address, and length in bytes (never 0 inside a [`Buffer`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) address: NonNull<u8>,
    pub(crate) len: usize,
}

impl Segment {
    /// The part from `offset` on, of `len` bytes.
    fn part(self, offset: usize, len: usize) -> Self {
        assert!(
            offset + len <= self.len,
            "a part reaches beyond its segment"
        );
        // SAFETY: offset is at most the segment's length, so the result is inside the segment or one past its end.
        let address = unsafe { self.address.add(offset) };
        Self { address, len }
    }
}

impl Segment {
    fn is_zero(self) -> bool {
        const WORD: usize = size_of::<u64>();
        let words = self.len / WORD;
        let start = self.address.as_ptr();
        let word_at = |i: usize| {
            let word = start.wrapping_add(i * WORD).cast::<[u8; WORD]>();
            // SAFETY: word `i` lies inside the segment, which the owner keeps mapped and initialised; an array of bytes
            // has no alignment; it is read volatile since a guest may change it meanwhile.
            unsafe { word.read_volatile() }
        };
        let byte_at = |i: usize| {
            let byte = start.wrapping_add(i);
            // SAFETY: byte `i` lies inside the segment, as above.
            unsafe { byte.read_volatile() }
        };
        (0..words).all(|i| u64::from_ne_bytes(word_at(i)) == 0)
            && (words * WORD..self.len).all(|i| byte_at(i) == 0)
    }
}

type Segments = SmallVec<[Segment; 4]>;

/// A range of memory for I/O, in one or more segments, that keeps its owner alive.
///
/// Cheap to clone and to slice: both share the owner. A clone is the same memory, not a copy of it.
///
/// Belongs to one thread (it counts references without atomics).
#[derive(Clone)]
pub struct Buffer {
    segments: Segments,
    len: usize,
    /// Only kept for its drop.
    _owner: Option<Rc<dyn IoMemory>>,
}

impl Buffer {
    /// The buffer of no bytes.
    pub fn empty() -> Self {
        Self {
            segments: Segments::new(),
            len: 0,
            _owner: None,
        }
    }

    /// All the memory of `owner`, in its order. Empty segments are left out, touching ones become one.
    pub fn from_memory(owner: Rc<dyn IoMemory>) -> Self {
        let mut segments = Segments::new();
        let mut total = 0;
        owner.for_each_segment(&mut |address, len| {
            total += len;
            push_merging(&mut segments, Segment { address, len });
        });
        Self {
            segments,
            len: total,
            _owner: Some(owner),
        }
    }

    /// A buffer made of several, one after the other. The memory is shared, not copied.
    pub fn concat(parts: impl IntoIterator<Item = Buffer>) -> Self {
        let mut segments = Segments::new();
        let mut owners: SmallVec<[Rc<dyn IoMemory>; 4]> = SmallVec::new();
        let mut total = 0;
        for part in parts {
            // Not merged even where they touch: they may be different allocations.
            segments.extend(part.segments);
            total += part.len;
            owners.extend(part._owner);
        }
        let owner: Option<Rc<dyn IoMemory>> = match owners.len() {
            0 | 1 => owners.pop(),
            _ => Some(Rc::new(Owners { _all: owners })),
        };
        Self {
            segments,
            len: total,
            _owner: owner,
        }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many separate pieces of memory it consists of.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    /// Calls `visit` with address and length in bytes of each piece of memory, in order. They are valid as long as this
    /// buffer, a clone or a slice of it lives; whoever writes through them makes sure that nobody else uses them.
    pub fn for_each_piece(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
        for segment in &self.segments {
            visit(segment.address, segment.len);
        }
    }

    /// Whether the address and the length of every segment are multiples of `alignment` bytes, as direct I/O wants.
    ///
    /// # Panics
    ///
    /// If `alignment` is 0.
    pub fn is_aligned_to(&self, alignment: usize) -> bool {
        self.segments.iter().all(|segment| {
            segment.address.addr().get().is_multiple_of(alignment)
                && segment.len.is_multiple_of(alignment)
        })
    }

    /// The `len` bytes from `offset` on, sharing the memory and its owner.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Self {
        let segments = self.pieces(offset, len).collect();
        Self {
            segments,
            len,
            _owner: self._owner.clone(),
        }
    }

    /// Copies `len` bytes from `source` at `source_offset` to this buffer at `offset`.
    ///
    /// # Panics
    ///
    /// If either range is not inside its buffer.
    pub fn copy_from(&self, offset: usize, source: &Buffer, source_offset: usize, len: usize) {
        let mut to = self.pieces(offset, len);
        let mut from = source.pieces(source_offset, len);
        let (mut target, mut origin) = (to.next(), from.next());
        while let (Some(into), Some(out_of)) = (target, origin) {
            let count = into.len.min(out_of.len);
            // SAFETY: both pieces are inside segments that their buffers' owners keep mapped, of at least `count`
            // bytes, and `ptr::copy` allows them to overlap.
            unsafe { ptr::copy(out_of.address.as_ptr(), into.address.as_ptr(), count) };
            target = remainder(into, count).or_else(|| to.next());
            origin = remainder(out_of, count).or_else(|| from.next());
        }
    }

    /// Copies `len` bytes from this buffer at `offset` to `target` at `target_offset`.
    ///
    /// # Panics
    ///
    /// If either range is not inside its buffer.
    pub fn copy_to(&self, offset: usize, target: &Buffer, target_offset: usize, len: usize) {
        target.copy_from(target_offset, self, offset, len);
    }

    /// Copies `bytes` into this buffer at `offset`.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn copy_from_slice(&self, offset: usize, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in self.pieces(offset, bytes.len()) {
            let (now, later) = rest.split_at(piece.len);
            // SAFETY: the piece is inside a segment that the owner keeps mapped, `now` has its length, and no slice
            // can exist that overlaps a buffer's memory (a condition of `IoMemory`).
            unsafe { ptr::copy_nonoverlapping(now.as_ptr(), piece.address.as_ptr(), piece.len) };
            rest = later;
        }
    }

    /// Copies from this buffer at `offset` into `bytes`, filling it.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn copy_to_slice(&self, offset: usize, bytes: &mut [u8]) {
        let wanted = bytes.len();
        let mut rest = bytes;
        for piece in self.pieces(offset, wanted) {
            let (now, later) = rest.split_at_mut(piece.len);
            // SAFETY: the piece is inside a segment that the owner keeps mapped and initialised, `now` has its
            // length, and no slice can exist that overlaps a buffer's memory (a condition of `IoMemory`).
            unsafe {
                ptr::copy_nonoverlapping(piece.address.as_ptr(), now.as_mut_ptr(), piece.len);
            };
            rest = later;
        }
    }

    /// A copy of the whole contents.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.copy_to_slice(0, &mut bytes);
        bytes
    }

    /// Sets `len` bytes from `offset` on to zero.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn fill_zero(&self, offset: usize, len: usize) {
        for piece in self.pieces(offset, len) {
            // SAFETY: the piece is inside a segment that the owner keeps mapped and writable.
            unsafe { ptr::write_bytes(piece.address.as_ptr(), 0, piece.len) };
        }
    }

    /// Whether `len` bytes from `offset` on are all zero, at the moment at which each is looked at.
    ///
    /// # Panics
    ///
    /// If the range is not inside the buffer.
    pub fn is_zero(&self, offset: usize, len: usize) -> bool {
        self.pieces(offset, len).all(Segment::is_zero)
    }

    /// The non-empty pieces of segments that make up the range, in order.
    pub(crate) fn pieces(&self, offset: usize, len: usize) -> Pieces<'_> {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.len),
            "range of {len} bytes at {offset} reaches beyond a buffer of {} bytes",
            self.len
        );
        Pieces {
            segments: &self.segments,
            skip: offset,
            left: len,
        }
    }
}

impl fmt::Debug for Buffer {
    /// Shape only: the contents belong to a guest and stay out of logs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Buffer({} bytes in {} segments)",
            self.len,
            self.segments.len()
        )
    }
}

/// Keeps the owners of a concatenated buffer alive. It reports no segments of its own: the buffer has them already.
struct Owners {
    _all: SmallVec<[Rc<dyn IoMemory>; 4]>,
}

// SAFETY: it reports no memory at all, so there is nothing to keep valid; it is never asked.
unsafe impl IoMemory for Owners {
    fn for_each_segment(&self, _visit: &mut dyn FnMut(NonNull<u8>, usize)) {}
}

/// Iterates over the parts of segments that a range covers. See [`Buffer::pieces`].
pub(crate) struct Pieces<'a> {
    segments: &'a [Segment],
    /// Bytes of `segments` that lie before the range.
    skip: usize,
    /// Bytes of the range that are still to come.
    left: usize,
}

impl Iterator for Pieces<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        if self.left == 0 {
            return None;
        }
        while let Some((segment, later)) = self.segments.split_first() {
            self.segments = later;
            if self.skip >= segment.len {
                self.skip -= segment.len;
                continue;
            }
            let len = (segment.len - self.skip).min(self.left);
            let piece = segment.part(self.skip, len);
            self.skip = 0;
            self.left -= len;
            return Some(piece);
        }
        None
    }
}

fn remainder(segment: Segment, used: usize) -> Option<Segment> {
    (used < segment.len).then(|| segment.part(used, segment.len - used))
}

fn push_merging(segments: &mut Segments, next: Segment) {
    if next.len == 0 {
        return;
    }
    if let Some(last) = segments.last_mut() {
        // SAFETY: the result is at most one past the end of the last segment.
        let end = unsafe { last.address.add(last.len) };
        if end == next.address {
            last.len += next.len;
            return;
        }
    }
    segments.push(next);
}
