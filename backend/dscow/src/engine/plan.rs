//! How a change of the disk is carried out: which bytes are written straight away, which are zeroed, and which are
//! merged with what is there.
//!
//! A change (a write, or zeros) goes to its identity position. Two kinds of places at its ends cannot be written as
//! they are, and are read into a bounce buffer, overlaid, and written whole:
//!
//! * a block that is not allocated and not covered (copy-up): its other sectors come from the parents;
//! * a part of an allocated block that is not aligned as the file wants it.

use smallvec::SmallVec;

use super::claims::BlockRun;
use crate::bitmap::Bitmap;
use crate::layout::Layout;
use crate::parents::Parents;
use crate::units::{BlockIndex, DiskOffset, DiskRange, SECTOR_SIZE};

/// Zeros are looked at in steps of this many bytes: the largest block, so that a step ends where a block does.
const ZERO_STEP: u64 = 2 << 20;

/// A piece of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Write these bytes of the request.
    Data(DiskRange),
    /// Make these bytes zero. The range may reach past the end of the disk, to the end of its last block.
    Zero(DiskRange),
    /// Read this unit (a block, or an aligned part of one), overlay it, write it whole.
    Merge(DiskRange),
}

/// The pieces of a change, and its claims: the blocks that it may allocate, which nobody else may change meanwhile.
///
/// Allocated blocks need no claim, except where parts of them may be merged: nobody may write there between the
/// reading and the writing. Zeros claim what lies between the blocks that they allocate as well, which keeps nobody
/// from anything that needs no claim.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) pieces: SmallVec<[Piece; 3]>,
    pub(super) claims: SmallVec<[BlockRun; 2]>,
}

/// What the plan depends on.
pub(super) struct Planner<'a> {
    pub(super) layout: &'a Layout,
    pub(super) bitmap: &'a Bitmap,
    pub(super) parents: &'a Parents,
    /// To what offsets and lengths in the image's file have to be aligned, in bytes.
    pub(super) io_alignment: u64,
}

impl Planner<'_> {
    /// A write of `range`, of which the caller has found `zeros` (whole blocks, in order) to be all zeros.
    pub(super) fn write(self, range: DiskRange, zeros: &[DiskRange]) -> Plan {
        if zeros.is_empty() && self.goes_straight(range) {
            let mut plan = Plan::default();
            plan.pieces.push(Piece::Data(range));
            return plan;
        }
        let mut plan = Plan::default();
        let mut at = range.start.0;
        for zero in zeros {
            self.add(&mut plan, at, zero.start.0, Piece::Data);
            self.add_zeros(&mut plan, zero.start.0, zero.end());
            at = zero.end();
        }
        self.add(&mut plan, at, range.end(), Piece::Data);
        plan
    }

    /// Zeros in `range`.
    pub(super) fn zeros(self, range: DiskRange) -> Plan {
        let mut plan = Plan::default();
        self.add_zeros(&mut plan, range.start.0, range.end());
        plan
    }

    /// Whether a write of `range` allocates nothing and needs no merging: the common case.
    fn goes_straight(&self, range: DiskRange) -> bool {
        let (first, end) = self.layout.blocks_touched(range.start.0, range.end());
        self.io_alignment == SECTOR_SIZE && self.bitmap.all_set(first, end)
    }

    /// Zeros from `start` to `end`, except where nothing is allocated and the parents show zeros already. That is
    /// looked at in steps, so that a range of any pattern makes few pieces.
    fn add_zeros(&self, plan: &mut Plan, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let (mut until, needed) = self.zeros_step(at, end);
            while until < end {
                let (next, same) = self.zeros_step(until, end);
                if same != needed {
                    break;
                }
                until = next;
            }
            if needed {
                self.add(plan, at, until, Piece::Zero);
            }
            at = until;
        }
    }

    /// The end of the step at `at`, and whether something has to be done for it to read as zeros.
    fn zeros_step(&self, at: u64, end: u64) -> (u64, bool) {
        let until = end.min((at / ZERO_STEP + 1) * ZERO_STEP);
        let (first, last) = self.layout.blocks_touched(at, until);
        let allocated = self.bitmap.find(true, first, last).is_some();
        (until, allocated || !self.parents.is_zero(at, until))
    }

    /// Adds the change of `start..end` to the plan: in the middle as `piece` says, merged at the ends where needed.
    fn add(&self, plan: &mut Plan, start: u64, end: u64, piece: impl Fn(DiskRange) -> Piece) {
        if start >= end {
            return;
        }
        let zero = matches!(piece(DiskRange::new(start, end - start)), Piece::Zero(_));
        // Zeros may as well cover what lies past the end of the disk in its last block, which is zero by the format. But
        // not where others may write without a claim: a disk that grows meanwhile lets them write there.
        let is_claimed = !self.bitmap.is_set(self.block_of(end - 1));
        let reach = if zero && is_claimed && end == self.layout.virtual_size() {
            self.block_end(end - 1)
        } else {
            end
        };
        let mut middle = (start, reach);
        let head = self.unit_to_merge(start, start, reach);
        let tail = self.unit_to_merge(reach - 1, start, reach);
        if let Some(unit) = head {
            plan.pieces.push(Piece::Merge(unit));
            middle.0 = unit.end();
        }
        if let Some(unit) = tail.filter(|unit| Some(*unit) != head) {
            plan.pieces.push(Piece::Merge(unit));
            middle.1 = unit.start.0;
        }
        if middle.0 < middle.1 {
            let range = DiskRange::new(middle.0, middle.1 - middle.0);
            plan.pieces.push(piece(range));
        }
        let blocks = self.layout.blocks_touched(start, end);
        if zero || self.io_alignment > SECTOR_SIZE {
            plan.claim(blocks);
        } else {
            self.claim_unallocated(plan, blocks);
        }
    }

    /// The unit around the byte at `at`, if a change of `start..end` must not write there without reading first.
    fn unit_to_merge(&self, at: u64, start: u64, end: u64) -> Option<DiskRange> {
        let block = self.block_of(at);
        let (unit_start, unit_len) = if self.bitmap.is_set(block) {
            (at - at % self.io_alignment, self.io_alignment)
        } else {
            // A disk that ends inside its last block never covers it, so that the rest, past the end, is written with
            // zeros and shows nothing stale when the disk grows.
            let block_size = self.layout.block_size();
            (block_size.start_of(block).0, block_size.bytes())
        };
        let covered = start <= unit_start && unit_start + unit_len <= end;
        (!covered).then(|| DiskRange::new(unit_start, unit_len))
    }

    fn claim_unallocated(&self, plan: &mut Plan, (first, end): BlockRun) {
        let mut at = first;
        while let Some(start) = self.bitmap.find(false, at, end) {
            let stop = self.bitmap.find(true, start, end).unwrap_or(end);
            plan.claim((start, stop));
            at = stop;
        }
    }

    fn block_of(&self, at: u64) -> BlockIndex {
        self.layout.block_size().block_of(DiskOffset(at))
    }

    fn block_end(&self, at: u64) -> u64 {
        let block_size = self.layout.block_size();
        block_size.start_of(self.block_of(at)).0 + block_size.bytes()
    }
}

impl Plan {
    /// Adds a run of blocks that starts at or after the last one's end, or in its last block.
    fn claim(&mut self, (first, end): BlockRun) {
        match self.claims.last_mut() {
            Some(last) if first <= last.1 => last.1 = last.1.max(end),
            _ => self.claims.push((first, end)),
        }
    }
}
