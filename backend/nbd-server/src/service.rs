//! Requests on their way to the disk, and their results on the way back.

use blockio::buffer::{AlignedBuf, Buffer, BufferPool};
use blockio::disk::{Disk, Finished};
use blockio::executor::Executor;
use dscow::engine::{self, Engine, Source, Token};
use dscow::units::{DiskRange, SECTOR_SIZE};
use nbd::reply::{Part, hole};
use nbd::{BlockSizes, ByteRange, Command, Cookie, ErrorCode, Features, Request, Session};
use rustc_hash::FxHashSet;
use slab::Slab;
use smallvec::SmallVec;
use tracing::Span;

use crate::clients::{Offer, Statistics};
use crate::connection::{Connection, ConnectionError, Next, charge_of};
use crate::status;

/// Most runs of data and of zeros that one read is answered in. More are answered as data.
const RUNS_MAX: usize = 16;

/// Blocks that clients are told to prefer: the image's own, but at least a page, and not so large that small reads
/// would be made larger for nothing.
const PREFERRED_BYTES_MIN: u64 = 4 << 10;
const PREFERRED_BYTES_MAX: u64 = 64 << 10;

/// Most zeros that are written at once where a client wants them to take room.
const FILL_BYTES_MAX: u32 = 1 << 20;

/// A disk, and what does its I/O.
pub(crate) struct Io<'a> {
    pub(crate) disk: &'a mut Disk,
    pub(crate) executor: &'a mut dyn Executor,
}

impl Io<'_> {
    fn submit(&mut self, token: Token, request: engine::Request, buffer: Buffer) {
        self.disk.submit(self.executor, token, request, buffer);
    }
}

/// The tokens of clients' requests are those from this one on, up to [`TOKENS_END`]: the disk may have requests of others.
const TOKENS_BEGIN: u64 = 1 << 62;

/// See [`TOKENS_BEGIN`].
const TOKENS_END: u64 = 1 << 63;

/// The disk as clients see it.
pub(crate) struct Service {
    pub(crate) clients_served: u64,
    pub(crate) requests_served: u64,
    pub(crate) requests_failed: u64,
    export: nbd::Export,
    offer: Offer,
    pool: BufferPool,
    in_flight: Slab<InFlight>,
    zeros: Option<Buffer>,
    logged: FxHashSet<nbd::Reason>,
    /// What log lines are about.
    span: Span,
}

/// A request on the disk.
struct InFlight {
    /// Place of its connection.
    place: usize,
    session: Session,
    cookie: Cookie,
    kind: Kind,
    /// Bytes that the client is charged with.
    charge: usize,
}

enum Kind {
    /// To be answered with the data, in these runs.
    Read { range: ByteRange, runs: Runs },
    /// To be answered when it is done, and durable if it is to be `fua`.
    Change { range: ByteRange, fua: bool },
    /// Zeros that are to take room, written piece by piece: these are still to be submitted.
    Fill {
        range: ByteRange,
        left: ByteRange,
        fua: bool,
    },
    /// To be answered when it is done: a flush, or what is left of a change that is to be durable.
    Flush,
}

/// A run of bytes, and whether they are zeros that nobody has to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    len: u32,
    zero: bool,
}

type Runs = SmallVec<[Run; 2]>;

impl Service {
    pub(crate) fn new(
        engine: &Engine,
        offer: Offer,
        pool: BufferPool,
    ) -> Result<Self, nbd::ExportError> {
        Ok(Self {
            clients_served: 0,
            requests_served: 0,
            requests_failed: 0,
            export: describe(engine, &offer)?,
            offer,
            pool,
            in_flight: Slab::new(),
            zeros: None,
            logged: FxHashSet::default(),
            span: Span::current(),
        })
    }

    /// The disk has another size; clients that come from now on are told.
    pub(crate) fn resized(&mut self, engine: &Engine) {
        match describe(engine, &self.offer) {
            Ok(export) => self.export = export,
            Err(error) => {
                tracing::error!(parent: &self.span, "clients see the disk with its old size: {error}");
            }
        }
    }

    /// Whether a request of a client is on the disk.
    pub(crate) fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Starts what the connection has received. Returns whether there was anything.
    pub(crate) fn serve(
        &mut self,
        place: usize,
        connection: &mut Connection,
        statistics: &mut Statistics,
        io: &mut Io<'_>,
    ) -> Result<bool, ConnectionError> {
        let mut any = false;
        loop {
            match connection.next(&self.export, &self.pool)? {
                Next::Wait => return Ok(any),
                Next::Welcome => self.clients_served += 1,
                Next::Serve(session, request, data) => {
                    self.start(place, connection, session, request, data, io);
                }
                Next::Refused(refusal) => {
                    statistics.refused += 1;
                    if self.logged.insert(refusal.reason) {
                        tracing::warn!(
                            parent: &self.span,
                            "a client's request is refused: {} (others like it are only counted)",
                            refusal.reason
                        );
                    }
                }
            }
            any = true;
        }
    }

    fn start(
        &mut self,
        place: usize,
        connection: &mut Connection,
        session: Session,
        request: Request,
        data: Buffer,
        io: &mut Io<'_>,
    ) {
        self.requests_served += 1;
        let Request { cookie, command } = request;
        let (kind, request, buffer) = match command {
            Command::Read { range, whole } => {
                let runs = if session.structured() && !whole {
                    runs(io.disk.engine(), range)
                } else {
                    one_run(range)
                };
                if let [Run { zero: true, .. }] = runs[..] {
                    let bytes = hole(cookie, Part::Last, range.offset, range.len);
                    connection.answer(bytes, Buffer::empty(), charge_of(&command));
                    return;
                }
                let request = engine::Request::Read(on_disk(range));
                let buffer = self.pool.take(range.len as usize);
                (Kind::Read { range, runs }, request, buffer)
            }
            Command::Write { range, fua } => {
                let request = engine::Request::Write(on_disk(range));
                (Kind::Change { range, fua }, request, data)
            }
            Command::Flush => (Kind::Flush, engine::Request::Flush, data),
            Command::BlockStatus { range, one } => {
                return self.tell_status(connection, session, cookie, (range, one), io.disk);
            }
            Command::Trim { range, fua } => {
                let request = engine::Request::Discard(on_disk(range));
                (Kind::Change { range, fua }, request, data)
            }
            Command::WriteZeroes {
                range,
                fast: true,
                no_hole,
                ..
            } if no_hole || !zeroes_fast(io.disk, range) => {
                let message = "zeros would be written";
                let reply = session.failed(cookie, ErrorCode::NotSupported, message);
                return connection.answer(reply, Buffer::empty(), 0);
            }
            Command::WriteZeroes {
                range,
                fua,
                no_hole: true,
                ..
            } => {
                let (now, left) = split_fill(range);
                let kind = Kind::Fill { range, left, fua };
                (kind, engine::Request::Write(on_disk(now)), self.zeros(now))
            }
            Command::WriteZeroes { range, fua, .. } => {
                let request = engine::Request::WriteZeroes(on_disk(range));
                (Kind::Change { range, fua }, request, data)
            }
            Command::Disconnect => unreachable!("the connection sees to it"),
        };
        let key = self.in_flight.insert(InFlight {
            place,
            session,
            cookie,
            kind,
            charge: charge_of(&command),
        });
        io.submit(token_of(key), request, buffer);
    }

    fn tell_status(
        &mut self,
        connection: &mut Connection,
        session: Session,
        cookie: Cookie,
        (range, one): (ByteRange, bool),
        disk: &Disk,
    ) {
        let charge = status::REPLY_BYTES_MAX;
        match status::describe(disk.map(), session.contexts(), cookie, range, one) {
            Ok(mut chunks) => {
                let last = chunks.pop().expect("a context was negotiated");
                for chunk in chunks {
                    connection.answer_in_part(chunk, Buffer::empty());
                }
                connection.answer(last, Buffer::empty(), charge);
            }
            Err(cause) => {
                self.requests_failed += 1;
                let message = format!("cannot find out where the holes are: {cause}");
                let reply = session.failed(cookie, ErrorCode::Io, &message);
                connection.answer(reply, Buffer::empty(), charge);
            }
        }
    }

    /// The place of the connection that a request belongs to.
    pub(crate) fn place_of(&self, token: Token) -> Option<usize> {
        Some(self.in_flight.get(key_of(token)?)?.place)
    }

    /// What is still to be done for a request of which a part has succeeded.
    fn continuation(&mut self, key: usize) -> Option<(engine::Request, Buffer)> {
        let in_flight = &mut self.in_flight[key];
        match in_flight.kind {
            Kind::Fill { range, left, fua } if left.len > 0 => {
                let (now, left) = split_fill(left);
                in_flight.kind = Kind::Fill { range, left, fua };
                Some((engine::Request::Write(on_disk(now)), self.zeros(now)))
            }
            Kind::Change { fua: true, .. } | Kind::Fill { fua: true, .. } => {
                in_flight.kind = Kind::Flush;
                Some((engine::Request::Flush, Buffer::empty()))
            }
            _ => None,
        }
    }

    /// Zeros to be written; the same memory for all, which nobody ever writes to.
    fn zeros(&mut self, range: ByteRange) -> Buffer {
        let len = FILL_BYTES_MAX as usize;
        self.zeros
            .get_or_insert_with(|| AlignedBuf::zeroed(len).into_buffer())
            .slice(0, range.len as usize)
    }

    /// Answers a request that the disk has finished, or goes on with it.
    pub(crate) fn finish(
        &mut self,
        finished: &Finished,
        connection: &mut Connection,
        io: &mut Io<'_>,
    ) {
        let key = key_of(finished.token).expect("the token of a client's request");
        if finished.result.is_ok()
            && let Some((request, buffer)) = self.continuation(key)
        {
            io.submit(finished.token, request, buffer);
            return;
        }
        let InFlight {
            session,
            cookie,
            kind,
            charge,
            ..
        } = self.in_flight.remove(key);
        if let Err(errno) = finished.result {
            self.requests_failed += 1;
            let code = ErrorCode::from_errno(errno.0);
            let message = std::io::Error::from_raw_os_error(errno.0).to_string();
            let reply = match kind {
                Kind::Read { range, .. }
                | Kind::Change { range, .. }
                | Kind::Fill { range, .. } => {
                    session.failed_at(cookie, code, &message, range.offset)
                }
                Kind::Flush => session.failed(cookie, code, &message),
            };
            connection.answer(reply, Buffer::empty(), charge);
            return;
        }
        match kind {
            Kind::Read { range, runs } => {
                answer_read(
                    connection,
                    session,
                    cookie,
                    range,
                    &runs,
                    &finished.buffer,
                    charge,
                );
            }
            Kind::Change { .. } | Kind::Fill { .. } | Kind::Flush => {
                // The data is not needed any more, only the place for the reply.
                connection.release(charge);
                connection.answer(session.done(cookie), Buffer::empty(), 0);
            }
        }
    }
}

/// What clients are told of the disk.
fn describe(engine: &Engine, offer: &Offer) -> Result<nbd::Export, nbd::ExportError> {
    let layout = engine.layout();
    let block = layout.block_size().bytes();
    let preferred = block.clamp(PREFERRED_BYTES_MIN, PREFERRED_BYTES_MAX);
    let sizes = BlockSizes {
        minimum: u32::try_from(SECTOR_SIZE).expect("512"),
        preferred: u32::try_from(preferred).expect("at most 64 KiB"),
    };
    let features = Features {
        read_only: offer.read_only,
        trim: true,
        write_zeroes: true,
        fast_zero: true,
    };
    let (name, description) = (offer.name.clone(), offer.description.clone());
    nbd::Export::new(name, description, layout.virtual_size(), sizes, features)
}

/// Whether zeroing this range writes no zeros, except at its ends.
fn zeroes_fast(disk: &Disk, range: ByteRange) -> bool {
    let block = disk.engine().layout().block_size().bytes();
    u64::from(range.len) >= 2 * block && disk.zeroes_fast()
}

fn token_of(key: usize) -> Token {
    Token(TOKENS_BEGIN + key as u64)
}

/// `None` for requests that are no client's.
fn key_of(token: Token) -> Option<usize> {
    let is_clients = (TOKENS_BEGIN..TOKENS_END).contains(&token.0);
    is_clients.then(|| usize::try_from(token.0 - TOKENS_BEGIN).expect("made from a usize"))
}

/// Answers a read in its runs.
fn answer_read(
    connection: &mut Connection,
    session: Session,
    cookie: Cookie,
    range: ByteRange,
    runs: &[Run],
    data: &Buffer,
    charge: usize,
) {
    let mut at = 0;
    for (place, run) in runs.iter().enumerate() {
        let part = if place + 1 == runs.len() {
            Part::Last
        } else {
            Part::More
        };
        let offset = range.offset + u64::from(at);
        let (bytes, data) = if run.zero {
            (hole(cookie, part, offset, run.len), Buffer::empty())
        } else {
            let bytes = session.data_head(cookie, part, offset, run.len);
            (bytes, data.slice(at as usize, run.len as usize))
        };
        match part {
            Part::More => connection.answer_in_part(bytes, data),
            Part::Last => connection.answer(bytes, data, charge),
        }
        at += run.len;
    }
}

/// The range as runs of what somebody holds and of what nobody does.
fn runs(engine: &Engine, range: ByteRange) -> Runs {
    let mut runs = Runs::new();
    let (mut at, end) = (range.offset, range.offset + u64::from(range.len));
    while at < end {
        let extent = engine.extent_at(at, end);
        let zero = extent.source == Source::Zero;
        let len = u32::try_from(extent.len).expect("it is inside the range");
        let full = runs.len() == RUNS_MAX;
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.len += len,
            _ if full => return one_run(range),
            _ => runs.push(Run { len, zero }),
        }
        at += extent.len;
    }
    runs
}

/// What is filled with zeros at once, and what is left of the range.
fn split_fill(range: ByteRange) -> (ByteRange, ByteRange) {
    let len = range.len.min(FILL_BYTES_MAX);
    let now = ByteRange { len, ..range };
    let left = ByteRange {
        offset: range.offset + u64::from(len),
        len: range.len - len,
    };
    (now, left)
}

fn one_run(range: ByteRange) -> Runs {
    let len = range.len;
    Runs::from_slice(&[Run { len, zero: false }])
}

fn on_disk(range: ByteRange) -> DiskRange {
    DiskRange::new(range.offset, range.len.into())
}
