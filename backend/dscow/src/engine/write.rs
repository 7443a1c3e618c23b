//! Changes of the disk: writes, zeros and discards, from the claim to the bit.
//!
//! Bits are set when *all* of a change is carried out, never before: a read that came in between would see a hole
//! instead of the parent's data. How a change is carried out is decided in [`super::plan`].

use smallvec::SmallVec;

use super::action::{Action, BounceId, Errno, Memory, OpId, Token};
use super::claims::BlockRun;
use super::plan::{Piece, Plan, Planner};
use super::{Engine, Job, Part};
use crate::bitmap::PageIndex;
use crate::parents::LayerIndex;
use crate::units::{DiskOffset, DiskRange};

/// A larger range of zeros is carried out in windows of this many bytes, one after the other, so that no request takes
/// the engine for long.
const ZERO_WINDOW: u64 = 1 << 30;

/// A change under way, or waiting for another one.
pub(super) struct WriteJob {
    token: Token,
    content: Content,
    /// What is being changed now.
    range: DiskRange,
    /// The end of the request; beyond that of `range` if it is carried out in windows.
    end: u64,
    claims: SmallVec<[BlockRun; 2]>,
    merges: SmallVec<[Merge; 2]>,
    /// Pieces that are not done yet.
    pending: usize,
    /// The first failure.
    result: Result<(), Errno>,
}

/// What a change puts on the disk.
enum Content {
    /// The request's buffer, in which these whole blocks are known to be zeros.
    Buffer { zeros: Box<[DiskRange]> },
    /// Zeros.
    Zeros,
}

/// A unit on its way through a bounce buffer: read, overlaid, written whole.
struct Merge {
    unit: DiskRange,
    bounce: BounceId,
    reads_pending: usize,
    result: Result<(), Errno>,
}

impl Engine {
    pub(super) fn write(&mut self, token: Token, range: DiskRange, zeros: &[DiskRange]) {
        let zeros = zeros.into();
        self.change(token, Content::Buffer { zeros }, range);
    }

    pub(super) fn write_zeroes(&mut self, token: Token, range: DiskRange) {
        self.change(token, Content::Zeros, range);
    }

    /// Whole blocks become zeros; what a discard covers of the blocks at its ends is left as it is.
    pub(super) fn discard(&mut self, token: Token, range: DiskRange) {
        let block = self.layout.block_size().bytes();
        let start = range.start.0.next_multiple_of(block);
        let end = match range.end() {
            end if end == self.layout.virtual_size() => end,
            end => end - end % block,
        };
        if start < end {
            self.write_zeroes(token, DiskRange::new(start, end - start));
        } else {
            self.finish(token, Ok(()));
        }
    }

    fn change(&mut self, token: Token, content: Content, range: DiskRange) {
        let window = match content {
            Content::Buffer { .. } => range,
            Content::Zeros => window_at(range.start.0, range.end()),
        };
        let job = self.jobs.insert(Job::Write(WriteJob {
            token,
            content,
            range: window,
            end: range.end(),
            claims: SmallVec::new(),
            merges: SmallVec::new(),
            pending: 0,
            result: Ok(()),
        }));
        self.try_change(job);
    }

    /// Starts the change, or leaves it waiting for a claim on one of its blocks.
    fn try_change(&mut self, job: usize) {
        let Plan { pieces, claims } = loop {
            let plan = self.plan(job);
            if !plan.pieces.is_empty() {
                break plan;
            }
            if !self.next_window(job) {
                self.end_change(job);
                return self.job_ended();
            }
        };
        // All or nothing: a change that held some of its blocks while it waits for others could wait for one that
        // waits for it.
        for run in &claims {
            if self.claims.wait_if_claimed(*run, job) {
                return;
            }
        }
        for run in &claims {
            self.claims.claim(*run);
        }
        let write = self.write_job(job);
        write.claims = claims;
        write.pending = pieces.len();
        for piece in pieces {
            match piece {
                Piece::Merge(unit) => self.start_merge(job, unit),
                Piece::Data(range) => self.start_io(Part::WriteData { job, range }),
                Piece::Zero(range) => self.start_io(Part::ZeroData { job, range }),
            }
        }
    }

    /// Goes on to the next window of the change; tells whether there is one.
    fn next_window(&mut self, job: usize) -> bool {
        let write = self.write_job(job);
        if write.range.end() == write.end {
            return false;
        }
        write.range = window_at(write.range.end(), write.end);
        write.merges.clear();
        true
    }

    fn end_change(&mut self, job: usize) {
        let Job::Write(write) = self.jobs.remove(job) else {
            unreachable!("a change's parts name its job")
        };
        self.change_done(write.token, write.result);
    }

    fn plan(&self, job: usize) -> Plan {
        let Job::Write(write) = &self.jobs[job] else {
            unreachable!("a change's parts name its job")
        };
        let planner = Planner {
            layout: &self.layout,
            bitmap: &self.bitmap,
            parents: &self.parents,
            io_alignment: self.options.io_alignment.into(),
        };
        match &write.content {
            Content::Buffer { zeros } => planner.write(write.range, zeros),
            Content::Zeros => planner.zeros(write.range),
        }
    }

    fn start_merge(&mut self, job: usize, unit: DiskRange) {
        let bounce = self.new_bounce();
        let write = self.write_job(job);
        let index = write.merges.len();
        write.merges.push(Merge {
            unit,
            bounce,
            reads_pending: 0,
            result: Ok(()),
        });
        let len = unit.len;
        self.push(Action::AllocBounce { bounce, len });
        let memory = Memory::Bounce { bounce, offset: 0 };
        let reads = if self
            .bitmap
            .is_set(self.layout.block_size().block_of(unit.start))
        {
            let op = self.new_op(Part::MergeRead { job, index });
            self.push(Action::Read {
                op,
                layer: LayerIndex::TOP,
                offset: self.layout.data_position(unit.start),
                memory,
                len,
            });
            1
        } else {
            self.start_copy_up(job, index, memory)
        };
        self.write_job(job).merges[index].reads_pending = reads;
        if reads == 0 {
            self.merge_filled(job, index);
        }
    }

    /// Emits the reads of a block from the parents; returns how many have to complete.
    fn start_copy_up(&mut self, job: usize, index: usize, memory: Memory) -> usize {
        self.stats.copy_ups += 1;
        let DiskRange { start, len } = self.write_job(job).merges[index].unit;
        let on_disk = len.min(self.layout.virtual_size() - start.0);
        if on_disk < len {
            let memory = memory.advanced(on_disk);
            let len = len - on_disk;
            self.push(Action::FillZero { memory, len });
        }
        self.read_runs(DiskRange::new(start.0, on_disk), memory, |_| {
            Part::MergeRead { job, index }
        })
    }

    pub(super) fn merge_read_done(&mut self, job: usize, index: usize, result: Result<(), Errno>) {
        let merge = &mut self.write_job(job).merges[index];
        merge.result = merge.result.and(result);
        merge.reads_pending -= 1;
        if merge.reads_pending == 0 {
            self.merge_filled(job, index);
        }
    }

    /// The bounce buffer holds the unit as it was: overlay the change and write.
    fn merge_filled(&mut self, job: usize, index: usize) {
        let write = self.write_job(job);
        let merge = &write.merges[index];
        if merge.result.is_err() {
            let result = merge.result;
            self.merge_write_done(job, index, result);
            return;
        }
        let from = write.range.start.0.max(merge.unit.start.0);
        let to = write.range.end().min(merge.unit.end());
        let memory = Memory::Bounce {
            bounce: merge.bounce,
            offset: from - merge.unit.start.0,
        };
        let len = to - from;
        let overlay = match write.content {
            Content::Zeros => Action::FillZero { memory, len },
            Content::Buffer { .. } => Action::Copy {
                from: write.memory_at(DiskOffset(from)),
                to: memory,
                len,
            },
        };
        self.push(overlay);
        self.start_io(Part::MergeWrite { job, index });
    }

    pub(super) fn merge_write_done(&mut self, job: usize, index: usize, result: Result<(), Errno>) {
        let bounce = self.write_job(job).merges[index].bounce;
        self.push(Action::FreeBounce { bounce });
        self.piece_done(job, result);
    }

    pub(super) fn piece_done(&mut self, job: usize, result: Result<(), Errno>) {
        let write = self.write_job(job);
        write.result = write.result.and(result);
        write.pending -= 1;
        if write.pending == 0 {
            self.window_done(job);
        }
    }

    /// All of the present window is carried out, or failed.
    fn window_done(&mut self, job: usize) {
        let write = self.write_job(job);
        let claims = std::mem::take(&mut write.claims);
        let succeeded = write.result.is_ok();
        // A failed change allocates nothing: its blocks show what they did before.
        if succeeded {
            for run in &claims {
                self.allocate(*run);
            }
        }
        let goes_on = succeeded && self.next_window(job);
        if !goes_on {
            self.end_change(job);
        }
        for run in &claims {
            for waiter in self.claims.release(*run) {
                self.try_change(waiter);
            }
        }
        if goes_on {
            self.try_change(job);
        }
        self.job_ended();
    }

    fn allocate(&mut self, run: BlockRun) {
        let before = self.stats.allocated;
        for (page, part) in PageIndex::split(run) {
            let new = self.bitmap.set_run(part);
            if new > 0 {
                self.stats.allocated += new;
                self.commit.mark_dirty(page);
            }
        }
        if self.stats.allocated > before
            && let Some(allocations) = &mut self.allocations
        {
            allocations.push(run);
        }
    }

    /// The action that writes a range of the request to its identity position.
    pub(super) fn write_of(&mut self, op: OpId, job: usize, range: DiskRange) -> Action {
        Action::WriteData {
            op,
            offset: self.layout.data_position(range.start),
            memory: self.write_job(job).memory_at(range.start),
            len: range.len,
        }
    }

    /// The action that writes a merged unit.
    pub(super) fn write_of_merge(&mut self, op: OpId, job: usize, index: usize) -> Action {
        let Merge { unit, bounce, .. } = self.write_job(job).merges[index];
        Action::WriteData {
            op,
            offset: self.layout.data_position(unit.start),
            memory: Memory::Bounce { bounce, offset: 0 },
            len: unit.len,
        }
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

fn window_at(start: u64, end: u64) -> DiskRange {
    let window_end = (start / ZERO_WINDOW + 1) * ZERO_WINDOW;
    DiskRange::new(start, end.min(window_end) - start)
}
