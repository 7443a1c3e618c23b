//! A disk and its clients.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use blockio::buffer::BufferPool;
use blockio::disk::{Disk, DiskNumber, Finished};
use blockio::executor::{Event, Executor};
use dscow::engine::{Errno, Token};
use rustc_hash::FxHashSet;
use slab::Slab;

use crate::connection::{Connection, ConnectionError, Interests};
use crate::listen::Socket;
use crate::service::Service;
use crate::watch::WatchKey;

const OPEN: Token = Token(u64::MAX);
const CLOSE: Token = Token(u64::MAX - 1);

/// How long a client may take for its negotiation.
const NEGOTIATION_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a client may take for its last replies when the server is stopping.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(5);

/// How often bits that nobody flushed are committed, and clients are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Unused memory that an export keeps for the next requests.
const POOL_BYTES: usize = 64 << 20;

/// What is offered to clients.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Name of the export. The empty name finds it as well.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Whether writes are refused. They are anyway if the image is open for reading only.
    pub read_only: bool,
    /// Most clients at a time. Others wait until one leaves.
    pub clients_max: usize,
}

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

/// Counters since the export was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Connections that were accepted.
    pub connections: u64,
    /// Clients that finished their negotiation.
    pub clients: u64,
    /// Requests that were served, and how many of them failed.
    pub requests: u64,
    /// Requests that failed on the disk.
    pub failed: u64,
    /// Requests that were refused: what they asked for makes no sense, or was not offered.
    pub refused: u64,
    /// Connections that were broken off because of what the client sent, or did not send.
    pub broken_off: u64,
}

/// A disk and its clients. See the [crate's documentation](crate).
pub struct Export {
    service: Service,
    socket: Socket,
    listening: bool,
    clients_max: usize,
    connections: Slab<Connection>,
    /// Connections with something to settle.
    touched: Vec<usize>,
    status: Status,
    /// Until when clients are waited for, once the export is stopping.
    patience: Option<Instant>,
    next_tick: Instant,
    statistics: Statistics,
    logged: FxHashSet<&'static str>,
}

impl Export {
    /// An export of a disk that is not open yet, to the clients that come to `socket`. Opens it.
    ///
    /// # Errors
    ///
    /// If the protocol does not allow what is offered.
    pub fn new(
        disk: Disk,
        number: DiskNumber,
        socket: Socket,
        offer: Offer,
        executor: &mut dyn Executor,
    ) -> Result<Self, nbd::ExportError> {
        let clients_max = offer.clients_max.max(1);
        let pool = BufferPool::new(POOL_BYTES);
        let mut service = Service::new(disk, number, offer, pool)?;
        service.disk.open(executor, OPEN);
        Ok(Self {
            service,
            socket,
            listening: false,
            clients_max,
            connections: Slab::new(),
            touched: Vec::new(),
            status: Status::Opening,
            patience: None,
            next_tick: Instant::now() + TICK,
            statistics: Statistics::default(),
            logged: FxHashSet::default(),
        })
    }

    /// The number by which events name this export: that of its disk.
    pub fn number(&self) -> DiskNumber {
        self.service.number
    }

    /// The number of the export that an event is about.
    pub fn number_of(event: &Event) -> DiskNumber {
        match event {
            Event::Done { key, .. } | Event::Readable { key } | Event::Writable { key } => {
                DiskNumber::of_key(*key).0
            }
        }
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.status
    }

    /// How many clients are connected.
    pub fn clients(&self) -> usize {
        self.connections
            .iter()
            .filter(|(_, connection)| connection.socket().is_some())
            .count()
    }

    /// What has happened so far.
    pub fn statistics(&self) -> Statistics {
        let mut statistics = self.statistics;
        statistics.clients = self.service.clients_served;
        statistics.requests = self.service.requests_served;
        statistics.failed = self.service.requests_failed;
        statistics
    }

    /// Takes an event that is about this export.
    pub fn handle(&mut self, event: Event, executor: &mut dyn Executor) {
        match event {
            Event::Done { key, result } => {
                let (_, op) = DiskNumber::of_key(key);
                self.service.disk.complete(executor, op, result);
            }
            Event::Readable { key } => match WatchKey::from_key(key) {
                WatchKey::Listener => self.accept(executor),
                WatchKey::Read(place) => self.receive(place, executor),
                WatchKey::Write(_) => {}
            },
            // It is sent to when the round is settled.
            Event::Writable { key } => {
                if let WatchKey::Write(place) = WatchKey::from_key(key) {
                    self.touch(place);
                }
            }
        }
    }

    /// Answers what has finished, sends what there is to send, and waits for what is to come. To be called after each
    /// round of events.
    pub fn settle(&mut self, executor: &mut dyn Executor) {
        loop {
            let mut busy = self.finish(executor);
            for place in std::mem::take(&mut self.touched) {
                busy |= self.send(place, executor);
            }
            if !busy {
                break;
            }
        }
        self.go_on_stopping(executor);
    }

    /// When [`Export::tick`] is to be called next; `None` if nothing waits for it.
    pub fn next_tick(&self) -> Option<Instant> {
        let waits = self.service.disk.engine().has_uncommitted_bits()
            || self.patience.is_some()
            || self.may_listen() && !self.listening
            || self
                .connections
                .iter()
                .any(|(_, connection)| connection.negotiating_since().is_some());
        waits.then_some(self.next_tick)
    }

    /// Does what is done now and then: commits what nobody flushed, and gives up on clients that make no progress. To
    /// be followed by [`Export::settle`].
    pub fn tick(&mut self, executor: &mut dyn Executor) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        if self.status == Status::Serving {
            self.service.disk.commit_idle(executor);
            self.listen(self.may_listen(), executor);
        }
        let farewell_over = self.patience.is_some_and(|patience| now >= patience);
        for place in self.places() {
            let connection = &self.connections[place];
            let since = connection.negotiating_since();
            if farewell_over && connection.socket().is_some() {
                self.break_off(place, &ConnectionError::Abandoned, executor);
            } else if since.is_some_and(|since| now - since >= NEGOTIATION_TIME_MAX) {
                self.break_off(place, &ConnectionError::TooSlow, executor);
            }
        }
    }

    /// Takes no more clients and requests, answers what was taken, and closes the image.
    pub fn stop(&mut self, executor: &mut dyn Executor) {
        if !matches!(self.status, Status::Opening | Status::Serving) || self.patience.is_some() {
            return;
        }
        self.patience = Some(Instant::now() + FAREWELL_TIME_MAX);
        if self.status == Status::Serving {
            self.status = Status::Stopping;
        }
        self.listen(false, executor);
        for place in self.places() {
            self.connections[place].end();
            self.touch(place);
        }
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
        self.service.disk.release(executor);
    }

    fn go_on_stopping(&mut self, executor: &mut dyn Executor) {
        if self.status == Status::Stopping
            && self.connections.is_empty()
            && self.patience.take().is_some()
        {
            self.service.disk.close(executor, CLOSE);
            // Without anything to commit it may be finished already.
            self.finish(executor);
        }
    }

    fn listen(&mut self, wanted: bool, executor: &mut dyn Executor) {
        if wanted == self.listening {
            return;
        }
        let key = WatchKey::Listener.key(self.service.number);
        if !wanted {
            executor.unwatch(key);
        } else if let Err(cause) = executor.watch(key, self.socket.listener().as_fd()) {
            tracing::error!("cannot watch for clients: {cause}");
            return;
        }
        self.listening = wanted;
    }

    fn accept(&mut self, executor: &mut dyn Executor) {
        while self.listening {
            if self.connections.len() >= self.clients_max {
                // Others wait in the socket's queue until one leaves.
                self.listen(false, executor);
                return;
            }
            match accept(self.socket.listener()) {
                Ok(Some(socket)) => {
                    self.statistics.connections += 1;
                    let connection = Connection::new(socket, Instant::now());
                    let place = self.connections.insert(connection);
                    self.touch(place);
                }
                Ok(None) => return,
                Err(cause) => {
                    // Out of descriptors, most likely; tried again with the next tick.
                    if self.logged.insert("accept") {
                        tracing::error!("cannot accept a client: {cause}");
                    }
                    self.listen(false, executor);
                    return;
                }
            }
        }
    }

    fn receive(&mut self, place: usize, executor: &mut dyn Executor) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        let (service, statistics) = (&mut self.service, &mut self.statistics);
        let result = connection.receive(|connection| {
            service.serve(place, connection, statistics, executor)?;
            Ok(())
        });
        self.touch(place);
        if let Err(error) = result {
            self.break_off(place, &error, executor);
        }
    }

    /// Sends what there is, lets go on what was held back, and ends the connection if it is over. Returns whether there
    /// is more to settle.
    fn send(&mut self, place: usize, executor: &mut dyn Executor) -> bool {
        let Some(connection) = self.connections.get_mut(place) else {
            return false;
        };
        connection.touched = false;
        let (service, statistics) = (&mut self.service, &mut self.statistics);
        let result = connection.send().and_then(|go_on| match go_on {
            true => service.serve(place, connection, statistics, executor),
            false => Ok(false),
        });
        match result {
            Err(error) => {
                self.break_off(place, &error, executor);
                false
            }
            Ok(went_on) => {
                let again = went_on || connection.can_send();
                if again {
                    self.touch(place);
                } else {
                    self.watch(place, executor);
                    self.reap(place, executor);
                }
                again
            }
        }
    }

    /// Answers what the disk has finished. Returns whether there was anything.
    fn finish(&mut self, executor: &mut dyn Executor) -> bool {
        let finished = self.service.disk.take_finished();
        let any = !finished.is_empty();
        for finished in finished {
            match finished.token {
                OPEN => self.opened(finished.result, executor),
                CLOSE => self.status = Status::Closed(finished.result),
                _ => self.answer(&finished, executor),
            }
        }
        any
    }

    fn opened(&mut self, result: Result<(), Errno>, executor: &mut dyn Executor) {
        match result {
            Err(errno) => self.status = Status::Closed(Err(errno)),
            Ok(()) if self.patience.is_some() => self.status = Status::Stopping,
            Ok(()) => {
                self.status = Status::Serving;
                self.listen(true, executor);
            }
        }
    }

    fn answer(&mut self, finished: &Finished, executor: &mut dyn Executor) {
        let Some(place) = self.service.place_of(finished.token) else {
            return;
        };
        // A connection stays in its place until its requests are finished, also without its socket.
        let connection = &mut self.connections[place];
        self.service.finish(finished, connection, executor);
        self.touch(place);
    }

    /// Ends a connection in which nothing can go on. What it has on the disk finishes, and is answered to nobody.
    fn break_off(&mut self, place: usize, error: &ConnectionError, executor: &mut dyn Executor) {
        self.statistics.broken_off += 1;
        if self.logged.insert(error.kind()) {
            tracing::warn!(
                "a client's connection is broken off: {error} (others like it are only counted)"
            );
        }
        let connection = &mut self.connections[place];
        // What has been answered already, if the socket still takes it.
        let _ = connection.send();
        connection.drop_socket();
        self.watch(place, executor);
        self.reap(place, executor);
    }

    /// Watches the socket for what is wanted of it now.
    fn watch(&mut self, place: usize, executor: &mut dyn Executor) {
        let number = self.service.number;
        let connection = &mut self.connections[place];
        let (wanted, watched) = (connection.interests(), connection.watched);
        if wanted == watched {
            return;
        }
        let (read, write) = (WatchKey::Read(place), WatchKey::Write(place));
        if watched.read && !wanted.read {
            executor.unwatch(read.key(number));
        }
        if watched.write && !wanted.write {
            executor.unwatch(write.key(number));
        }
        let mut result = Ok(());
        if let Some(socket) = connection.socket() {
            if wanted.read && !watched.read {
                result = executor.watch(read.key(number), socket.as_fd());
            }
            if wanted.write && !watched.write {
                result = result
                    .and_then(|()| executor.watch_writable(write.key(number), socket.as_fd()));
            }
        }
        connection.watched = wanted;
        if let Err(cause) = result {
            // Nothing of this client would ever be heard again.
            executor.unwatch(read.key(number));
            executor.unwatch(write.key(number));
            connection.watched = Interests::default();
            self.break_off(place, &cause.into(), executor);
        }
    }

    /// Removes a connection of which nothing is left.
    fn reap(&mut self, place: usize, executor: &mut dyn Executor) {
        let over = |connection: &Connection| connection.is_over();
        if !self.connections.get(place).is_some_and(over) {
            return;
        }
        self.connections[place].drop_socket();
        self.watch(place, executor);
        self.connections.remove(place);
        if self.may_listen() {
            self.listen(true, executor);
        }
    }

    fn may_listen(&self) -> bool {
        self.status == Status::Serving && self.connections.len() < self.clients_max
    }

    fn touch(&mut self, place: usize) {
        if let Some(connection) = self.connections.get_mut(place)
            && !connection.touched
        {
            connection.touched = true;
            self.touched.push(place);
        }
    }

    fn places(&self) -> Vec<usize> {
        self.connections.iter().map(|(place, _)| place).collect()
    }
}

/// The next client, if one waits.
fn accept(listener: &UnixListener) -> std::io::Result<Option<UnixStream>> {
    loop {
        match listener.accept() {
            Ok((socket, _)) => return Ok(Some(socket)),
            Err(cause) => match cause.kind() {
                std::io::ErrorKind::WouldBlock => return Ok(None),
                std::io::ErrorKind::Interrupted | std::io::ErrorKind::ConnectionAborted => {}
                _ => return Err(cause),
            },
        }
    }
}
