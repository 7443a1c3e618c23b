//! An executor whose system calls end as its driver decides, for tests of everything above them.
//!
//! The operations are the production ones, step by step; only who makes the system calls differs. Each call that is
//! due waits until [`FaultyExecutor::perform`] says how it ends: as the kernel ends it, short, or with an error after some
//! of it was done. Calls may be performed in any order. Nothing blocks, and nothing happens by itself, so a run
//! depends on nothing but what its driver decides.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use libc::iovec;

use super::files::Files;
use super::task::{Outcome, Step, Task};
use super::thread_pool::execute;
use super::{Event, Executor, FileSlot, IoError, Op};
use crate::file::BlockFile;

/// How a system call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// As the kernel ends it.
    Real,
    /// After so many bytes, or less if the file is read and written past the page cache: that happens in whole units
    /// of its alignment. Calls that transfer nothing are performed as they are.
    Short(usize),
    /// With this error. So many bytes of it were done all the same; of a sync, nothing is.
    Fails {
        /// As the kernel reports it, positive.
        errno: i32,
        /// Bytes.
        done: usize,
    },
}

/// A system call that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it does.
    pub kind: CallKind,
    /// How many bytes it is about, at most; 0 for a sync.
    pub len: usize,
}

/// What a system call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// `preadv`
    Read,
    /// `pwritev`
    Write,
    /// `fdatasync`
    Sync,
    /// `fallocate`
    Fallocate,
}

/// See the module.
#[derive(Default)]
pub struct FaultyExecutor {
    files: Files,
    due: Vec<Due>,
    settled: Vec<Event>,
}

/// An operation, and its next system call. The segments point into memory that the task keeps.
struct Due {
    task: Task,
    step: Step,
    segments: Vec<iovec>,
}

impl FaultyExecutor {
    /// An executor without files.
    pub fn new() -> Self {
        Self::default()
    }

    /// The calls that are due, in the order in which their operations were submitted.
    pub fn due(&self) -> impl ExactSizeIterator<Item = Call> {
        self.due.iter().map(Due::call)
    }

    /// Performs the call at `index` of those that are due. Gives the event of its operation if that is done with it;
    /// otherwise the operation's next call is due in the same place.
    ///
    /// # Panics
    /// If there is no such call.
    pub fn perform(&mut self, index: usize, fate: Fate) -> Option<Event> {
        let due = &mut self.due[index];
        let file = self.files.get(due.task.file);
        let result = due.perform(file, fate);
        match due.task.advance(file, result) {
            Outcome::Continue => {
                due.step = due.task.step(file, &mut due.segments);
                None
            }
            Outcome::Done(result) => {
                let task = self.due.remove(index).task;
                self.files.end_use(task.file);
                let key = task.key;
                Some(Event::Done { key, result })
            }
        }
    }
}

impl Due {
    fn call(&self) -> Call {
        let in_segments = self.segments.iter().map(|segment| segment.iov_len).sum();
        let (kind, len) = match self.step {
            Step::Read { .. } => (CallKind::Read, in_segments),
            Step::Write { .. } => (CallKind::Write, in_segments),
            Step::Sync => (CallKind::Sync, 0),
            Step::Fallocate { len, .. } => (
                CallKind::Fallocate,
                usize::try_from(len).unwrap_or(usize::MAX),
            ),
        };
        Call { kind, len }
    }

    fn perform(&self, file: &BlockFile, fate: Fate) -> i32 {
        match fate {
            Fate::Short(bytes) if matches!(self.step, Step::Read { .. } | Step::Write { .. }) => {
                self.perform_part(file, bytes)
            }
            Fate::Real | Fate::Short(_) => execute(file.as_raw_fd(), self.step, &self.segments),
            Fate::Fails { errno, done } => {
                if done > 0 && !matches!(self.step, Step::Sync) {
                    self.perform_part(file, done);
                }
                -errno
            }
        }
    }

    fn perform_part(&self, file: &BlockFile, bytes: usize) -> i32 {
        let unit = file
            .dio_alignment()
            .map_or(1, |alignment| alignment.offset as usize);
        let bytes = bytes - bytes % unit;
        match self.step {
            _ if bytes == 0 => 0,
            Step::Fallocate { mode, offset, len } => {
                let len = len.min(bytes as u64);
                execute(file.as_raw_fd(), Step::Fallocate { mode, offset, len }, &[])
            }
            step => execute(
                file.as_raw_fd(),
                step,
                &first_bytes_of(&self.segments, bytes),
            ),
        }
    }
}

/// The segments up to the byte at `bytes`.
fn first_bytes_of(segments: &[iovec], bytes: usize) -> Vec<iovec> {
    let mut left = bytes;
    let mut first = Vec::new();
    for segment in segments {
        let iov_len = segment.iov_len.min(left);
        left -= iov_len;
        if iov_len > 0 {
            let iov_base = segment.iov_base;
            first.push(iovec { iov_base, iov_len });
        }
    }
    first
}

impl Executor for FaultyExecutor {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn register(&mut self, file: Arc<BlockFile>) -> FileSlot {
        self.files.insert(file)
    }

    fn unregister(&mut self, slot: FileSlot) {
        self.files.remove(slot);
    }

    fn submit(&mut self, key: u64, op: Op) {
        let Some(file) = self.files.begin_use(op.file()) else {
            let action = op.action();
            let result = Err(IoError::NotRegistered { action });
            return self.settled.push(Event::Done { key, result });
        };
        let mut task = Task::new(key, file, op);
        if let Some(result) = task.settled_at_once(self.files.get(file)) {
            self.files.end_use(file);
            return self.settled.push(Event::Done { key, result });
        }
        let mut segments = Vec::new();
        let step = task.step(self.files.get(file), &mut segments);
        self.due.push(Due {
            task,
            step,
            segments,
        });
    }

    fn watch(&mut self, _key: u64, _descriptor: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn watch_writable(&mut self, _key: u64, _descriptor: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn unwatch(&mut self, _key: u64) {}

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        events.append(&mut self.settled);
        Ok(())
    }

    /// As [`Executor::poll`]: what is due waits for its driver, so there is nothing to wait for.
    fn wait(&mut self, _timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.poll(events)
    }

    fn in_flight(&self) -> usize {
        self.due.len() + self.settled.len()
    }
}
