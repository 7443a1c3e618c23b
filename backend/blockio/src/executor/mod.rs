//! Asynchronous I/O for one worker thread.
//!
//! An [`Executor`] belongs to one thread and uses no locks in its interface: operations are submitted under a key,
//! and come back as events from [`Executor::poll`] or [`Executor::wait`]. An operation owns its buffer until it is
//! done, also when the executor is dropped: the drop waits until the kernel has let go of every buffer.
//!
//! Two implementations behave alike and pass the same tests: [`UringExecutor`], and [`PoolExecutor`] for kernels
//! without io_uring or where `kernel.io_uring_disabled` forbids it. [`open_executor`] chooses.

mod error;
#[cfg(any(test, feature = "faults"))]
pub mod faulty;
mod files;
mod in_place;
mod pace;
mod task;
#[cfg(test)]
mod tests;
mod thread_pool;
mod uring;
mod watches;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

pub use error::{Action, IoError};
pub use files::FileSlot;
pub use thread_pool::PoolExecutor;
pub use uring::UringExecutor;

use crate::buffer::Buffer;
use crate::file::BlockFile;

/// An operation on a registered file. Offsets and lengths are in bytes.
///
/// On a file opened for direct I/O, offsets, lengths and memory must be multiples of its
/// [`BlockFile::dio_alignment`]; otherwise the operation fails with `EINVAL`.
#[derive(Clone, Debug)]
pub enum Op {
    /// Fills the whole buffer from `offset` on. Fails with `EIO` if the file ends before: who reads knows its size, so
    /// it was truncated since.
    Read {
        /// The file to read.
        file: FileSlot,
        /// Where to start.
        offset: u64,
        /// The memory to fill.
        buffer: Buffer,
    },
    /// Writes the whole buffer at `offset`.
    Write {
        /// The file to write.
        file: FileSlot,
        /// Where to start.
        offset: u64,
        /// The memory to write. It may change while it is written (a guest shares it); then either value lands.
        buffer: Buffer,
        /// Whether a file system probably has to take storage for it: the first write to its place. A hint only, about
        /// how to execute it.
        takes_storage: bool,
    },
    /// Makes everything durable that was written by operations that were done before this one was submitted
    /// (`fdatasync`). It says nothing about writes that were still in flight then.
    Sync {
        /// The file to sync.
        file: FileSlot,
    },
    /// Makes a range read as zeros, giving its storage back where that is possible, and writing zeros where it is
    /// not. Never makes a file longer, unless zeros have to be written past its end.
    ZeroRange {
        /// The file to change.
        file: FileSlot,
        /// Where the range starts.
        offset: u64,
        /// How many bytes it has.
        len: u64,
    },
    /// Reserves storage for a range of a regular file, without changing its contents or its size (`fallocate`).
    Reserve {
        /// The file.
        file: FileSlot,
        /// Where the range starts.
        offset: u64,
        /// How many bytes it has.
        len: u64,
    },
}

/// What [`Executor::poll`] and [`Executor::wait`] report.
#[derive(Debug)]
pub enum Event {
    /// The operation submitted under `key` is done, and its buffer is no longer used. Exactly one per submission.
    Done {
        /// The key it was submitted under.
        key: u64,
        /// Success means all of it: short transfers are continued inside.
        result: Result<(), IoError>,
    },
    /// The descriptor watched under `key` is readable, or has an error or a hang-up that reading it will show. It is
    /// reported again by every later `poll` or `wait` for as long as that stays so.
    Readable {
        /// The key it is watched under.
        key: u64,
    },
    /// The same for a descriptor watched by [`Executor::watch_writable`]: it takes bytes, or has an error or a hang-up
    /// that writing to it will show.
    Writable {
        /// The key it is watched under.
        key: u64,
    },
}

impl Event {
    /// The key of what it is about.
    pub fn key(&self) -> u64 {
        match self {
            Self::Done { key, .. } | Self::Readable { key } | Self::Writable { key } => *key,
        }
    }
}

/// Executes operations for one worker thread.
///
/// Keys are the caller's: they are carried along and never looked at. Operations complete in any order.
pub trait Executor {
    /// A short name for logs: `io_uring` or `threads`.
    fn name(&self) -> &'static str;

    /// Registers a file for operations. It stays open at least until [`Executor::unregister`].
    fn register(&mut self, file: Arc<BlockFile>) -> FileSlot;

    /// Ends a registration. Operations in flight go on and complete; the file is let go after the last of them.
    /// Later operations on `slot` fail with [`IoError::NotRegistered`]. Unknown slots are ignored.
    fn unregister(&mut self, slot: FileSlot);

    /// Starts an operation. Never fails: failure is reported as the operation's event. It may stay
    /// in memory until the next [`Executor::poll`] or [`Executor::wait`], so that a batch costs one system call. Does not
    /// wait for storage, except as said in `in_place`: where it answers at once, and to find out whether it still does.
    fn submit(&mut self, key: u64, op: Op);

    /// Reports [`Event::Readable`] for a descriptor from now on. The executor keeps a duplicate of the descriptor,
    /// so the caller may close its own; the open file lives until a `poll` or `wait` after `unwatch` has let go of it.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if `key` is in use for a watch; otherwise why the descriptor cannot be duplicated or watched.
    fn watch(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()>;

    /// The same for [`Event::Writable`]. A descriptor that is watched for both has two keys.
    ///
    /// # Errors
    ///
    /// As for [`Executor::watch`].
    fn watch_writable(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()>;

    /// Stops watching. Nothing about this key is reported by later calls. Unknown keys are ignored.
    fn unwatch(&mut self, key: u64);

    /// Starts what was submitted and appends what has happened so far to `events`, without waiting.
    ///
    /// # Errors
    ///
    /// Only if the mechanism itself is broken (never because an operation failed): the executor cannot be used on.
    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()>;

    /// Starts what was submitted and waits until at least one event can be appended to `events`, or until `timeout`
    /// has passed (`None` is forever). With a timeout it may also return earlier without any event, when an operation had to
    /// go on or the wait was interrupted.
    ///
    /// # Errors
    ///
    /// As for [`Executor::poll`].
    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// How many submitted operations have not been reported as done.
    fn in_flight(&self) -> usize;
}

/// How many threads the fallback uses for each worker: enough to keep a disk busy, few enough to be many times over.
const FALLBACK_THREADS: usize = 8;

/// Opens an executor for the calling thread: io_uring if the kernel has it and allows it, else a thread pool.
///
/// # Errors
///
/// If neither can be set up.
pub fn open_executor() -> io::Result<Box<dyn Executor>> {
    match UringExecutor::new() {
        Ok(executor) => Ok(Box::new(executor)),
        Err(cause) => {
            tracing::warn!(
                "io_uring cannot be used ({cause}); using {FALLBACK_THREADS} threads for I/O instead"
            );
            Ok(Box::new(PoolExecutor::new(FALLBACK_THREADS)?))
        }
    }
}
