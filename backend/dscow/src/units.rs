//! Quantities that must not be mixed up.
//!
//! A position on the *virtual disk* (what the guest sees) and a position in an image *file* differ by the
//! size of the metadata in front of the data, so each has a type of its own.

use std::fmt;

/// Smallest unit of I/O, in bytes: every request is a whole number of sectors.
pub const SECTOR_SIZE: u64 = 512;

/// A byte position on the virtual disk, as the guest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskOffset(pub u64);

/// A byte position in an image file or device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileOffset(pub u64);

/// Number of a block on the virtual disk; block `b` covers the bytes `b << shift .. (b + 1) << shift`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockIndex(pub u64);

/// A block size: a power of two between 4 KiB and 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize {
    shift: u32,
}

impl BlockSize {
    /// The smallest block size, 4 KiB: guests' aligned page-sized writes never need a copy-up.
    pub const MIN: Self = Self { shift: 12 };
    /// The largest block size, 2 MiB.
    pub const MAX: Self = Self { shift: 21 };

    /// The block size of `1 << shift` bytes, if the format allows it.
    pub fn from_shift(shift: u32) -> Option<Self> {
        (Self::MIN.shift..=Self::MAX.shift)
            .contains(&shift)
            .then_some(Self { shift })
    }

    /// The block size of exactly `bytes` bytes, if the format allows it.
    pub fn from_bytes(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() {
            Self::from_shift(bytes.trailing_zeros())
        } else {
            None
        }
    }

    /// Binary logarithm of the size in bytes.
    pub fn shift(self) -> u32 {
        self.shift
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// The block that holds the byte at `offset`.
    pub fn block_of(self, offset: DiskOffset) -> BlockIndex {
        BlockIndex(offset.0 >> self.shift)
    }

    /// The first byte of `block`.
    pub fn start_of(self, block: BlockIndex) -> DiskOffset {
        DiskOffset(block.0 << self.shift)
    }

    /// How many blocks it takes to hold `bytes` bytes.
    pub fn blocks_for(self, bytes: u64) -> u64 {
        // A shift, since the processor would take long to divide by what only people know to be a power of two.
        (bytes >> self.shift) + u64::from(bytes & (self.bytes() - 1) != 0)
    }
}

impl Default for BlockSize {
    fn default() -> Self {
        Self::MIN
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shift < 20 {
            write!(f, "{} KiB", self.bytes() >> 10)
        } else {
            write!(f, "{} MiB", self.bytes() >> 20)
        }
    }
}

/// A range of bytes on the virtual disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRange {
    /// First byte.
    pub start: DiskOffset,
    /// Length in bytes.
    pub len: u64,
}

impl DiskRange {
    /// The range of `len` bytes from `start`.
    pub fn new(start: u64, len: u64) -> Self {
        Self {
            start: DiskOffset(start),
            len,
        }
    }

    /// The byte after the last one.
    pub fn end(self) -> u64 {
        self.start.0 + self.len
    }
}
