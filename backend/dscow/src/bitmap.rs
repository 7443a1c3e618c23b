//! The allocation bitmap: one bit for each block, least significant bit of byte 0 first.
//!
//! While an image is open, bits only ever go from 0 to 1, and only after the block's data is where it
//! belongs. So any mixture of old and new sectors of a bitmap write is a correct bitmap.

use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;
use bitvec::vec::BitVec;

use crate::layout::{BITMAP_PAGE_SIZE, Layout};
use crate::units::BlockIndex;

/// Bits in a page of the bitmap.
const BITS_PER_PAGE: u64 = BITMAP_PAGE_SIZE * 8;

/// The bits of an image, in the bytes in which they lie on disk.
pub struct Bitmap {
    /// In whole pages, one at least, so that a page can be written back as it is. Zeroed memory
    /// that was never touched costs nothing, so an empty bitmap of a huge disk is cheap.
    bits: BitVec<u8, Lsb0>,
    block_count: u64,
}

/// Number of a 4096-byte page of the bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

impl PageIndex {
    /// The page that holds the bit of `block`.
    pub fn of(block: BlockIndex) -> Self {
        Self(block.0 / BITS_PER_PAGE)
    }
}

impl Bitmap {
    /// The bitmap of an image with nothing allocated.
    pub fn empty(layout: &Layout) -> Self {
        let bytes = layout.bitmap_used_len().next_multiple_of(BITMAP_PAGE_SIZE);
        Self {
            bits: BitVec::from_vec(vec![0; to_usize(bytes)]),
            block_count: layout.block_count(),
        }
    }

    /// The bytes that the image holds, to be filled when an image is opened.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bits.as_raw_mut_slice()
    }

    /// The used bytes: a bit for each block, and zeros in the rest of the last byte.
    pub fn used_bytes(&self) -> &[u8] {
        let used = to_usize(self.block_count.div_ceil(8));
        &self.bits.as_raw_slice()[..used]
    }

    /// The first bit set for a block that does not exist, if the bytes that were loaded have any.
    pub fn bit_past_end(&self) -> Option<u64> {
        let end = to_usize(self.block_count);
        self.bits[end..]
            .first_one()
            .map(|i| self.block_count + i as u64)
    }

    /// Whether the block is allocated.
    pub fn is_set(&self, block: BlockIndex) -> bool {
        self.bits[to_usize(block.0)]
    }

    /// Whether all blocks from `first` up to and without `end` are allocated.
    pub fn all_set(&self, first: BlockIndex, end: BlockIndex) -> bool {
        self.slice(first, end).all()
    }

    /// Marks the block as allocated. Tells whether it was not before.
    pub fn set(&mut self, block: BlockIndex) -> bool {
        !self.bits.replace(to_usize(block.0), true)
    }

    /// The first block at or after `from` and before `end` whose bit is `value`.
    pub fn find(&self, value: bool, from: BlockIndex, end: BlockIndex) -> Option<BlockIndex> {
        let slice = self.slice(from, end);
        let found = if value {
            slice.first_one()
        } else {
            slice.first_zero()
        };
        found.map(|i| BlockIndex(from.0 + i as u64))
    }

    /// How many blocks are allocated.
    pub fn count_set(&self) -> u64 {
        self.bits.count_ones() as u64
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u64 {
        self.block_count
    }

    /// The 4096 bytes of a page.
    pub fn page(&self, page: PageIndex) -> &[u8] {
        let start = to_usize(page.0 * BITMAP_PAGE_SIZE);
        &self.bits.as_raw_slice()[start..start + to_usize(BITMAP_PAGE_SIZE)]
    }

    /// CRC32C of the used bytes.
    pub fn crc(&self) -> u32 {
        crc32c::crc32c(self.used_bytes())
    }

    fn slice(&self, first: BlockIndex, end: BlockIndex) -> &BitSlice<u8, Lsb0> {
        &self.bits[to_usize(first.0)..to_usize(end.0)]
    }
}

/// A count of bytes or bits that is known to be held in memory.
fn to_usize(count: u64) -> usize {
    usize::try_from(count).expect("bitmaps are held in memory on 64-bit hosts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Headroom;
    use crate::units::BlockSize;

    fn bitmap(blocks: u64) -> Bitmap {
        Bitmap::empty(&Layout::for_new(blocks * 4096, BlockSize::MIN, Headroom::Exact).unwrap())
    }

    #[test]
    fn the_first_block_is_the_lowest_bit_of_the_first_byte() {
        let mut bitmap = bitmap(20);
        assert!(bitmap.set(BlockIndex(0)));
        assert!(bitmap.set(BlockIndex(9)));
        assert!(!bitmap.set(BlockIndex(9)));
        assert_eq!(bitmap.used_bytes(), [0b0000_0001, 0b0000_0010, 0]);
        assert_eq!(bitmap.page(PageIndex(0)).len(), 4096);
        assert_eq!(bitmap.count_set(), 2);
    }

    #[test]
    fn runs_are_found_within_bounds() {
        let mut bitmap = bitmap(100);
        for block in 10..20 {
            bitmap.set(BlockIndex(block));
        }
        let b = BlockIndex;
        assert_eq!(bitmap.find(true, b(0), b(100)), Some(b(10)));
        assert_eq!(bitmap.find(false, b(10), b(100)), Some(b(20)));
        assert_eq!(bitmap.find(true, b(0), b(10)), None);
        assert_eq!(bitmap.find(false, b(12), b(20)), None);
        assert!(bitmap.all_set(b(10), b(20)));
        assert!(!bitmap.all_set(b(10), b(21)));
    }

    #[test]
    fn a_bit_past_the_end_is_noticed() {
        let mut bitmap = bitmap(20);
        assert_eq!(bitmap.bit_past_end(), None);
        bitmap.bytes_mut()[2] = 0b0001_0000;
        assert_eq!(bitmap.bit_past_end(), Some(20));
        bitmap.bytes_mut()[2] = 0b0000_1000;
        assert_eq!(bitmap.bit_past_end(), None);
    }

    #[test]
    fn pages_hold_32768_bits() {
        assert_eq!(PageIndex::of(BlockIndex(32_767)), PageIndex(0));
        assert_eq!(PageIndex::of(BlockIndex(32_768)), PageIndex(1));
    }
}
