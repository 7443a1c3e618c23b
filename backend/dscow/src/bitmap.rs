//! The allocation bitmap: one bit for each block, least significant bit of byte 0 first.
//!
//! While an image is open, bits only ever go from 0 to 1, and only after the block's data is where it
//! belongs. So any mixture of old and new sectors of a bitmap write is a correct bitmap.
//!
//! The bits of the largest disk take 2 GiB, of which most are never touched. Memory that was never written costs
//! nothing, and a count for each page says which pages need not be looked at.

use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;
use bitvec::vec::BitVec;
use thiserror::Error;
use zerocopy::{FromZeros, IntoBytes};

use crate::layout::{BITMAP_PAGE_SIZE, Layout};
use crate::units::BlockIndex;

/// Bits in a page of the bitmap.
const BITS_PER_PAGE: u64 = BITMAP_PAGE_SIZE * 8;

/// Bytes in a page of the bitmap, as the length of a slice.
const PAGE_BYTES: usize = 4096;

/// A page without bits.
const EMPTY_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// From this many empty pages on, their checksum is computed rather than summed up.
const EMPTY_PAGES_COMBINED: u64 = 64;

// The words of the bitmap are its bytes on disk.
#[cfg(target_endian = "big")]
compile_error!("the bitmap is kept in memory as it lies on disk, least significant byte first");

/// The host has no memory for a bitmap.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("there is no memory for its bitmap of {bytes} bytes")]
pub struct NoMemory {
    /// Length of the bitmap.
    pub bytes: u64,
}

/// The bits of an image, in the bytes in which they lie on disk.
pub struct Bitmap {
    /// In whole pages, one at least, so that a page can be written back as it is.
    bits: BitVec<u64, Lsb0>,
    /// How many bits are set in each page.
    page_counts: Vec<u32>,
    set_count: u64,
    block_count: u64,
}

/// The checksum of a bitmap whose bytes are seen in their order, except for zeros; cheaper while it is being read than
/// when it is.
#[derive(Debug, Default)]
pub struct RunningChecksum {
    crc: u32,
    /// How many bytes it is of.
    len: u64,
}

impl RunningChecksum {
    /// Takes bytes, from byte `at` of the bitmap on. What lies before that and was not taken is zeros.
    ///
    /// # Panics
    /// If they do not come after those that were taken.
    pub fn take(&mut self, at: u64, bytes: &[u8]) {
        self.zeros_up_to(at);
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.len += bytes.len() as u64;
    }

    /// The checksum of the used bytes of a bitmap, see [`Bitmap::crc`]. What was not taken is zeros.
    ///
    /// # Panics
    /// If more bytes were taken.
    pub fn finish(mut self, layout: &Layout) -> u32 {
        self.zeros_up_to(layout.bitmap_used_len());
        self.crc
    }

    fn zeros_up_to(&mut self, end: u64) {
        assert!(self.len <= end, "the bytes are seen in their order");
        let zeros = end - self.len;
        let whole = append_empty_pages(self.crc, zeros / BITMAP_PAGE_SIZE);
        let rest = to_usize(zeros % BITMAP_PAGE_SIZE);
        self.crc = crc32c::crc32c_append(whole, &EMPTY_PAGE[..rest]);
        self.len = end;
    }
}

/// Number of a 4096-byte page of the bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

impl PageIndex {
    /// The page that holds the bit of `block`.
    pub fn of(block: BlockIndex) -> Self {
        Self(block.0 / BITS_PER_PAGE)
    }

    /// The pages that hold the bits of the blocks from the first up to and without the second, each with those of
    /// the blocks whose bits it holds.
    pub fn split(
        (first, end): (BlockIndex, BlockIndex),
    ) -> impl Iterator<Item = (Self, (BlockIndex, BlockIndex))> {
        let pages = first.0 / BITS_PER_PAGE..end.0.div_ceil(BITS_PER_PAGE);
        pages.map(move |page| {
            let from = first.0.max(page * BITS_PER_PAGE);
            let to = end.0.min((page + 1) * BITS_PER_PAGE);
            (Self(page), (BlockIndex(from), BlockIndex(to)))
        })
    }
}

impl Bitmap {
    /// The bitmap of an image with nothing allocated.
    ///
    /// # Errors
    /// If the host does not give the memory: how large a bitmap is, the image says, and a sparse file can say anything.
    pub fn empty(layout: &Layout) -> Result<Self, NoMemory> {
        let pages = to_usize(page_count(layout));
        let no_memory = NoMemory {
            bytes: (pages * PAGE_BYTES) as u64,
        };
        // Memory that comes as zeros from the kernel, and is not touched here.
        let bits = u64::new_vec_zeroed(pages * PAGE_BYTES / 8).map_err(|_| no_memory)?;
        let page_counts = u32::new_vec_zeroed(pages).map_err(|_| no_memory)?;
        Ok(Self {
            bits: BitVec::from_vec(bits),
            page_counts,
            set_count: 0,
            block_count: layout.block_count(),
        })
    }

    /// What [`Bitmap::crc`] is of an image with nothing allocated.
    pub fn crc_of_empty(layout: &Layout) -> u32 {
        RunningChecksum::default().finish(layout)
    }

    /// Takes bytes that the image holds, from byte `at` of the bitmap on. For opening: what was there is replaced.
    /// Zeros over a page that is empty leave it untouched.
    ///
    /// # Panics
    /// If the bytes reach beyond the last page.
    pub fn load(&mut self, at: u64, bytes: &[u8]) {
        let mut at = to_usize(at);
        let mut rest = bytes;
        while !rest.is_empty() {
            let page = at / PAGE_BYTES;
            let (now, later) = rest.split_at(rest.len().min((page + 1) * PAGE_BYTES - at));
            self.load_in_page(page, at, now);
            at += now.len();
            rest = later;
        }
    }

    /// Sets the bits that are set in `bytes`, from byte `at` of the bitmap on.
    ///
    /// # Panics
    /// If the bytes reach beyond the last page.
    pub fn add(&mut self, at: u64, bytes: &[u8]) {
        let start = to_usize(at);
        let present = &self.bits.as_raw_slice().as_bytes()[start..start + bytes.len()];
        let both: Vec<u8> = present.iter().zip(bytes).map(|(a, b)| a | b).collect();
        self.load(at, &both);
    }

    fn load_in_page(&mut self, page: usize, at: usize, bytes: &[u8]) {
        if self.page_counts[page] == 0 && is_zero(bytes) {
            return;
        }
        self.bits.as_raw_mut_slice().as_mut_bytes()[at..at + bytes.len()].copy_from_slice(bytes);
        let words = &self.bits.as_raw_slice()[page * PAGE_BYTES / 8..(page + 1) * PAGE_BYTES / 8];
        let count = count_ones(words);
        self.set_count = self.set_count - u64::from(self.page_counts[page]) + u64::from(count);
        self.page_counts[page] = count;
    }

    /// Moves into the empty bitmap of a disk that has grown; the blocks that are new are not allocated.
    ///
    /// # Panics
    /// If the disk has fewer blocks than before.
    pub fn grow_into(&mut self, room: Self) {
        assert!(room.block_count >= self.block_count, "a bitmap grows");
        let mut grown = room;
        let pages = (0..).map(PageIndex).zip(&self.page_counts);
        for (page, _) in pages.filter(|(_, count)| **count > 0) {
            grown.load(page.0 * BITMAP_PAGE_SIZE, self.page(page));
        }
        *self = grown;
    }

    /// The used bytes: a bit for each block, and zeros in the rest of the last byte.
    pub fn used_bytes(&self) -> &[u8] {
        let used = to_usize(self.block_count.div_ceil(8));
        &self.bits.as_raw_slice().as_bytes()[..used]
    }

    /// The first bit set for a block that does not exist, if the bytes that were loaded have any.
    pub fn bit_past_end(&self) -> Option<u64> {
        let end = to_usize(self.block_count);
        self.bits[end..]
            .first_one()
            .map(|i| self.block_count + i as u64)
    }

    /// The pages with a bit that is set.
    pub fn pages_with_bits(&self) -> impl Iterator<Item = PageIndex> {
        let counts = self.page_counts.iter().zip(0..);
        counts.filter_map(|(count, page)| (*count > 0).then_some(PageIndex(page)))
    }

    /// Whether the block is allocated.
    pub fn is_set(&self, block: BlockIndex) -> bool {
        self.bits[to_usize(block.0)]
    }

    /// Whether all blocks from `first` up to and without `end` are allocated.
    pub fn all_set(&self, first: BlockIndex, end: BlockIndex) -> bool {
        if end.0 == first.0 + 1 {
            return self.is_set(first);
        }
        self.find(false, first, end).is_none()
    }

    /// Marks the block as allocated. Tells whether it was not before.
    pub fn set(&mut self, block: BlockIndex) -> bool {
        let was_set = self.bits.replace(to_usize(block.0), true);
        if !was_set {
            self.page_counts[to_usize(PageIndex::of(block).0)] += 1;
            self.set_count += 1;
        }
        !was_set
    }

    /// Marks the blocks from the first up to and without the second as allocated. Tells how many were not before.
    ///
    /// # Panics
    /// If their bits are not all in one page, see [`PageIndex::split`].
    pub fn set_run(&mut self, (first, end): (BlockIndex, BlockIndex)) -> u64 {
        let page = PageIndex::of(first);
        assert_eq!(page, PageIndex::of(BlockIndex(end.0 - 1)), "one page");
        if end.0 == first.0 + 1 {
            return u64::from(self.set(first));
        }
        let bits = &mut self.bits[to_usize(first.0)..to_usize(end.0)];
        let new = bits.count_zeros() as u64;
        bits.fill(true);
        self.page_counts[to_usize(page.0)] += u32::try_from(new).expect("at most a page");
        self.set_count += new;
        new
    }

    /// The first block at or after `from` and before `end` whose bit is `value`.
    pub fn find(&self, value: bool, from: BlockIndex, end: BlockIndex) -> Option<BlockIndex> {
        let mut at = from.0;
        while at < end.0 {
            let page = at / BITS_PER_PAGE;
            let page_end = ((page + 1) * BITS_PER_PAGE).min(end.0);
            if self.page_may_hold(value, page) {
                let slice = self.slice(at, page_end);
                let found = if value {
                    slice.first_one()
                } else {
                    slice.first_zero()
                };
                if let Some(found) = found {
                    return Some(BlockIndex(at + found as u64));
                }
            }
            at = page_end;
        }
        None
    }

    fn page_may_hold(&self, value: bool, page: u64) -> bool {
        let count = u64::from(self.page_counts[to_usize(page)]);
        if value {
            count > 0
        } else {
            count < BITS_PER_PAGE
        }
    }

    /// How many blocks are allocated. Counted along, so asking costs nothing.
    pub fn count_set(&self) -> u64 {
        self.set_count
    }

    /// How many of the blocks from the first up to and without the second are allocated.
    pub fn count_within(&self, (first, end): (BlockIndex, BlockIndex)) -> u64 {
        self.slice(first.0, end.0).count_ones() as u64
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u64 {
        self.block_count
    }

    /// The 4096 bytes of a page.
    pub fn page(&self, page: PageIndex) -> &[u8] {
        let start = to_usize(page.0 * BITMAP_PAGE_SIZE);
        &self.bits.as_raw_slice().as_bytes()[start..start + PAGE_BYTES]
    }

    /// CRC32C of the used bytes. Its time grows with the pages that hold bits, and hardly with the others.
    pub fn crc(&self) -> u32 {
        let used = self.used_bytes();
        let (mut crc, mut at) = (0, 0);
        for run in self.page_counts.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
            let end = used.len().min(at + run.len() * PAGE_BYTES);
            // The last page may be used in part.
            let empty = if run[0] == 0 {
                (end - at) / PAGE_BYTES
            } else {
                0
            };
            crc = append_empty_pages(crc, empty as u64);
            crc = crc32c::crc32c_append(crc, &used[at + empty * PAGE_BYTES..end]);
            at = end;
        }
        crc
    }

    fn slice(&self, first: u64, end: u64) -> &BitSlice<u64, Lsb0> {
        &self.bits[to_usize(first)..to_usize(end)]
    }
}

/// How many bits are set. Most pages of a bitmap are mostly zeros, and these are passed over quickly.
fn count_ones(words: &[u64]) -> u32 {
    let lines = words.chunks(8);
    lines
        .filter(|line| line.iter().fold(0, |any, word| any | word) != 0)
        .flatten()
        .map(|word| word.count_ones())
        .sum()
}

/// Pages that the used part of a bitmap takes, one at least.
fn page_count(layout: &Layout) -> u64 {
    layout.bitmap_used_len().div_ceil(BITMAP_PAGE_SIZE)
}

/// The checksum after `pages` pages of zeros more, without looking at any.
fn append_empty_pages(mut crc: u32, pages: u64) -> u32 {
    if pages < EMPTY_PAGES_COMBINED {
        return (0..pages).fold(crc, |crc, _| crc32c::crc32c_append(crc, &EMPTY_PAGE));
    }
    // The checksum of 1, 2, 4, 8 ... pages, of which those are appended that the number is the sum of.
    let (mut left, mut len, mut of_len) = (pages, PAGE_BYTES, crc32c::crc32c(&EMPTY_PAGE));
    while left > 0 {
        if left & 1 == 1 {
            crc = crc32c::crc32c_combine(crc, of_len, len);
        }
        of_len = crc32c::crc32c_combine(of_len, of_len, len);
        len *= 2;
        left >>= 1;
    }
    crc
}

fn is_zero(bytes: &[u8]) -> bool {
    // In pieces that are looked at as a whole: byte by byte takes much longer.
    let mut pieces = bytes.chunks(64);
    pieces.all(|piece| piece.iter().fold(0, |any, byte| any | byte) == 0)
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
        let layout = Layout::for_new(blocks * 4096, BlockSize::MIN, Headroom::Exact).unwrap();
        Bitmap::empty(&layout).unwrap()
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
        bitmap.load(2, &[0b0001_0000]);
        assert_eq!(bitmap.bit_past_end(), Some(20));
        bitmap.load(2, &[0b0000_1000]);
        assert_eq!(bitmap.bit_past_end(), None);
    }

    #[test]
    fn pages_hold_32768_bits() {
        assert_eq!(PageIndex::of(BlockIndex(32_767)), PageIndex(0));
        assert_eq!(PageIndex::of(BlockIndex(32_768)), PageIndex(1));
    }

    /// Far enough that most pages stay empty, with a last page that is not whole.
    const LARGE: u64 = 500 * 32_768 + 77;

    #[test]
    fn pages_that_hold_nothing_are_passed_over_and_not_missed() {
        let mut bitmap = bitmap(LARGE);
        let b = BlockIndex;
        assert_eq!(bitmap.find(true, b(0), b(LARGE)), None);
        bitmap.set(b(3 * 32_768));
        bitmap.set(b(LARGE - 1));
        assert_eq!(bitmap.find(true, b(0), b(LARGE)), Some(b(3 * 32_768)));
        assert_eq!(
            bitmap.find(true, b(3 * 32_768 + 1), b(LARGE)),
            Some(b(LARGE - 1))
        );
        assert_eq!(bitmap.find(true, b(3 * 32_768 + 1), b(LARGE - 1)), None);
        bitmap.load(4096, &[0xff; 4096]);
        assert_eq!(bitmap.find(false, b(32_768), b(LARGE)), Some(b(65_536)));
        assert_eq!(bitmap.count_set(), 2 + 32_768);
    }

    #[test]
    fn the_checksum_is_that_of_all_used_bytes() {
        let mut bitmap = bitmap(LARGE);
        let check = |bitmap: &Bitmap| assert_eq!(bitmap.crc(), crc32c::crc32c(bitmap.used_bytes()));
        check(&bitmap);
        for block in [5, 300 * 32_768, 301 * 32_768 + 7, LARGE - 1] {
            bitmap.set(BlockIndex(block));
            check(&bitmap);
        }
    }

    #[test]
    fn the_checksum_can_be_taken_while_reading() {
        let layout = Layout::for_new(LARGE * 4096, BlockSize::MIN, Headroom::Exact).unwrap();
        let mut bitmap = bitmap(LARGE);
        for block in [5, 9000, 300 * 32_768, 301 * 32_768 + 7, LARGE - 1] {
            bitmap.set(BlockIndex(block));
        }
        let bytes = bitmap.used_bytes();
        // The pieces that a file system has storage for need not be whole pages.
        let mut checksum = RunningChecksum::default();
        for (at, piece) in (0..).step_by(1024).zip(bytes.chunks(1024)) {
            if piece.iter().any(|byte| *byte != 0) {
                checksum.take(at, piece);
            }
        }
        assert_eq!(checksum.finish(&layout), bitmap.crc());
    }

    #[test]
    fn the_checksum_without_bits_needs_no_bitmap() {
        for blocks in [1, 100, 32_768, 3 * 32_768 + 9, LARGE] {
            let layout = Layout::for_new(blocks * 4096, BlockSize::MIN, Headroom::Exact).unwrap();
            let bitmap = Bitmap::empty(&layout).unwrap();
            assert_eq!(Bitmap::crc_of_empty(&layout), bitmap.crc());
        }
    }

    #[test]
    fn what_is_loaded_replaces_what_was_there() {
        let mut bitmap = bitmap(100_000);
        bitmap.load(4090, &[0xff; 12]);
        assert_eq!(bitmap.count_set(), 96);
        assert_eq!(
            bitmap.find(true, BlockIndex(0), BlockIndex(100_000)),
            Some(BlockIndex(4090 * 8))
        );
        bitmap.load(4090, &[0x01; 12]);
        assert_eq!(bitmap.count_set(), 12);
    }

    #[test]
    fn a_grown_bitmap_has_room_and_no_new_bits() {
        let mut bitmap = bitmap(20);
        bitmap.set(BlockIndex(19));
        let layout = Layout::for_new(LARGE * 4096, BlockSize::MIN, Headroom::Exact).unwrap();
        bitmap.grow_into(Bitmap::empty(&layout).unwrap());
        assert_eq!((bitmap.block_count(), bitmap.count_set()), (LARGE, 1));
        assert_eq!(bitmap.find(true, BlockIndex(20), BlockIndex(LARGE)), None);
        assert!(bitmap.set(BlockIndex(LARGE - 1)));
    }
}
