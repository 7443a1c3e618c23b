//! One client.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use blockio::buffer::{BUFFER_ALIGNMENT, Buffer, BufferPool};
use blockio::stream;
use nbd::reply::Bytes;
use nbd::{
    Advance, Command, Decoded, HEADER_BYTES, Negotiation, NegotiationError, Outcome, Refusal,
    Request, RequestError, Session,
};
use thiserror::Error;

use crate::inbound::{Inbound, Received};
use crate::outbound::{Charge, Outbound};

/// Most requests of one client that are under way or answered and not sent.
const REQUESTS_MAX: usize = 512;

/// Most bytes of data of one client that are held for it. A single request may be as large as the protocol allows,
/// which is half of it.
const BYTES_MAX: usize = 64 << 20;

/// How often a client is received from before others have their turn: about a megabyte, or a large write.
const TURNS_MAX: usize = 8;

/// How much may be on its way to a client.
const SEND_ROOM_BYTES: usize = 4 << 20;

/// Why a connection ended other than by the client's wish.
#[derive(Debug, Error)]
pub(crate) enum ConnectionError {
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the connection broke: {0}")]
    Socket(#[from] io::Error),
    #[error("the client did not finish its negotiation in time")]
    TooSlow,
    #[error("the client did not take its replies while the server was stopping")]
    Abandoned,
}

impl ConnectionError {
    /// Names the kind of error, so that each is logged once.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Negotiation(_) => "negotiation",
            Self::Request(_) => "request",
            Self::Socket(_) => "socket",
            Self::TooSlow => "slow",
            Self::Abandoned => "abandoned",
        }
    }
}

enum Phase {
    Negotiating { since: Instant, state: Negotiation },
    Transmission(Session),
}

/// What to do next for a client.
pub(crate) enum Next {
    /// Nothing, until it sends more or takes replies.
    Wait,
    /// Nothing; it has finished its negotiation.
    Welcome,
    /// Serve this; the buffer holds the data of a write.
    Serve(Session, Request, Buffer),
    /// It was refused, and has been told.
    Refused(Refusal),
}

/// A client's connection. Without its socket it is only there until what it has on the disk is finished.
pub(crate) struct Connection {
    socket: Option<UnixStream>,
    phase: Phase,
    inbound: Inbound,
    outbound: Outbound,
    in_flight: Charge,
    /// No more is received; when all has been answered, the connection ends.
    ending: bool,
    /// A request waits until others have been answered.
    held_back: bool,
    /// The socket takes no more for now.
    full: bool,
    /// What the executor watches.
    pub(crate) watched: Interests,
    /// It is in the list of those to be settled.
    pub(crate) touched: bool,
}

/// What is wanted of a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interests {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

impl Connection {
    pub(crate) fn new(socket: UnixStream, now: Instant) -> Self {
        if let Err(cause) = stream::set_send_room(socket.as_fd(), SEND_ROOM_BYTES) {
            tracing::debug!("a connection keeps its small buffers: {cause}");
        }
        let mut outbound = Outbound::default();
        let greeting = Bytes::from_slice(&Negotiation::greeting());
        outbound.push(greeting, Buffer::empty(), Charge::default());
        Self {
            socket: Some(socket),
            phase: Phase::Negotiating {
                since: now,
                state: Negotiation::new(),
            },
            inbound: Inbound::new(),
            outbound,
            in_flight: Charge::default(),
            ending: false,
            held_back: false,
            full: false,
            watched: Interests::default(),
            touched: false,
        }
    }

    pub(crate) fn socket(&self) -> Option<&UnixStream> {
        self.socket.as_ref()
    }

    /// Since when it negotiates, if it still does.
    pub(crate) fn negotiating_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Negotiating { since, .. } if self.socket.is_some() => Some(since),
            _ => None,
        }
    }

    /// What is wanted of the socket now.
    pub(crate) fn interests(&self) -> Interests {
        let open = self.socket.is_some();
        Interests {
            read: open && !self.ending && !self.held_back,
            write: open && self.full,
        }
    }

    /// Takes no more requests; the connection ends when all is answered. A write whose data is not complete is
    /// forgotten.
    pub(crate) fn end(&mut self) {
        self.ending = true;
        if let Some(write) = self.inbound.abandon_write() {
            let bytes = charge_of(&write.command);
            self.in_flight.subtract(Charge { requests: 1, bytes });
        }
    }

    /// Lets go of the socket and of the replies that were not sent.
    pub(crate) fn drop_socket(&mut self) {
        self.socket = None;
        self.end();
        let released = self.outbound.abandon();
        self.in_flight.subtract(released);
    }

    /// Whether nothing is left of it: its requests are finished, and nobody waits for replies.
    pub(crate) fn is_over(&self) -> bool {
        let answered = self.in_flight.requests == 0 && self.outbound.is_empty();
        answered && (self.ending || self.socket.is_none())
    }

    /// Receives what there is, a few times at most, and calls `serve` after each time.
    pub(crate) fn receive(
        &mut self,
        mut serve: impl FnMut(&mut Self) -> Result<(), ConnectionError>,
    ) -> Result<(), ConnectionError> {
        for _ in 0..TURNS_MAX {
            let Some(socket) = &self.socket else {
                return Ok(());
            };
            if !self.interests().read {
                return Ok(());
            }
            match self.inbound.receive(socket.as_fd())? {
                Received::Nothing => return Ok(()),
                Received::End => {
                    self.end();
                    return Ok(());
                }
                Received::Some => return serve(self),
                Received::Full => serve(self)?,
            }
        }
        Ok(())
    }

    /// Makes of what was received the next thing to do.
    pub(crate) fn next(
        &mut self,
        export: &nbd::Export,
        pool: &BufferPool,
    ) -> Result<Next, ConnectionError> {
        self.held_back = false;
        loop {
            if self.ending {
                return Ok(Next::Wait);
            }
            match self.phase {
                // One answer at a time, so that a client that does not read them cannot pile them up.
                Phase::Negotiating { .. } if !self.outbound.is_empty() => {
                    self.held_back = true;
                    return Ok(Next::Wait);
                }
                Phase::Negotiating { .. } => {
                    if !self.negotiate(export)? {
                        return Ok(Next::Wait);
                    }
                    if matches!(self.phase, Phase::Transmission(_)) {
                        return Ok(Next::Welcome);
                    }
                }
                Phase::Transmission(session) => return self.next_request(session, export, pool),
            }
        }
    }

    /// Makes a step of the negotiation, if there are the bytes for one.
    fn negotiate(&mut self, export: &nbd::Export) -> Result<bool, ConnectionError> {
        let Phase::Negotiating { state, .. } = &mut self.phase else {
            return Ok(false);
        };
        let mut replies = Vec::new();
        let Advance { consumed, outcome } =
            state.advance(export, self.inbound.bytes(), &mut replies)?;
        self.inbound.consume(consumed);
        if !replies.is_empty() {
            let replies = Bytes::from_vec(replies);
            self.outbound
                .push(replies, Buffer::empty(), Charge::default());
        }
        match outcome {
            Outcome::NeedMore => return Ok(false),
            Outcome::Continue => {}
            Outcome::Aborted => self.end(),
            Outcome::Transmission(session) => self.phase = Phase::Transmission(session),
        }
        Ok(true)
    }

    fn next_request(
        &mut self,
        session: Session,
        export: &nbd::Export,
        pool: &BufferPool,
    ) -> Result<Next, ConnectionError> {
        loop {
            if let Some((request, buffer)) = self.inbound.take_write() {
                return Ok(Next::Serve(session, request, buffer));
            }
            if self.inbound.is_writing() {
                return Ok(Next::Wait);
            }
            let Some(header) = self.inbound.bytes().first_chunk::<HEADER_BYTES>() else {
                return Ok(Next::Wait);
            };
            let decoded = session.decode(export, header)?;
            if let Decoded::Request(Request {
                command: Command::Disconnect,
                ..
            }) = decoded
            {
                self.end();
                return Ok(Next::Wait);
            }
            if !self.admit(&decoded) {
                self.held_back = true;
                return Ok(Next::Wait);
            }
            self.inbound.consume(HEADER_BYTES);
            match decoded {
                Decoded::Refused(refusal) => {
                    self.refuse(session, &refusal);
                    return Ok(Next::Refused(refusal));
                }
                Decoded::Request(request) => match request.command {
                    Command::Write { range, .. } => {
                        self.inbound
                            .begin_write(request, pool.take(range.len as usize));
                    }
                    _ => return Ok(Next::Serve(session, request, Buffer::empty())),
                },
            }
        }
    }

    /// Counts a request as in flight, if there is room for it.
    fn admit(&mut self, decoded: &Decoded) -> bool {
        let bytes = match decoded {
            Decoded::Request(request) => charge_of(&request.command),
            Decoded::Refused(_) => 0,
        };
        let fits = self.in_flight.requests < REQUESTS_MAX
            && (self.in_flight.bytes + bytes <= BYTES_MAX || self.in_flight.bytes == 0);
        if fits {
            self.in_flight.add(Charge { requests: 1, bytes });
        }
        fits
    }

    fn refuse(&mut self, session: Session, refusal: &Refusal) {
        self.inbound.skip(refusal.payload_len as usize);
        let reply = session.failed(refusal.cookie, refusal.code(), refusal.reason.message());
        self.answer(reply, Buffer::empty(), 0);
    }

    /// Part of a reply, of which more follows.
    pub(crate) fn answer_in_part(&mut self, bytes: Bytes, data: Buffer) {
        if self.socket.is_some() {
            self.outbound.push(bytes, data, Charge::default());
        }
    }

    /// The reply to a request, or the last part of it; `charge` is what was charged for the request.
    pub(crate) fn answer(&mut self, bytes: Bytes, data: Buffer, charge: usize) {
        let release = Charge {
            requests: 1,
            bytes: charge,
        };
        if self.socket.is_some() {
            self.outbound.push(bytes, data, release);
        } else {
            self.in_flight.subtract(release);
        }
    }

    /// Data that need not be kept until the reply is sent.
    pub(crate) fn release(&mut self, bytes: usize) {
        self.in_flight.subtract(Charge { requests: 0, bytes });
    }

    /// Whether there is something to send that the socket may take.
    pub(crate) fn can_send(&self) -> bool {
        self.socket.is_some() && !self.full && !self.outbound.is_empty()
    }

    /// Sends what the socket takes. Returns whether a request that was held back may go on.
    pub(crate) fn send(&mut self) -> Result<bool, ConnectionError> {
        let Some(socket) = &self.socket else {
            return Ok(false);
        };
        let mut released = Charge::default();
        let result = self.outbound.send(socket.as_fd(), &mut released);
        // Also what was sent before the socket failed: a connection is over when nothing is in flight.
        self.in_flight.subtract(released);
        self.full = result?;
        Ok(self.held_back && !self.full)
    }
}

/// How many bytes are held for a request: buffers come in powers of two, from a page on.
pub(crate) fn charge_of(command: &Command) -> usize {
    match command {
        Command::Read { range, .. } | Command::Write { range, .. } => (range.len as usize)
            .next_power_of_two()
            .max(BUFFER_ALIGNMENT),
        Command::BlockStatus { .. } => crate::status::REPLY_BYTES_MAX,
        _ => 0,
    }
}
