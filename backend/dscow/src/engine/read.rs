//! Reads: split by who holds the bytes, one action for each run.

use super::action::{Action, Errno, Memory, Token};
use super::{Engine, Job, Part};
use crate::parents::{LayerIndex, Run, Source, allocation_run};
use crate::units::{DiskOffset, DiskRange};

/// A read under way.
pub(super) struct ReadJob {
    token: Token,
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

impl Engine {
    /// Who holds the bytes from `at` on, as far as one layer does, and not past `end`. A write under way does not count
    /// until it is finished.
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
            pending: 0,
            result: Ok(()),
        }));
        let pending = self.read_runs(range, Memory::Request { token, offset: 0 }, |_| {
            Part::Read { job }
        });
        self.read_job(job).pending = pending;
        if pending == 0 {
            self.finish_read(job);
        }
    }

    pub(super) fn read_done(&mut self, job: usize, result: Result<(), Errno>) {
        let read = self.read_job(job);
        read.result = read.result.and(result);
        read.pending -= 1;
        if read.pending == 0 {
            self.finish_read(job);
        }
    }

    fn finish_read(&mut self, job: usize) {
        if let Job::Read(read) = self.jobs.remove(job) {
            self.finish(read.token, read.result);
        }
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
                    let op = self.new_op(part(pending));
                    pending += 1;
                    self.push(Action::Read {
                        op,
                        layer,
                        offset,
                        memory,
                        len,
                    });
                }
            }
            at += len;
        }
        pending
    }

    /// The longest run of bytes from `at`, not past `end`, that come from one place.
    fn run_at(&self, at: u64, end: u64) -> Run {
        let (allocated, until) = allocation_run(&self.layout, &self.bitmap, at, end);
        if allocated {
            let position = self.layout.data_position(DiskOffset(at));
            Run::from_layer(LayerIndex::TOP, position, until - at)
        } else {
            self.parents.run_at(at, until)
        }
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
