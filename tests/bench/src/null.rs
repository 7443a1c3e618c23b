//! An executor that does nothing: what is left is the cost of the engine and of the disk around it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use blockio::executor::{Event, Executor, FileSlot, Op, PoolExecutor};
use blockio::file::BlockFile;

/// Says of every operation that it is done, at the next call of `poll` or `wait`. Files are never touched, and memory
/// stays as it is.
pub struct NullExecutor {
    submitted: Vec<u64>,
    /// Gives files their slots, and does nothing else.
    registry: PoolExecutor,
}

impl NullExecutor {
    /// An executor that does nothing.
    ///
    /// # Errors
    /// If the registry of files cannot be set up.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            submitted: Vec::new(),
            registry: PoolExecutor::new(1)?,
        })
    }
}

impl Executor for NullExecutor {
    fn name(&self) -> &'static str {
        "null"
    }

    fn register(&mut self, file: Arc<BlockFile>) -> FileSlot {
        self.registry.register(file)
    }

    fn unregister(&mut self, slot: FileSlot) {
        self.registry.unregister(slot);
    }

    fn submit(&mut self, key: u64, _op: Op) {
        self.submitted.push(key);
    }

    fn watch(&mut self, _key: u64, _descriptor: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn watch_writable(&mut self, _key: u64, _descriptor: BorrowedFd<'_>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn unwatch(&mut self, _key: u64) {}

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let done = self.submitted.drain(..).map(|key| Event::Done {
            key,
            result: Ok(()),
        });
        events.extend(done);
        Ok(())
    }

    fn wait(&mut self, _timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        if self.submitted.is_empty() {
            return Err(io::Error::other(
                "nothing is in flight, so waiting would never end",
            ));
        }
        self.poll(events)
    }

    fn in_flight(&self) -> usize {
        self.submitted.len()
    }
}
