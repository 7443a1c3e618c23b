//! Access to the shared pages of a ring: the only unsafe code of this crate.
//!
//! Every access is to an aligned 32-bit word and atomic, so whatever the peer writes meanwhile, what we
//! load is a value and not undefined behaviour. What the values mean is decided elsewhere, on copies.
//!
//! The order of accesses is that of `ring.h`:
//!
//! - a producer index is loaded with acquire before the slots it covers (its `xen_rmb`);
//! - slots are stored before the producer index that covers them, stored with release (`xen_wmb`);
//! - between storing a producer index and loading the peer's event index, and between storing our event
//!   index and loading the peer's producer index, there is a full fence (`xen_mb`): otherwise both sides
//!   could each miss what the other just wrote, and sleep forever.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::ring::RingError;
use crate::wire::{
    Abi, PAGE_SIZE, RESPONSE_WORDS, RING_PAGES_MAX, RawSlot, SLOT_BYTES, SRING_HEADER_BYTES,
    SRING_REQ_EVENT, SRING_REQ_PROD, SRING_RSP_EVENT, SRING_RSP_PROD,
};

const WORD: usize = size_of::<u32>();

/// Memory that a ring is in, shared with a peer that may write anything to it at any time.
///
/// # Safety
/// As long as the value lives, wherever it is moved to, [`SharedMemory::base`] always returns the same
/// pointer and [`SharedMemory::len_bytes`] the same length, and that many bytes from there are mapped
/// readable and writable. Within this process they are accessed only atomically, in aligned 32-bit words
/// (that is, by the rings of this crate); other domains and processes may do what they like.
pub unsafe trait SharedMemory {
    /// Start of the memory.
    fn base(&self) -> NonNull<u8>;
    /// Length of the memory in bytes.
    fn len_bytes(&self) -> usize;
}

/// A peer's ring: typed access to the words of the shared memory, which it owns.
#[derive(Debug)]
pub(crate) struct SharedRing<M> {
    memory: M,
    abi: Abi,
    slots: u32,
}

impl<M: SharedMemory> SharedRing<M> {
    pub(crate) fn new(memory: M, abi: Abi) -> Result<Self, RingError> {
        let bytes = memory.len_bytes();
        let pages = bytes / PAGE_SIZE;
        if !bytes.is_multiple_of(PAGE_SIZE) || !pages.is_power_of_two() || pages > RING_PAGES_MAX {
            return Err(RingError::MemorySize(bytes));
        }
        if !memory.base().addr().get().is_multiple_of(PAGE_SIZE) {
            return Err(RingError::MemoryAlignment);
        }
        let slots = u32::try_from(abi.slots(bytes)).map_err(|_| RingError::MemorySize(bytes))?;
        Ok(Self { memory, abi, slots })
    }

    pub(crate) const fn slots(&self) -> u32 {
        self.slots
    }

    pub(crate) const fn abi(&self) -> Abi {
        self.abi
    }

    /// The word at `offset` bytes.
    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(WORD) && offset + WORD <= self.memory.len_bytes(),
            "word {offset} is not in the ring"
        );
        // SAFETY: the assertion above keeps `offset` within the memory that `SharedMemory` vouches for.
        let word = unsafe { self.memory.base().add(offset) };
        // SAFETY: the word is mapped for as long as `memory`, which `self` borrows for the lifetime of
        // the reference; it is aligned, because the base is page-aligned (checked in `new`) and `offset`
        // is a multiple of 4; and `SharedMemory` promises that this process accesses it only atomically.
        unsafe { AtomicU32::from_ptr(word.cast().as_ptr()) }
    }

    fn slot_offset(&self, slot: u32) -> usize {
        debug_assert!(slot < self.slots);
        SRING_HEADER_BYTES + slot as usize * self.abi.slot_bytes()
    }

    /// The request producer index; the slots it covers may be read after this.
    pub(crate) fn req_prod(&self) -> u32 {
        u32::from_le(self.word(SRING_REQ_PROD).load(Ordering::Acquire))
    }

    /// The response producer index; the slots it covers may be read after this.
    pub(crate) fn rsp_prod(&self) -> u32 {
        u32::from_le(self.word(SRING_RSP_PROD).load(Ordering::Acquire))
    }

    /// Publishes the requests up to `index` and returns the backend's event index.
    pub(crate) fn publish_requests(&self, index: u32) -> u32 {
        self.word(SRING_REQ_PROD)
            .store(index.to_le(), Ordering::Release);
        fence(Ordering::SeqCst);
        u32::from_le(self.word(SRING_REQ_EVENT).load(Ordering::Relaxed))
    }

    /// Publishes the responses up to `index` and returns the frontend's event index.
    pub(crate) fn publish_responses(&self, index: u32) -> u32 {
        self.word(SRING_RSP_PROD)
            .store(index.to_le(), Ordering::Release);
        fence(Ordering::SeqCst);
        u32::from_le(self.word(SRING_RSP_EVENT).load(Ordering::Relaxed))
    }

    /// Asks to be notified when the request producer index passes `index - 1`. The index must be looked
    /// at again afterwards.
    pub(crate) fn set_req_event(&self, index: u32) {
        self.word(SRING_REQ_EVENT)
            .store(index.to_le(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Asks to be notified when the response producer index passes `index - 1`. The index must be looked
    /// at again afterwards.
    pub(crate) fn set_rsp_event(&self, index: u32) {
        self.word(SRING_RSP_EVENT)
            .store(index.to_le(), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Makes an empty ring that starts at `index` (`SHARED_RING_INIT`, which starts at 0).
    pub(crate) fn initialise(&self, index: u32) {
        for offset in (0..SRING_HEADER_BYTES).step_by(WORD) {
            self.word(offset).store(0, Ordering::Relaxed);
        }
        let event = index.wrapping_add(1);
        for (offset, value) in [
            (SRING_REQ_PROD, index),
            (SRING_RSP_PROD, index),
            (SRING_REQ_EVENT, event),
            (SRING_RSP_EVENT, event),
        ] {
            self.word(offset).store(value.to_le(), Ordering::Release);
        }
    }

    /// Copies a request slot out: each word is loaded exactly once.
    pub(crate) fn read_request(&self, slot: u32) -> RawSlot {
        let start = self.slot_offset(slot);
        let gap = self.abi.gap_words();
        let mut bytes = [0; SLOT_BYTES];
        for word in 0..self.abi.slot_bytes() / WORD {
            let value = self.word(start + word * WORD).load(Ordering::Relaxed);
            // Only the first word is before the gap.
            let target = if word == 0 { 0 } else { (word + gap) * WORD };
            bytes[target..target + WORD].copy_from_slice(&value.to_ne_bytes());
        }
        RawSlot(bytes)
    }

    /// Writes a request slot.
    pub(crate) fn write_request(&self, slot: u32, request: &RawSlot) {
        let start = self.slot_offset(slot);
        let gap = self.abi.gap_words();
        for word in 0..self.abi.slot_bytes() / WORD {
            let source = if word == 0 { 0 } else { (word + gap) * WORD };
            let mut value = [0; WORD];
            value.copy_from_slice(&request.0[source..source + WORD]);
            self.word(start + word * WORD)
                .store(u32::from_ne_bytes(value), Ordering::Relaxed);
        }
    }

    /// Copies a response slot out.
    pub(crate) fn read_response(&self, slot: u32) -> [u32; RESPONSE_WORDS] {
        let start = self.slot_offset(slot);
        std::array::from_fn(|word| self.word(start + word * WORD).load(Ordering::Relaxed))
    }

    /// Writes a response slot.
    pub(crate) fn write_response(&self, slot: u32, response: [u32; RESPONSE_WORDS]) {
        let start = self.slot_offset(slot);
        for (word, value) in response.into_iter().enumerate() {
            self.word(start + word * WORD)
                .store(value, Ordering::Relaxed);
        }
    }
}

/// A page of [`LocalMemory`].
#[derive(Debug)]
#[repr(C, align(4096))]
struct Page([AtomicU32; PAGE_SIZE / WORD]);

/// Memory of this process that both halves of a ring can be in: clones are the same memory. For tests.
#[derive(Clone, Debug)]
pub struct LocalMemory(Arc<[Page]>);

impl LocalMemory {
    /// Zeroed memory of `pages` pages.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        Self(
            std::iter::repeat_with(|| Page([const { AtomicU32::new(0) }; PAGE_SIZE / WORD]))
                .take(pages)
                .collect(),
        )
    }

    /// The word at a byte offset, as a peer that keeps to nothing would write it.
    ///
    /// # Panics
    /// The offset is outside of the memory.
    pub fn poke(&self, offset: usize, value: u32) {
        self.0[offset / PAGE_SIZE].0[offset % PAGE_SIZE / WORD]
            .store(value.to_le(), Ordering::Release);
    }

    /// The word at a byte offset.
    ///
    /// # Panics
    /// The offset is outside of the memory.
    #[must_use]
    pub fn peek(&self, offset: usize) -> u32 {
        u32::from_le(
            self.0[offset / PAGE_SIZE].0[offset % PAGE_SIZE / WORD].load(Ordering::Acquire),
        )
    }
}

// SAFETY: the memory is behind an `Arc` of fixed size, so it neither moves nor goes away while a clone
// lives; it is made of atomic words and can be accessed in no other way.
unsafe impl SharedMemory for LocalMemory {
    fn base(&self) -> NonNull<u8> {
        NonNull::from(&*self.0).cast()
    }

    fn len_bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// Memory in which something happens before each access of a word: so that a peer can act between any two. For tests.
#[cfg(any(test, feature = "interposed"))]
pub struct Interposed {
    memory: LocalMemory,
    before_access: Box<dyn Fn()>,
}

#[cfg(any(test, feature = "interposed"))]
impl Interposed {
    /// `memory`, with `before_access` called before each access that a ring makes to it.
    #[must_use]
    pub fn new(memory: LocalMemory, before_access: Box<dyn Fn()>) -> Self {
        Self {
            memory,
            before_access,
        }
    }
}

#[cfg(any(test, feature = "interposed"))]
// SAFETY: base and length are those of a `LocalMemory`, which this value owns.
unsafe impl SharedMemory for Interposed {
    // Called for each access of a word, and once by `SharedRing::new`.
    fn base(&self) -> NonNull<u8> {
        (self.before_access)();
        self.memory.base()
    }

    fn len_bytes(&self) -> usize {
        self.memory.len_bytes()
    }
}
