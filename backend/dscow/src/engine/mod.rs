//! The copy-on-write engine of one open image, without any I/O.
//!
//! A driver hands in requests ([`Engine::submit`]) and the results of actions ([`Engine::complete`]), and
//! performs the actions that [`Engine::next_action`] yields. All of it happens on one thread, so the
//! engine needs no locks. The order of writes and syncs is argued in docs/engine.md and beside the code.

mod action;
mod claims;
mod commit;
mod lifecycle;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use slab::Slab;
use uuid::Uuid;

pub use self::action::{Action, BounceId, Errno, Memory, OpId, Request, Token};
pub use self::read::Extent;
pub use crate::parents::Source;

use self::claims::Claims;
use self::commit::Commit;
use self::lifecycle::Lifecycle;
use self::read::ReadJob;
use self::write::WriteJob;
use crate::bitmap::Bitmap;
use crate::header::{Header, Slot};
use crate::layout::Layout;
use crate::parents::Parents;
use crate::units::{DiskRange, SECTOR_SIZE};

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

/// Counters since the image was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Blocks that were read from the parents, merged with a write, and written whole.
    pub copy_ups: u64,
    /// Blocks allocated.
    pub allocated: u64,
    /// Commits started.
    pub commits: u64,
}

/// The engine of one open image.
pub struct Engine {
    mode: Mode,
    header: Header,
    slot: Slot,
    layout: Layout,
    allocated_at_open: u64,
    bitmap: Bitmap,
    parents: Parents,
    lifecycle: Lifecycle,
    claims: Claims,
    commit: Commit,
    jobs: Slab<Job>,
    parts: Slab<Part>,
    actions: VecDeque<Action>,
    bounces: u64,
    stats: Stats,
}

/// A request under way.
enum Job {
    Read(ReadJob),
    Write(WriteJob),
}

/// What an action that is under way belongs to.
#[derive(Clone, Copy, Debug)]
enum Part {
    Read { job: usize },
    WriteDirect { job: usize },
    CopyUpRead { job: usize, index: usize },
    CopyUpWrite { job: usize, index: usize },
    Commit,
    Header,
}

impl Engine {
    /// The engine of an image whose current header was found in `slot`, with its bitmap loaded.
    ///
    /// Before the first request, call [`Engine::open`] and perform what it asks for.
    pub fn new(header: Header, slot: Slot, bitmap: Bitmap, parents: Parents, mode: Mode) -> Self {
        Self {
            mode,
            layout: header.layout,
            header,
            slot,
            allocated_at_open: bitmap.count_set(),
            bitmap,
            parents,
            lifecycle: Lifecycle::default(),
            claims: Claims::default(),
            commit: Commit::default(),
            jobs: Slab::new(),
            parts: Slab::new(),
            actions: VecDeque::new(),
            bounces: 0,
            stats: Stats::default(),
        }
    }

    /// Takes a request. It ends in exactly one [`Action::Finish`] with its token.
    ///
    /// A range that is not whole sectors within the disk finishes with `EINVAL`, a write to a read-only
    /// image with `EROFS`.
    pub fn submit(&mut self, token: Token, request: Request) {
        if let Err(errno) = self.admit(request) {
            self.finish(token, Err(errno));
            return;
        }
        match request {
            Request::Read(range) => self.read(token, range),
            Request::Write(range) => self.write(token, range),
            Request::Flush => self.flush(token),
        }
    }

    /// The action `op` is done.
    ///
    /// # Panics
    /// If `op` is not under way: an action was completed twice or invented.
    pub fn complete(&mut self, op: OpId, result: Result<(), Errno>) {
        match self.parts.remove(op.0) {
            Part::Read { job } => self.read_done(job, result),
            Part::WriteDirect { job } => self.write_part_done(job, result),
            Part::CopyUpRead { job, index } => self.copy_up_read_done(job, index, result),
            Part::CopyUpWrite { job, index } => self.copy_up_write_done(job, index, result),
            Part::Commit => self.commit_step(result),
            Part::Header => self.header_step(result),
        }
    }

    /// The next action to perform, if any.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Whether nothing is under way: no request, no commit, no action.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.parts.is_empty() && self.actions.is_empty()
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
        self.allocated_at_open + self.stats.allocated
    }

    /// Counters since the image was opened.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn admit(&self, request: Request) -> Result<(), Errno> {
        match request {
            Request::Read(range) => self.check_range(range),
            Request::Write(range) => {
                if self.mode == Mode::ReadOnly {
                    return Err(Errno::EROFS);
                }
                self.check_range(range)
            }
            Request::Flush => Ok(()),
        }?;
        self.lifecycle.admit()
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
