//! Reads: split by who holds the bytes, one action for each run.

use smallvec::SmallVec;

use super::action::{Action, BounceId, Errno, Memory, Token};
use super::{Engine, Job, Part};
use crate::parents::{LayerIndex, Run, Source, allocation_run};
use crate::units::{DiskOffset, DiskRange, FileOffset};

/// A read under way.
pub(super) struct ReadJob {
    token: Token,
    bounced: SmallVec<[Bounced; 1]>,
    /// Actions not completed yet.
    pending: usize,
    /// The first failure.
    result: Result<(), Errno>,
}

/// A run of bytes of the disk that come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, at least 1.
    pub len: u64,
    /// Where they are.
    pub source: Source,
}

/// A run that is not aligned as the image's file wants it: more of it is read, and what was asked for copied out.
#[derive(Clone, Copy)]
struct Bounced {
    bounce: BounceId,
    from: Memory,
    to: Memory,
    len: u64,
}

impl Engine {
    /// Who holds the bytes from `at` on, and how many of them, not past `end`; what follows may be held by the same. A
    /// write under way does not count until it is finished.
    ///
    /// # Panics
    /// If `at` is not before `end`, or `end` past the end of the disk.
    pub fn extent_at(&self, at: u64, end: u64) -> Extent {
        assert!(
            at < end && end <= self.layout.virtual_size(),
            "{at}..{end} is not a range of the disk"
        );
        let Run { source, len } = self.run_at(at, end);
        Extent { len, source }
    }

    pub(super) fn read(&mut self, token: Token, range: DiskRange) {
        let job = self.jobs.insert(Job::Read(ReadJob {
            token,
            bounced: SmallVec::new(),
            pending: 0,
            result: Ok(()),
        }));
        let memory = Memory::Request { token, offset: 0 };
        let pending = self.read_runs(range, memory, |_| Part::Read { job });
        self.read_job(job).pending = pending;
        if pending == 0 {
            self.end_read(job);
        }
    }

    pub(super) fn read_done(&mut self, job: usize, result: Result<(), Errno>) {
        let read = self.read_job(job);
        read.result = read.result.and(result);
        read.pending -= 1;
        if read.pending == 0 {
            self.end_read(job);
        }
    }

    fn end_read(&mut self, job: usize) {
        let Job::Read(read) = self.jobs.remove(job) else {
            unreachable!("a read's parts name its job")
        };
        for Bounced {
            bounce,
            from,
            to,
            len,
        } in read.bounced
        {
            self.push(Action::Copy { from, to, len });
            self.push(Action::FreeBounce { bounce });
        }
        self.finish(read.token, read.result);
        self.job_ended();
    }

    /// Emits the actions that bring the bytes of `range` to `memory`; returns how many have to complete.
    pub(super) fn read_runs(
        &mut self,
        range: DiskRange,
        memory: Memory,
        part: impl Fn(usize) -> Part,
    ) -> usize {
        let (mut at, end) = (range.start.0, range.end());
        let mut pending = 0;
        while at < end {
            let run = self.run_at(at, end);
            let memory = memory.advanced(at - range.start.0);
            let len = run.len;
            match run.source {
                Source::Zero => self.push(Action::FillZero { memory, len }),
                Source::Layer(layer, offset) => {
                    let part = part(pending);
                    pending += 1;
                    if layer == LayerIndex::TOP && !self.is_aligned(offset.0 | len) {
                        self.read_bounced(part, offset, memory, len);
                    } else {
                        self.read_straight(part, layer, offset, memory, len);
                    }
                }
            }
            at += len;
        }
        pending
    }

    fn read_straight(
        &mut self,
        part: Part,
        layer: LayerIndex,
        offset: FileOffset,
        memory: Memory,
        len: u64,
    ) {
        let op = self.new_op(part);
        self.push(Action::Read {
            op,
            layer,
            offset,
            memory,
            len,
        });
    }

    /// Reads more of the image's file than asked for, as it wants to be read, into a buffer of its own.
    fn read_bounced(&mut self, part: Part, offset: FileOffset, memory: Memory, len: u64) {
        let Part::Read { job } = part else {
            unreachable!("copy-ups read from parents only")
        };
        let alignment = u64::from(self.options.io_alignment);
        let before = offset.0 % alignment;
        let whole = (before + len).next_multiple_of(alignment);
        let bounce = self.new_bounce();
        let at = |offset| Memory::Bounce { bounce, offset };
        self.push(Action::AllocBounce { bounce, len: whole });
        self.read_job(job).bounced.push(Bounced {
            bounce,
            from: at(before),
            to: memory,
            len,
        });
        let offset = FileOffset(offset.0 - before);
        self.read_straight(part, LayerIndex::TOP, offset, at(0), whole);
    }

    /// A run of bytes from `at`, not past `end`, that come from one place. What follows may come from there too.
    fn run_at(&self, at: u64, end: u64) -> Run {
        let (allocated, until) = allocation_run(&self.layout, &self.bitmap, at, end);
        if allocated {
            let position = self.layout.data_position(DiskOffset(at));
            return Run::from_layer(LayerIndex::TOP, position, until - at);
        }
        if at >= self.parent_limit {
            return Run::zero(until - at);
        }
        self.parents.run_at(at, until.min(self.parent_limit))
    }

    /// Whether a position or length, or several or-ed together, is aligned as the image's file wants it.
    fn is_aligned(&self, bits: u64) -> bool {
        bits.is_multiple_of(self.options.io_alignment.into())
    }
}

impl Memory {
    /// The position `by` bytes further on.
    pub(super) fn advanced(self, by: u64) -> Self {
        match self {
            Self::Request { token, offset } => Self::Request {
                token,
                offset: offset + by,
            },
            Self::Bounce { bounce, offset } => Self::Bounce {
                bounce,
                offset: offset + by,
            },
        }
    }
}
