//! Writes, and the copy-up of blocks that are written in part for the first time.
//!
//! A write goes to its identity position in one piece, except for at most two blocks at its ends that
//! are not allocated and not written whole: each of those is read from the parents into a bounce buffer,
//! overlaid with the guest's sectors, and written whole.
//!
//! Bits are set when *all* the data of the request is written, never before: a read that came in between
//! would see a hole instead of the parent's data.

use smallvec::SmallVec;

use super::action::{Action, BounceId, Errno, Memory, Token};
use super::claims::BlockRun;
use super::{Engine, Job, Part};
use crate::bitmap::PageIndex;
use crate::units::{BlockIndex, DiskOffset, DiskRange};

/// A write under way, or waiting for another one.
pub(super) struct WriteJob {
    token: Token,
    range: DiskRange,
    /// Runs of blocks that this write allocates.
    claimed: SmallVec<[BlockRun; 2]>,
    copy_ups: SmallVec<[CopyUp; 2]>,
    /// Direct writes and copy-ups that are not done yet.
    pending: usize,
    /// The first failure.
    result: Result<(), Errno>,
}

/// One block on its way from the parents to the image.
struct CopyUp {
    block: BlockIndex,
    bounce: BounceId,
    reads_pending: usize,
    result: Result<(), Errno>,
}

impl Engine {
    pub(super) fn write(&mut self, token: Token, range: DiskRange) {
        let job = self.jobs.insert(Job::Write(WriteJob {
            token,
            range,
            claimed: SmallVec::new(),
            copy_ups: SmallVec::new(),
            pending: 0,
            result: Ok(()),
        }));
        self.try_write(job);
    }

    /// Starts the write, or leaves it waiting for a claim on one of its blocks.
    fn try_write(&mut self, job: usize) {
        let range = self.write_job(job).range;
        let (first, end) = self.layout.blocks_touched(range.start.0, range.end());
        if self.bitmap.all_set(first, end) {
            self.write_direct(job, range);
            return;
        }
        let unallocated = self.unallocated_runs((first, end));
        // All or nothing: a write that held some of its blocks while it waits for others could wait for
        // a write that waits for it.
        for run in &unallocated {
            if self.claims.wait_if_claimed(*run, job) {
                return;
            }
        }
        for run in &unallocated {
            self.claims.claim(*run);
        }
        self.write_job(job).claimed = unallocated;
        self.start_claimed_write(job, range, (first, end));
    }

    fn start_claimed_write(&mut self, job: usize, range: DiskRange, (first, end): BlockRun) {
        let block_size = self.layout.block_size();
        let last = BlockIndex(end.0 - 1);
        let mut direct_start = range.start.0;
        let mut direct_end = range.end();
        if self.needs_copy_up(first, range) {
            self.start_copy_up(job, first);
            direct_start = block_size.start_of(BlockIndex(first.0 + 1)).0;
        }
        if last != first && self.needs_copy_up(last, range) {
            self.start_copy_up(job, last);
            direct_end = block_size.start_of(last).0;
        }
        if direct_start < direct_end {
            self.write_direct(job, DiskRange::new(direct_start, direct_end - direct_start));
        }
    }

    /// Whether `block` is not allocated and `range` does not cover all of it.
    ///
    /// The last block of a disk that ends inside it is never covered, so its rest past the end of the
    /// disk is written with zeros and shows nothing stale when the disk grows.
    fn needs_copy_up(&self, block: BlockIndex, range: DiskRange) -> bool {
        let block_size = self.layout.block_size();
        let start = block_size.start_of(block).0;
        let covered = range.start.0 <= start && start + block_size.bytes() <= range.end();
        !covered && !self.bitmap.is_set(block)
    }

    fn unallocated_runs(&self, (first, end): BlockRun) -> SmallVec<[BlockRun; 2]> {
        let mut runs = SmallVec::new();
        let mut at = first;
        while let Some(start) = self.bitmap.find(false, at, end) {
            let stop = self.bitmap.find(true, start, end).unwrap_or(end);
            runs.push((start, stop));
            at = stop;
        }
        runs
    }

    /// Writes `range`, a part of the request's range, from the request's buffer to its identity position.
    fn write_direct(&mut self, job: usize, range: DiskRange) {
        let write = self.write_job(job);
        write.pending += 1;
        let memory = write.memory_at(range.start);
        let op = self.new_op(Part::WriteDirect { job });
        self.push(Action::WriteData {
            op,
            offset: self.layout.data_position(range.start),
            memory,
            len: range.len,
        });
    }

    fn start_copy_up(&mut self, job: usize, block: BlockIndex) {
        self.stats.copy_ups += 1;
        let bounce = self.new_bounce();
        let write = self.write_job(job);
        let index = write.copy_ups.len();
        write.pending += 1;
        write.copy_ups.push(CopyUp {
            block,
            bounce,
            reads_pending: 0,
            result: Ok(()),
        });
        let block_size = self.layout.block_size();
        let start = block_size.start_of(block).0;
        let on_disk = block_size.bytes().min(self.layout.virtual_size() - start);
        let memory = Memory::Bounce { bounce, offset: 0 };
        self.push(Action::AllocBounce {
            bounce,
            len: block_size.bytes(),
        });
        if on_disk < block_size.bytes() {
            self.push(Action::FillZero {
                memory: memory.advanced(on_disk),
                len: block_size.bytes() - on_disk,
            });
        }
        let reads = self.read_runs(DiskRange::new(start, on_disk), memory, |_| {
            Part::CopyUpRead { job, index }
        });
        self.write_job(job).copy_ups[index].reads_pending = reads;
        if reads == 0 {
            self.copy_up_filled(job, index);
        }
    }

    pub(super) fn copy_up_read_done(
        &mut self,
        job: usize,
        index: usize,
        result: Result<(), Errno>,
    ) {
        let copy_up = &mut self.write_job(job).copy_ups[index];
        copy_up.result = copy_up.result.and(result);
        copy_up.reads_pending -= 1;
        if copy_up.reads_pending == 0 {
            self.copy_up_filled(job, index);
        }
    }

    /// The bounce buffer holds the block as the parents have it: overlay the guest's sectors and write.
    fn copy_up_filled(&mut self, job: usize, index: usize) {
        let block_size = self.layout.block_size();
        let write = self.write_job(job);
        let CopyUp {
            block,
            bounce,
            result,
            ..
        } = write.copy_ups[index];
        if result.is_err() {
            self.copy_up_write_done(job, index, result);
            return;
        }
        let start = block_size.start_of(block).0;
        let from = write.range.start.0.max(start);
        let to = write.range.end().min(start + block_size.bytes());
        let source = write.memory_at(DiskOffset(from));
        let memory = Memory::Bounce { bounce, offset: 0 };
        self.push(Action::Copy {
            from: source,
            to: memory.advanced(from - start),
            len: to - from,
        });
        let op = self.new_op(Part::CopyUpWrite { job, index });
        self.push(Action::WriteData {
            op,
            offset: self.layout.data_position(DiskOffset(start)),
            memory,
            len: block_size.bytes(),
        });
    }

    pub(super) fn copy_up_write_done(
        &mut self,
        job: usize,
        index: usize,
        result: Result<(), Errno>,
    ) {
        let bounce = self.write_job(job).copy_ups[index].bounce;
        self.push(Action::FreeBounce { bounce });
        self.write_part_done(job, result);
    }

    pub(super) fn write_part_done(&mut self, job: usize, result: Result<(), Errno>) {
        let write = self.write_job(job);
        write.result = write.result.and(result);
        write.pending -= 1;
        if write.pending == 0 {
            self.finish_write(job);
        }
    }

    fn finish_write(&mut self, job: usize) {
        let Job::Write(write) = self.jobs.remove(job) else {
            unreachable!("a write's parts name its job")
        };
        // A failed write allocates nothing: its blocks show the parents as before.
        if write.result.is_ok() {
            for run in &write.claimed {
                self.allocate(*run);
            }
        }
        self.finish(write.token, write.result);
        for run in &write.claimed {
            for waiter in self.claims.release(*run) {
                self.try_write(waiter);
            }
        }
    }

    fn allocate(&mut self, (first, end): BlockRun) {
        for block in (first.0..end.0).map(BlockIndex) {
            let was_new = self.bitmap.set(block);
            debug_assert!(was_new, "claimed blocks are not allocated");
            self.commit.mark_dirty(PageIndex::of(block));
        }
        self.stats.allocated += end.0 - first.0;
    }
}

impl WriteJob {
    /// Where in the request's buffer the byte for `at` is.
    fn memory_at(&self, at: DiskOffset) -> Memory {
        Memory::Request {
            token: self.token,
            offset: at.0 - self.range.start.0,
        }
    }
}
