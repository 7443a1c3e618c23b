//! The NBD protocol: whatever a client sends, in pieces of whatever size.
//!
//! A case is a script that makes a client's bytes: mostly well-formed options and requests with odd values in them, and
//! raw bytes in between. They are served twice, in one piece and in small ones, by a server that does as
//! `nbd-server` does; what it answers is taken apart by a client of our own.

use ::nbd::reply::{Bytes, Descriptor, Part};
use ::nbd::{
    Advance, BlockSizes, ByteRange, Command, Context, Decoded, Export, Features, HEADER_BYTES,
    Negotiation, OPTION_BYTES_MAX, Outcome, PAYLOAD_BYTES_MAX, Request, Session,
};

use crate::nbd_client::Client;
use crate::script::Script;

/// Size of the export: data is not kept, so it may be large.
const SIZE: u64 = 1 << 33;

/// Names and queries that mean something, and some that nearly do.
const STRINGS: &[&[u8]] = &[
    b"",
    b"disk",
    b"other",
    b"base:allocation",
    b"qemu:allocation-depth",
    b"base:",
    b"qemu:",
    b"base:allocation\0",
];

/// Serves what the client of `data` sends.
///
/// # Panics
/// If the server says what it must not, or reads what was not sent.
pub fn nbd(data: &[u8]) {
    let mut script = Script::new(data);
    let export = export(&mut script);
    let pieces = 1 + script.index(64);
    let stream = stream(&mut script);
    let whole = Server::new(&export).serve(&stream, usize::MAX);
    let piecewise = Server::new(&export).serve(&stream, pieces);
    assert_eq!(
        whole, piecewise,
        "the answers depend on how the bytes arrive"
    );
    Client::new(&export, whole.entered).read(&whole.sent);
}

fn export(script: &mut Script<'_>) -> Export {
    let features = script.byte();
    let has = |bit: u8| features >> bit & 1 == 1;
    let sizes = BlockSizes {
        minimum: if has(4) { 4096 } else { 512 },
        preferred: 4096,
    };
    let features = Features {
        read_only: has(0),
        trim: has(1),
        write_zeroes: has(2),
        fast_zero: has(3),
    };
    let export = Export::new(
        "disk".to_owned(),
        "a disk".to_owned(),
        SIZE,
        sizes,
        features,
    );
    export.expect("a valid export")
}

/// The bytes that the client sends.
fn stream(script: &mut Script<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if !script.one_in(8) {
        bytes.extend(u32::from(script.byte() % 4).to_be_bytes());
    }
    while !script.is_over() && bytes.len() < 1 << 17 {
        match script.byte() % 16 {
            0..=4 => option(script, &mut bytes),
            5..=13 => request(script, &mut bytes),
            14 => {
                let len = script.index(64);
                bytes.extend(script.take(len));
            }
            // Data of a write, or of an option that is passed over.
            _ => bytes.resize(bytes.len() + usize::from(script.u16()), script.byte()),
        }
    }
    bytes
}

fn option(script: &mut Script<'_>, bytes: &mut Vec<u8>) {
    let number = match script.byte() % 16 {
        15 => script.u32(),
        number => u32::from(number),
    };
    let mut data = Vec::new();
    match number {
        6 | 7 => {
            string(script, &mut data);
            let count = script.byte() % 5;
            data.extend(u16::from(count).to_be_bytes());
            for _ in 0..count {
                data.extend(u16::from(script.byte() % 6).to_be_bytes());
            }
        }
        9 | 10 => {
            string(script, &mut data);
            let count = script.byte() % 4;
            data.extend(u32::from(count).to_be_bytes());
            (0..count).for_each(|_| string(script, &mut data));
        }
        1 => data.extend(STRINGS[script.index(STRINGS.len())]),
        _ => {}
    }
    let len = lie(script, data.len());
    bytes.extend(b"IHAVEOPT");
    bytes.extend(number.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes.extend(data);
}

fn string(script: &mut Script<'_>, data: &mut Vec<u8>) {
    let text = STRINGS[script.index(STRINGS.len())];
    data.extend(lie(script, text.len()).to_be_bytes());
    data.extend(text);
}

/// A length, mostly the true one.
fn lie(script: &mut Script<'_>, len: usize) -> u32 {
    match script.byte() {
        253 => script.u32(),
        254 => 0,
        255 => u32::from(script.u16()),
        _ => u32::try_from(len).expect("short"),
    }
}

fn request(script: &mut Script<'_>, bytes: &mut Vec<u8>) {
    let kind = u16::from(script.byte() % 10);
    let flags = match script.byte() {
        255 => script.u16(),
        flags if flags < 128 => 0,
        flags => u16::from(flags % 32),
    };
    let offset = match script.byte() % 8 {
        0 => script.u64(),
        1 => SIZE - 512 * u64::from(script.byte()),
        _ => 512 * u64::from(script.u16()),
    };
    let len = match script.byte() % 8 {
        0 => script.u32(),
        1 => PAYLOAD_BYTES_MAX - 512 + 512 * u32::from(script.byte() % 3),
        _ => 512 * u32::from(script.byte() % 20),
    };
    bytes.extend(0x2560_9513_u32.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(script.u64().to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    // The data follows, mostly.
    if kind == 1 && len < 1 << 16 && script.byte() < 240 {
        bytes.resize(bytes.len() + len as usize, 0x5a);
    }
}

/// A server that keeps no data.
struct Server<'a> {
    export: &'a Export,
    served: Served,
}

/// What came of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Served {
    sent: Vec<u8>,
    /// What was agreed upon, if the client got so far, and how many bytes had been sent then.
    entered: Option<(Session, usize)>,
    /// Bytes of the client's that were used up.
    consumed: usize,
    ended: bool,
}

impl<'a> Server<'a> {
    fn new(export: &'a Export) -> Self {
        let sent = Negotiation::greeting().to_vec();
        let served = Served {
            sent,
            ..Served::default()
        };
        Self { export, served }
    }

    /// Serves bytes that arrive in pieces of `piece`.
    fn serve(mut self, stream: &[u8], piece: usize) -> Served {
        if let Some(session) = self.negotiate(stream, piece) {
            self.served.entered = Some((session, self.served.sent.len()));
            self.transmit(session, stream);
        }
        self.served
    }

    fn negotiate(&mut self, stream: &[u8], piece: usize) -> Option<Session> {
        let mut negotiation = Negotiation::new();
        let mut arrived = stream.len().min(piece);
        loop {
            let input = &stream[self.served.consumed..arrived];
            let before = self.served.sent.len();
            let advanced = negotiation.advance(self.export, input, &mut self.served.sent);
            let answered = self.served.sent.len() - before;
            let Ok(Advance { consumed, outcome }) = advanced else {
                assert_eq!(answered, 0, "an answer with the end of the connection");
                self.served.ended = true;
                return None;
            };
            assert!(consumed <= input.len(), "more was used up than there is");
            assert!(answered < OPTION_BYTES_MAX, "an answer of {answered} bytes");
            self.served.consumed += consumed;
            match outcome {
                Outcome::Continue => assert!(consumed > 0, "a step that uses nothing up"),
                Outcome::NeedMore => {
                    let kept = arrived - self.served.consumed;
                    let all = arrived == stream.len();
                    assert!(
                        all || kept < OPTION_BYTES_MAX,
                        "{kept} bytes are not enough"
                    );
                    if all {
                        return None;
                    }
                    arrived = stream.len().min(arrived.saturating_add(piece));
                }
                Outcome::Transmission(session) => return Some(session),
                Outcome::Aborted => {
                    self.served.ended = true;
                    return None;
                }
            }
        }
    }

    /// Requests have a fixed length, so how they arrive makes no difference here.
    fn transmit(&mut self, session: Session, stream: &[u8]) {
        while let Some(header) = stream[self.served.consumed..].first_chunk::<HEADER_BYTES>() {
            let Ok(decoded) = session.decode(self.export, header) else {
                self.served.ended = true;
                return;
            };
            self.served.consumed += HEADER_BYTES;
            let payload = match decoded {
                Decoded::Request(request) => {
                    self.check(session, &request);
                    if request.command == Command::Disconnect {
                        self.served.ended = true;
                        return;
                    }
                    request.payload_len()
                }
                Decoded::Refused(refusal) => refusal.payload_len,
            };
            assert!(payload <= PAYLOAD_BYTES_MAX, "{payload} bytes of data");
            let Some(consumed) = self.served.consumed.checked_add(payload as usize) else {
                return;
            };
            if consumed > stream.len() {
                self.served.ended = true;
                return;
            }
            self.served.consumed = consumed;
            match decoded {
                Decoded::Request(request) => self.answer(session, &request),
                Decoded::Refused(refusal) => {
                    let message = refusal.reason.message();
                    self.send(&session.failed(refusal.cookie, refusal.code(), message));
                }
            }
        }
    }

    /// What a server relies upon.
    fn check(&self, session: Session, request: &Request) {
        let Features {
            read_only,
            trim,
            write_zeroes,
            fast_zero,
        } = self.export.features();
        let (range, allowed) = match request.command {
            Command::Disconnect | Command::Flush => return,
            Command::Read { range, whole } => {
                let short = range.len <= PAYLOAD_BYTES_MAX;
                (range, short && (session.structured() || !whole))
            }
            Command::Write { range, .. } => (range, !read_only && range.len <= PAYLOAD_BYTES_MAX),
            Command::Trim { range, .. } => (range, !read_only && trim),
            Command::WriteZeroes { range, fast, .. } => {
                (range, !read_only && write_zeroes && (fast_zero || !fast))
            }
            Command::BlockStatus { range, .. } => (
                range,
                session.structured() && !session.contexts().is_empty(),
            ),
        };
        let minimum = self.export.sizes().minimum;
        let ByteRange { offset, len } = range;
        let in_blocks = offset.is_multiple_of(minimum.into()) && len.is_multiple_of(minimum);
        let inside = offset
            .checked_add(len.into())
            .is_some_and(|end| end <= self.export.size());
        assert!(
            allowed && in_blocks && inside && len > 0,
            "{request:?} was let through"
        );
    }

    fn answer(&mut self, session: Session, request: &Request) {
        let cookie = request.cookie;
        match request.command {
            Command::Read { range, whole } => {
                // The data itself is not sent, but for a byte, so that cases stay small.
                let half = range.len / 2;
                if session.structured() && !whole && half > 0 {
                    self.send(&::nbd::reply::hole(cookie, Part::More, range.offset, half));
                    let (offset, len) = (range.offset + u64::from(half), range.len - half);
                    self.send(&session.data_head(cookie, Part::Last, offset, len));
                } else {
                    self.send(&session.data_head(cookie, Part::Last, range.offset, range.len));
                }
            }
            Command::BlockStatus { range, one } => self.describe(session, request, range, one),
            _ => self.send(&session.done(cookie)),
        }
    }

    fn describe(&mut self, session: Session, request: &Request, range: ByteRange, one: bool) {
        let half = range.len / 2;
        let whole = [Descriptor {
            len: range.len,
            status: 0,
        }];
        let halves = [half, range.len - half].map(|len| Descriptor { len, status: 1 });
        let contexts: Vec<Context> = session.contexts().iter().collect();
        for (i, context) in contexts.iter().enumerate() {
            let part = match i + 1 == contexts.len() {
                true => Part::Last,
                false => Part::More,
            };
            let descriptors = if one || half == 0 {
                &whole[..]
            } else {
                &halves[..]
            };
            self.send(&::nbd::reply::block_status(
                request.cookie,
                part,
                *context,
                descriptors,
            ));
        }
    }

    fn send(&mut self, bytes: &Bytes) {
        self.served.sent.extend_from_slice(bytes);
    }
}
