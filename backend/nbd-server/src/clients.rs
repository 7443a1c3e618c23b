//! The clients of a disk that somebody else owns.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use blockio::buffer::BufferPool;
use blockio::disk::{Disk, DiskNumber, Finished};
use blockio::executor::{Event, Executor};
use dscow::engine::Engine;
use rustc_hash::FxHashSet;
use slab::Slab;
use tracing::Span;

use crate::connection::{Connection, ConnectionError, Interests};
use crate::listen::Socket;
use crate::service::{Io, Service};
use crate::watch::WatchKey;

/// How long a client may take for its negotiation.
const NEGOTIATION_TIME_MAX: Duration = Duration::from_secs(30);

/// How long a client may take for its last replies when no more are served.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(5);

/// How often clients are looked at.
pub(crate) const TICK: Duration = Duration::from_secs(1);

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

/// Counters since clients were first served.
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

/// The clients of a disk. The disk's owner hands over the events and finished requests that are about them, and lets
/// them [settle](Clients::settle) after each round.
pub struct Clients {
    service: Service,
    number: DiskNumber,
    socket: Socket,
    listening: bool,
    /// Clients are let in.
    open: bool,
    clients_max: usize,
    connections: Slab<Connection>,
    /// Connections with something to settle.
    touched: Vec<usize>,
    /// Until when those that are leaving are waited for.
    patience: Option<Instant>,
    next_tick: Instant,
    statistics: Statistics,
    logged: FxHashSet<&'static str>,
    /// What their log lines are about.
    span: Span,
}

impl Clients {
    /// The clients that come to `socket`, for the disk with this engine and number. They wait until [`Clients::let_in`].
    /// Memory for data is taken from `pool`. What is logged of them is logged within the span that is current now.
    ///
    /// # Errors
    ///
    /// If the protocol does not allow what is offered.
    pub fn new(
        engine: &Engine,
        number: DiskNumber,
        socket: Socket,
        offer: Offer,
        pool: BufferPool,
    ) -> Result<Self, nbd::ExportError> {
        let clients_max = offer.clients_max.max(1);
        Ok(Self {
            service: Service::new(engine, offer, pool)?,
            number,
            socket,
            listening: false,
            open: false,
            clients_max,
            connections: Slab::new(),
            touched: Vec::new(),
            patience: None,
            next_tick: Instant::now() + TICK,
            statistics: Statistics::default(),
            logged: FxHashSet::default(),
            span: Span::current(),
        })
    }

    /// Whether an event is about clients of some disk.
    pub fn are_meant_by(event: &Event) -> bool {
        match event {
            Event::Readable { key } | Event::Writable { key } => WatchKey::from_key(*key).is_some(),
            Event::Done { .. } => false,
        }
    }

    /// How many clients are connected.
    pub fn count(&self) -> usize {
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

    /// From now on clients are served: the disk is open.
    pub fn let_in(&mut self, executor: &mut dyn Executor) {
        self.open = true;
        self.listen(true, executor);
    }

    /// Lets no more in and takes no more requests; what was taken is answered. See [`Clients::have_left`].
    pub fn see_off(&mut self, executor: &mut dyn Executor) {
        if self.patience.is_some() {
            return;
        }
        self.patience = Some(Instant::now() + FAREWELL_TIME_MAX);
        self.open = false;
        self.listen(false, executor);
        for place in self.places() {
            self.connections[place].end();
            self.touch(place);
        }
    }

    /// Whether all are gone that were to be seen off, and nothing of theirs is on the disk.
    pub fn have_left(&self) -> bool {
        self.patience.is_some() && self.connections.is_empty()
    }

    /// Whether a request of a client is on the disk.
    pub fn are_served(&self) -> bool {
        self.service.is_busy()
    }

    /// The disk has another size. Clients that come from now on are told.
    pub fn resized(&mut self, engine: &Engine) {
        self.service.resized(engine);
    }

    /// Takes an event that is about a descriptor of theirs.
    pub fn handle(&mut self, event: &Event, disk: &mut Disk, executor: &mut dyn Executor) {
        match event {
            Event::Done { .. } => {}
            Event::Readable { key } => match WatchKey::from_key(*key) {
                Some(WatchKey::Listener) => self.accept(executor),
                Some(WatchKey::Read(place)) => self.receive(place, &mut Io { disk, executor }),
                Some(WatchKey::Write(_)) | None => {}
            },
            // It is sent to when the round is settled.
            Event::Writable { key } => {
                if let Some(WatchKey::Write(place)) = WatchKey::from_key(*key) {
                    self.touch(place);
                }
            }
        }
    }

    /// Answers a request that the disk has finished. Returns whether it was a client's.
    pub fn finish(
        &mut self,
        finished: &Finished,
        disk: &mut Disk,
        executor: &mut dyn Executor,
    ) -> bool {
        let Some(place) = self.service.place_of(finished.token) else {
            return false;
        };
        // A connection stays in its place until its requests are finished, also without its socket.
        let connection = &mut self.connections[place];
        self.service
            .finish(finished, connection, &mut Io { disk, executor });
        self.touch(place);
        true
    }

    /// Sends what there is to send, and waits for what is to come. Returns whether there was anything; then requests may
    /// have finished meanwhile.
    pub fn settle(&mut self, disk: &mut Disk, executor: &mut dyn Executor) -> bool {
        let mut busy = false;
        let mut io = Io { disk, executor };
        for place in std::mem::take(&mut self.touched) {
            busy |= self.send(place, &mut io);
        }
        busy
    }

    /// When [`Clients::tick`] is to be called next; `None` if nothing waits for it.
    pub fn next_tick(&self) -> Option<Instant> {
        let waits = self.patience.is_some() && !self.connections.is_empty()
            || self.may_listen() && !self.listening
            || self
                .connections
                .iter()
                .any(|(_, connection)| connection.negotiating_since().is_some());
        waits.then_some(self.next_tick)
    }

    /// Gives up on clients that make no progress, about once a second. To be followed by [`Clients::settle`].
    pub fn tick(&mut self, executor: &mut dyn Executor) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.listen(self.may_listen(), executor);
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

    fn listen(&mut self, wanted: bool, executor: &mut dyn Executor) {
        if wanted == self.listening {
            return;
        }
        let key = WatchKey::Listener.key(self.number);
        if !wanted {
            executor.unwatch(key);
        } else if let Err(cause) = executor.watch(key, self.socket.listener().as_fd()) {
            tracing::error!(parent: &self.span, "cannot watch for clients: {cause}");
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
                        tracing::error!(parent: &self.span, "cannot accept a client: {cause}");
                    }
                    self.listen(false, executor);
                    return;
                }
            }
        }
    }

    fn receive(&mut self, place: usize, io: &mut Io<'_>) {
        let Some(connection) = self.connections.get_mut(place) else {
            return;
        };
        let (service, statistics) = (&mut self.service, &mut self.statistics);
        let result = connection.receive(|connection| {
            service.serve(place, connection, statistics, io)?;
            Ok(())
        });
        self.touch(place);
        if let Err(error) = result {
            self.break_off(place, &error, io.executor);
        }
    }

    /// Sends what there is, lets go on what was held back, and ends the connection if it is over. Returns whether there
    /// is more to settle.
    fn send(&mut self, place: usize, io: &mut Io<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(place) else {
            return false;
        };
        connection.touched = false;
        let (service, statistics) = (&mut self.service, &mut self.statistics);
        let result = connection.send().and_then(|go_on| match go_on {
            true => service.serve(place, connection, statistics, io),
            false => Ok(false),
        });
        match result {
            Err(error) => {
                self.break_off(place, &error, io.executor);
                false
            }
            Ok(went_on) => {
                let again = went_on || connection.can_send();
                if again {
                    self.touch(place);
                } else {
                    self.watch(place, io.executor);
                    self.reap(place, io.executor);
                }
                again
            }
        }
    }

    /// Ends a connection in which nothing can go on. What it has on the disk finishes, and is answered to nobody.
    fn break_off(&mut self, place: usize, error: &ConnectionError, executor: &mut dyn Executor) {
        self.statistics.broken_off += 1;
        if self.logged.insert(error.kind()) {
            tracing::warn!(
                parent: &self.span,
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
        let number = self.number;
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
        self.open && self.connections.len() < self.clients_max
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
