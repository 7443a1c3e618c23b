//! The bytes of a case, read as decisions.
//!
//! Every decision takes one byte, or two where one is too coarse, so that a change of one byte changes one decision and
//! leaves the others as they were: that is what a fuzzer's mutations live on.

/// Decisions still to be made. When the bytes have run out, every decision is 0.
pub(crate) struct Script<'a> {
    bytes: &'a [u8],
}

impl<'a> Script<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether there is nothing left to decide with.
    pub(crate) fn is_over(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        *first
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A number below `end`, which is at least 1.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let decision = if end <= 256 {
            u64::from(self.byte())
        } else {
            u64::from(self.u16())
        };
        decision % end
    }

    /// The same for an index.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("less than a usize")
    }

    /// True once in so many times.
    pub(crate) fn one_in(&mut self, times: u8) -> bool {
        self.byte() % times == times - 1
    }

    /// Up to `len` bytes as they are.
    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (now, rest) = self.bytes.split_at(len.min(self.bytes.len()));
        self.bytes = rest;
        now
    }
}
