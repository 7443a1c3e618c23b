//! An executor that does nothing: what is left is the cost of everything around it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use blockio::executor::{Event, Executor, FileSlot, Op, PoolExecutor, open_executor};
use blockio::file::BlockFile;

/// Says of every operation that it is done, at the next call of `poll` or `wait`. Files are never touched, and memory
/// stays as it is.
pub struct NullExecutor {
    submitted: Vec<u64>,
    /// Gives files their slots, and watches descriptors.
    inner: Box<dyn Executor>,
    is_watching: bool,
}

impl NullExecutor {
    /// An executor that does nothing.
    ///
    /// # Errors
    /// If the registry of files cannot be set up.
    pub fn new() -> io::Result<Self> {
        Ok(Self::over(Box::new(PoolExecutor::new(1)?)))
    }

    /// An executor that watches descriptors as the daemon's own does, and does nothing else.
    ///
    /// # Errors
    /// If that cannot be set up.
    pub fn watching() -> io::Result<Box<dyn Executor>> {
        Ok(Box::new(Self::over(open_executor()?)))
    }

    fn over(inner: Box<dyn Executor>) -> Self {
        Self {
            submitted: Vec::new(),
            inner,
            is_watching: false,
        }
    }
}

impl Executor for NullExecutor {
    fn name(&self) -> &'static str {
        "null"
    }

    fn register(&mut self, file: Arc<BlockFile>) -> FileSlot {
        self.inner.register(file)
    }

    fn unregister(&mut self, slot: FileSlot) {
        self.inner.unregister(slot);
    }

    fn submit(&mut self, key: u64, _op: Op) {
        self.submitted.push(key);
    }

    fn watch(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.inner.watch(key, descriptor)?;
        self.is_watching = true;
        Ok(())
    }

    fn watch_writable(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.inner.watch_writable(key, descriptor)?;
        self.is_watching = true;
        Ok(())
    }

    fn unwatch(&mut self, key: u64) {
        self.inner.unwatch(key);
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let done = self.submitted.drain(..).map(|key| Event::Done {
            key,
            result: Ok(()),
        });
        events.extend(done);
        if !self.is_watching {
            return Ok(());
        }
        self.inner.poll(events)
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        if self.submitted.is_empty() && self.is_watching {
            return self.inner.wait(timeout, events);
        }
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
