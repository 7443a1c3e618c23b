//! A disk and its clients.

use std::time::Instant;

use blockio::buffer::BufferPool;
use blockio::disk::{Disk, DiskNumber};
use blockio::executor::{Event, Executor};
use dscow::engine::{Errno, Token};

use crate::clients::{Clients, Offer, Statistics, TICK};
use crate::listen::Socket;

const OPEN: Token = Token(u64::MAX);
const CLOSE: Token = Token(u64::MAX - 1);

/// Unused memory that an export keeps for the next requests.
const POOL_BYTES: usize = 64 << 20;

/// Where an export stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The image is being opened; clients wait.
    Opening,
    /// Clients are served.
    Serving,
    /// What was taken is being finished, and the image closed.
    Stopping,
    /// The image is closed, or could not be opened: then with the reason, as with a close that failed.
    Closed(Result<(), Errno>),
}

/// A disk and its clients. See the [crate's documentation](crate).
pub struct Export {
    disk: Disk,
    number: DiskNumber,
    clients: Clients,
    status: Status,
    /// No more is served, as soon as the disk is open.
    ending: bool,
    next_commit: Instant,
}

impl Export {
    /// An export of a disk that is not open yet, to the clients that come to `socket`. Opens it.
    ///
    /// # Errors
    ///
    /// If the protocol does not allow what is offered.
    pub fn new(
        mut disk: Disk,
        number: DiskNumber,
        socket: Socket,
        offer: Offer,
        executor: &mut dyn Executor,
    ) -> Result<Self, nbd::ExportError> {
        let pool = BufferPool::new(POOL_BYTES);
        let clients = Clients::new(disk.engine(), number, socket, offer, pool)?;
        disk.open(executor, OPEN);
        Ok(Self {
            disk,
            number,
            clients,
            status: Status::Opening,
            ending: false,
            next_commit: Instant::now() + TICK,
        })
    }

    /// The number by which events name this export: that of its disk.
    pub fn number(&self) -> DiskNumber {
        self.number
    }

    /// The number of the export that an event is about.
    pub fn number_of(event: &Event) -> DiskNumber {
        DiskNumber::of_key(event.key()).0
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.status
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.clients.count()
    }

    /// What has happened so far.
    pub fn statistics(&self) -> Statistics {
        self.clients.statistics()
    }

    /// Takes an event that is about this export.
    pub fn handle(&mut self, event: Event, executor: &mut dyn Executor) {
        match event {
            Event::Done { key, result } => {
                let (_, op) = DiskNumber::of_key(key);
                self.disk.complete(executor, op, result);
            }
            event => self.clients.handle(&event, &mut self.disk, executor),
        }
    }

    /// Answers what has finished, sends what there is to send, and waits for what is to come. To be called after each
    /// round of events.
    pub fn settle(&mut self, executor: &mut dyn Executor) {
        loop {
            let finished = self.finish(executor);
            let sent = self.clients.settle(&mut self.disk, executor);
            if !finished && !sent {
                break;
            }
        }
        if self.status == Status::Stopping && self.clients.have_left() && self.ending {
            self.ending = false;
            self.disk.close(executor, CLOSE);
            // Without anything to commit it may be finished already.
            self.finish(executor);
        }
    }

    /// When [`Export::tick`] is to be called next; `None` if nothing waits for it.
    pub fn next_tick(&self) -> Option<Instant> {
        let uncommitted = self.disk.engine().has_uncommitted_bits();
        let next_commit = uncommitted.then_some(self.next_commit);
        [next_commit, self.clients.next_tick()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is done now and then: commits what nobody flushed, and gives up on clients that make no progress. To
    /// be followed by [`Export::settle`].
    pub fn tick(&mut self, executor: &mut dyn Executor) {
        let now = Instant::now();
        if now >= self.next_commit {
            self.next_commit = now + TICK;
            if self.status == Status::Serving {
                self.disk.commit_idle(executor);
            }
        }
        self.clients.tick(executor);
    }

    /// Takes no more clients and requests, answers what was taken, and closes the image.
    pub fn stop(&mut self, executor: &mut dyn Executor) {
        if !matches!(self.status, Status::Opening | Status::Serving) || self.ending {
            return;
        }
        self.ending = true;
        if self.status == Status::Serving {
            self.status = Status::Stopping;
        }
        self.clients.see_off(executor);
    }

    /// Lets go of the disk's files. Their locks end with the last operation in flight on them.
    ///
    /// # Panics
    ///
    /// If the export is not closed.
    pub fn release(self, executor: &mut dyn Executor) {
        assert!(
            matches!(self.status, Status::Closed(_)),
            "a disk that is served cannot be let go of"
        );
        self.disk.release(executor);
    }

    /// Answers what the disk has finished. Returns whether there was anything.
    fn finish(&mut self, executor: &mut dyn Executor) -> bool {
        let finished = self.disk.take_finished();
        let any = !finished.is_empty();
        for finished in finished {
            match finished.token {
                OPEN => self.opened(finished.result, executor),
                CLOSE => self.status = Status::Closed(finished.result),
                _ => {
                    self.clients.finish(&finished, &mut self.disk, executor);
                }
            }
        }
        any
    }

    fn opened(&mut self, result: Result<(), Errno>, executor: &mut dyn Executor) {
        match result {
            Err(errno) => self.status = Status::Closed(Err(errno)),
            Ok(()) if self.ending => self.status = Status::Stopping,
            Ok(()) => {
                self.status = Status::Serving;
                self.clients.let_in(executor);
            }
        }
    }
}
