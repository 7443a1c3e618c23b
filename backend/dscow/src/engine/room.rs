//! How far around a write that allocates blocks nothing else is, so that its driver may write more than it was asked to.

use super::Engine;
use super::claims::BlockRun;
use crate::units::{BlockIndex, DiskRange};

impl Engine {
    /// The largest range of whole blocks around `range` and within `bounds` whose contents nobody minds: no block of it
    /// is allocated, and no change under way touches it apart from `range` itself. `None` if `range`, a range of whole
    /// blocks that the driver was told to write, holds something already.
    ///
    /// Until it performs another action that names bytes of the room, the driver may write there what it likes: the
    /// bits of these blocks are not set, here or on the disk, so that nobody reads them from this file.
    ///
    /// # Panics
    /// If `range` is not within `bounds`, or they are not whole blocks of the disk.
    pub fn room_around(&self, range: DiskRange, bounds: DiskRange) -> Option<DiskRange> {
        let (first, end) = self.layout.blocks_touched(range.start.0, range.end());
        if self.bitmap.find(true, first, end).is_some() {
            return None;
        }
        assert_eq!((first, end), self.whole_blocks(range), "a first write");
        let (lowest, highest) = self.whole_blocks(bounds);
        assert!(
            lowest <= first && end <= highest,
            "{range:?} is not in {bounds:?}"
        );
        let (low, high) = self.claims.free_around((first, end), (lowest, highest));
        let above = self.bitmap.find(true, end, high).unwrap_or(high);
        let is_free = |block: &u64| !self.bitmap.is_set(BlockIndex(*block));
        let below = (low.0..first.0).rev().take_while(is_free).last();
        Some(self.bytes_of((below.map_or(first, BlockIndex), above)))
    }

    /// The runs of blocks within `bounds` that hold nothing and that no change under way touches. As for
    /// [`Engine::room_around`], the driver may do there what it likes until it performs another action that names them.
    ///
    /// # Panics
    /// If `bounds` are not whole blocks of the disk.
    pub fn unused_within(&self, bounds: DiskRange) -> Vec<DiskRange> {
        let (mut at, end) = self.whole_blocks(bounds);
        let mut runs = Vec::new();
        while let Some(first) = self.bitmap.find(false, at, end) {
            let stop = self.bitmap.find(true, first, end).unwrap_or(end);
            at = first;
            while at < stop {
                match self.claims.end_of_claim_at(at) {
                    Some(claimed) => at = claimed,
                    None => {
                        let (_, free) = self.claims.free_around((at, at), (at, stop));
                        runs.push(self.bytes_of((at, free)));
                        at = free;
                    }
                }
            }
        }
        runs
    }

    /// How many bytes the allocated blocks within `bounds` have.
    ///
    /// # Panics
    /// If `bounds` are not whole blocks of the disk.
    pub fn allocated_within(&self, bounds: DiskRange) -> u64 {
        let count = self.bitmap.count_within(self.whole_blocks(bounds));
        count << self.layout.block_size().shift()
    }

    /// Whether a write of `range` is the first to any of its blocks, as of now.
    pub fn is_first_write(&self, range: DiskRange) -> bool {
        let (first, end) = self.layout.blocks_touched(range.start.0, range.end());
        self.bitmap.find(false, first, end).is_some()
    }

    /// Bytes of the blocks that a write of `range` has to fill up with what the parents have, as of now: those at its ends
    /// that are neither allocated nor covered.
    pub fn filled_up_by_write(&self, range: DiskRange) -> u64 {
        if range.len == 0 {
            return 0;
        }
        let block_size = self.layout.block_size();
        let (first, end) = self.layout.blocks_touched(range.start.0, range.end());
        let last = BlockIndex(end.0 - 1);
        let is_filled = |block: BlockIndex| {
            let start = block_size.start_of(block).0;
            let covered = range.start.0 <= start && start + block_size.bytes() <= range.end();
            !covered && !self.bitmap.is_set(block)
        };
        let count = u64::from(is_filled(first)) + u64::from(last != first && is_filled(last));
        count * block_size.bytes()
    }

    fn whole_blocks(&self, range: DiskRange) -> BlockRun {
        let block_size = self.layout.block_size();
        let (first, end) = self.layout.blocks_touched(range.start.0, range.end());
        let is_whole = block_size.start_of(first) == range.start
            && block_size.start_of(end).0 == range.end()
            && end.0 <= self.layout.block_count();
        assert!(is_whole, "{range:?} is not whole blocks of the disk");
        (first, end)
    }

    fn bytes_of(&self, (first, end): BlockRun) -> DiskRange {
        let block_size = self.layout.block_size();
        let start = block_size.start_of(first).0;
        DiskRange::new(start, block_size.start_of(end).0 - start)
    }
}
