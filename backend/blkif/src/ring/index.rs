//! A free-running index that wraps.

/// How many entries there were since the ring was made, modulo 2^`BITS`; the ring's own indices have 32.
///
/// Whatever is computed with indices is computed here: how far one is behind another, the next one, and the slot. Since
/// nothing else can look into an index, what holds for all indices of a few bits holds for 32 (`tests/proof.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Index<const BITS: u32>(u32);

impl<const BITS: u32> Index<BITS> {
    const MASK: u32 = u32::MAX >> (32 - BITS);

    pub(crate) const fn new(word: u32) -> Self {
        Self(word & Self::MASK)
    }

    /// The index as the shared page has it.
    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    /// How many entries there are from `earlier` on to this index.
    pub(crate) const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0) & Self::MASK
    }

    pub(crate) const fn next(self) -> Self {
        Self::new(self.0.wrapping_add(1))
    }

    /// The slot of this entry in a ring of `size` slots, a power of two.
    pub(crate) const fn slot(self, size: u32) -> u32 {
        self.0 & (size - 1)
    }
}
