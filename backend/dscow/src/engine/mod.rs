//! The copy-on-write engine of one open image, without any I/O.
//!
//! A driver hands in requests ([`Engine::submit`]) and the results of actions ([`Engine::complete`]), and
//! performs the actions that [`Engine::next_action`] yields. All of it happens on one thread, so the
//! engine needs no locks. The order of writes and syncs is argued in docs/engine.md and beside the code.

mod action;
mod barrier;
mod claims;
mod commit;
mod grow;
mod lifecycle;
mod plan;
mod read;
mod room;
mod stall;
mod write;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use slab::Slab;
use uuid::Uuid;

pub use self::action::{Action, BounceId, Errno, Memory, OpId, Request, Token};
pub use self::read::Extent;
pub use crate::parents::Source;

use self::barrier::Barriers;
use self::claims::{BlockRun, Claims};
use self::commit::Commit;
use self::lifecycle::Lifecycle;
use self::read::ReadJob;
use self::write::WriteJob;
use crate::bitmap::Bitmap;
use crate::header::{Header, Slot};
use crate::layout::Layout;
use crate::parents::Parents;
use crate::units::{BlockIndex, DiskRange, SECTOR_SIZE};

/// Whether the image may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is ever written, not even the header.
    ReadOnly,
    /// Opened for writing by this owner; the header will say so.
    Writable {
        /// Random identity of the process.
        owner: Uuid,
    },
}

/// What is done when the host has run out of space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNoSpace {
    /// The write fails with `ENOSPC`.
    #[default]
    Report,
    /// The write waits, see [`Engine::stalled`].
    Pause,
}

/// How an image is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// To what offsets and lengths in the image's own file are aligned, in bytes: a power of two from 512 to 4096.
    /// Requests that are not are read and merged into larger units.
    pub io_alignment: u32,
    /// What is done when the host has run out of space.
    pub on_no_space: OnNoSpace,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            io_alignment: 512,
            on_no_space: OnNoSpace::default(),
        }
    }
}

/// Counters since the image was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks that were read from the parents, merged with a write, and written whole.
    pub copy_ups: u64,
    /// Blocks allocated.
    pub allocated: u64,
    /// Commits started.
    pub commits: u64,
    /// Writes that had to wait for space on the host; each time that one had to counts.
    pub stalls: u64,
}

/// The engine of one open image.
pub struct Engine {
    mode: Mode,
    options: Options,
    header: Header,
    slot: Slot,
    layout: Layout,
    bitmap: Bitmap,
    /// The bitmap of the disk that it is growing to.
    room: Option<Bitmap>,
    parents: Parents,
    /// How many bytes of the parent show through.
    parent_limit: u64,
    lifecycle: Lifecycle,
    claims: Claims,
    barriers: Barriers,
    commit: Commit,
    /// Parts that wait for space on the host.
    stalled: Vec<OpId>,
    jobs: Slab<Job>,
    parts: Slab<Part>,
    actions: VecDeque<Action>,
    bounces: u64,
    /// What was allocated and not told yet, if somebody wants to know.
    allocations: Option<Vec<BlockRun>>,
    /// Some request was to change the disk.
    changed: bool,
    stats: Stats,
}

/// A request under way.
enum Job {
    Read(ReadJob),
    Write(WriteJob),
}

/// What an action that is under way belongs to. Those that may have to be repeated say all that it takes.
#[derive(Clone, Copy, Debug)]
enum Part {
    Read { job: usize },
    WriteData { job: usize, range: DiskRange },
    ZeroData { job: usize, range: DiskRange },
    MergeRead { job: usize, index: usize },
    MergeWrite { job: usize, index: usize },
    BitmapWrite { run: usize },
    CommitSync,
    Header,
    HeaderSync,
    Length,
}

/// A request that has been found valid.
enum Admitted {
    Plain(Request),
    WriteWithZeros(DiskRange, Box<[DiskRange]>),
}

impl Engine {
    /// The engine of an image whose current header was found in `slot`, with its bitmap loaded.
    ///
    /// Before the first request, call [`Engine::open`] and perform what it asks for.
    ///
    /// # Panics
    /// If the alignment in the options is not one that they allow.
    pub fn new(
        header: Header,
        slot: Slot,
        bitmap: Bitmap,
        parents: Parents,
        mode: Mode,
        options: Options,
    ) -> Self {
        let alignment = options.io_alignment;
        assert!(
            alignment.is_power_of_two() && (512..=4096).contains(&alignment),
            "an alignment of {alignment} bytes is not supported"
        );
        Self {
            mode,
            options,
            layout: header.layout,
            parent_limit: header.parent_limit.unwrap_or(u64::MAX),
            header,
            slot,
            bitmap,
            room: None,
            parents,
            lifecycle: Lifecycle::default(),
            claims: Claims::default(),
            barriers: Barriers::default(),
            commit: Commit::default(),
            stalled: Vec::new(),
            jobs: Slab::new(),
            parts: Slab::new(),
            actions: VecDeque::new(),
            bounces: 0,
            allocations: None,
            changed: false,
            stats: Stats::default(),
        }
    }

    /// Takes a request. It ends in exactly one [`Action::Finish`] with its token.
    ///
    /// A range that is not whole sectors within the disk finishes with `EINVAL`, a change of a read-only
    /// image with `EROFS`.
    pub fn submit(&mut self, token: Token, request: Request) {
        match self.admit(request) {
            Ok(()) => self.start_or_hold(token, Admitted::Plain(request)),
            Err(errno) => self.finish(token, Err(errno)),
        }
    }

    /// Takes a write, of which the caller has found some blocks to be all zeros: these become holes. `zeros` has
    /// ranges of whole blocks within `range`, in order; the last may end with the disk. What lies there in the
    /// request's buffer is not looked at again.
    ///
    /// # Panics
    /// If `zeros` is not like that.
    pub fn submit_write(&mut self, token: Token, range: DiskRange, zeros: &[DiskRange]) {
        if zeros.is_empty() {
            return self.submit(token, Request::Write(range));
        }
        match self.admit(Request::Write(range)) {
            Ok(()) => {
                self.assert_whole_blocks(range, zeros);
                self.start_or_hold(token, Admitted::WriteWithZeros(range, zeros.into()));
            }
            Err(errno) => self.finish(token, Err(errno)),
        }
    }

    /// The action `op` is done.
    ///
    /// # Panics
    /// If `op` is not under way: an action was completed twice or invented.
    pub fn complete(&mut self, op: OpId, result: Result<(), Errno>) {
        if self.stalls(op, result) {
            self.stall(op);
        } else {
            self.completed(op, result);
        }
    }

    fn completed(&mut self, op: OpId, result: Result<(), Errno>) {
        match self.parts.remove(op.0) {
            Part::Read { job } => self.read_done(job, result),
            Part::WriteData { job, .. } | Part::ZeroData { job, .. } => {
                self.piece_done(job, result);
            }
            Part::MergeRead { job, index } => self.merge_read_done(job, index, result),
            Part::MergeWrite { job, index } => self.merge_write_done(job, index, result),
            Part::BitmapWrite { .. } | Part::CommitSync => self.commit_step(result),
            Part::Header => self.header_written(result),
            Part::HeaderSync => {
                self.commit.note_sync(result);
                self.header_synced(result);
            }
            Part::Length => self.length_set(result),
        }
    }

    fn start_or_hold(&mut self, token: Token, request: Admitted) {
        if self.barriers.is_active() {
            self.barriers.hold(token, request);
        } else {
            self.start(token, request);
        }
    }

    fn start(&mut self, token: Token, request: Admitted) {
        match request {
            Admitted::Plain(Request::Read(range)) => self.read(token, range),
            Admitted::Plain(Request::Write(range)) => self.write(token, range, &[]),
            Admitted::WriteWithZeros(range, zeros) => self.write(token, range, &zeros),
            Admitted::Plain(Request::Barrier(range)) => self.barrier(token, range),
            Admitted::Plain(Request::Discard(range)) => self.discard(token, range),
            Admitted::Plain(Request::WriteZeroes(range)) => self.write_zeroes(token, range),
            Admitted::Plain(Request::Flush) => self.flush(token),
        }
    }

    /// From now on [`Engine::take_allocations`] has something to tell.
    pub fn tell_allocations(&mut self) {
        self.allocations.get_or_insert_default();
    }

    /// The blocks that were allocated since the last call, as runs from a first block up to and without another one. Who
    /// is to know of them whatever happens takes them before performing an [`Action::Finish`]: it is only then that the
    /// client relies on them.
    pub fn take_allocations(&mut self) -> Vec<(BlockIndex, BlockIndex)> {
        self.allocations
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// The next action to perform, if any.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether nothing is under way: no request, no commit, no action.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
            && self.parts.is_empty()
            && self.actions.is_empty()
            && !self.barriers.is_active()
    }

    /// Whether blocks were allocated that no commit covers yet.
    pub fn has_uncommitted_bits(&self) -> bool {
        self.commit.has_uncommitted_bits()
    }

    /// The failure after which no flush succeeds any more, if there was one.
    pub fn failure(&self) -> Option<Errno> {
        self.commit.failure()
    }

    /// Sizes and positions.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The current header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many blocks are allocated now. Counted along, so asking costs nothing.
    pub fn allocated_blocks(&self) -> u64 {
        self.bitmap.count_set()
    }

    /// Whether the block that the disk ends in is allocated.
    pub fn has_last_block(&self) -> bool {
        self.bitmap
            .is_set(BlockIndex(self.layout.block_count() - 1))
    }

    /// Whether anything was to be changed since it was opened.
    pub fn has_changed(&self) -> bool {
        self.changed
    }

    /// Counters since the image was opened.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn admit(&mut self, request: Request) -> Result<(), Errno> {
        let changed = match request {
            Request::Flush => None,
            Request::Read(range) => {
                self.check_range(range)?;
                None
            }
            Request::Barrier(range) if range.len == 0 => None,
            Request::Write(range)
            | Request::Barrier(range)
            | Request::Discard(range)
            | Request::WriteZeroes(range) => Some(range),
        };
        if let Some(range) = changed {
            if self.mode == Mode::ReadOnly {
                return Err(Errno::EROFS);
            }
            self.check_range(range)?;
        }
        self.lifecycle.admit()?;
        self.changed |= changed.is_some();
        Ok(())
    }

    fn assert_whole_blocks(&self, range: DiskRange, zeros: &[DiskRange]) {
        let block = self.layout.block_size().bytes();
        let mut at = range.start.0;
        for zero in zeros {
            let ends_well =
                zero.end().is_multiple_of(block) || zero.end() == self.layout.virtual_size();
            let is_whole = zero.start.0.is_multiple_of(block) && ends_well;
            assert!(
                is_whole && zero.start.0 >= at && zero.len > 0,
                "{zero:?} in {range:?}"
            );
            at = zero.end();
        }
        assert!(at <= range.end(), "zeros reach beyond {range:?}");
    }

    fn check_range(&self, range: DiskRange) -> Result<(), Errno> {
        let whole_sectors =
            range.start.0.is_multiple_of(SECTOR_SIZE) && range.len.is_multiple_of(SECTOR_SIZE);
        let inside = range
            .start
            .0
            .checked_add(range.len)
            .is_some_and(|end| end <= self.layout.virtual_size());
        if whole_sectors && inside && range.len > 0 {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }

    fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    fn new_op(&mut self, part: Part) -> OpId {
        OpId(self.parts.insert(part))
    }

    fn finish(&mut self, token: Token, result: Result<(), Errno>) {
        self.push(Action::Finish { token, result });
    }

    fn new_bounce(&mut self) -> BounceId {
        self.bounces += 1;
        BounceId(self.bounces)
    }

    fn read_job(&mut self, job: usize) -> &mut ReadJob {
        match &mut self.jobs[job] {
            Job::Read(read) => read,
            Job::Write(_) => unreachable!("a part names a job of its own kind"),
        }
    }

    fn write_job(&mut self, job: usize) -> &mut WriteJob {
        match &mut self.jobs[job] {
            Job::Write(write) => write,
            Job::Read(_) => unreachable!("a part names a job of its own kind"),
        }
    }
}
