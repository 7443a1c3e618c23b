//! The client's bytes on their way to requests.

use std::io;
use std::os::fd::BorrowedFd;

use blockio::buffer::Buffer;
use blockio::stream;
use nbd::Request;

/// Room for bytes that are not known to be data of a write: enough for many requests with one system call, since
/// copying the data of small writes out of it is cheaper than a system call for each.
const STAGING_BYTES: usize = 256 << 10;

/// From so much missing data on, a write is large, and so are those that follow it, most likely.
const LARGE_BYTES: usize = 64 << 10;

/// Room behind the data of a large write: for the next headers, but not for much of the data that follows them, which
/// is to be received in place too.
const LOOK_AHEAD_BYTES: usize = 4096;

/// What was received and not yet used up, and the write whose data is on its way.
pub(crate) struct Inbound {
    staging: Box<[u8]>,
    start: usize,
    end: usize,
    write: Option<IncomingWrite>,
    /// Bytes to come that nobody looks at: the data of a write that was refused.
    skip: usize,
}

struct IncomingWrite {
    request: Request,
    buffer: Buffer,
    filled: usize,
}

/// What came of an attempt to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Bytes, and perhaps there are more: all the room was filled.
    Full,
    /// Bytes, and for now no more.
    Some,
    /// Nothing for now.
    Nothing,
    /// Nothing ever again: the peer has ended its side.
    End,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self {
            staging: vec![0; STAGING_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            write: None,
            skip: 0,
        }
    }

    /// Receives once. There is room as long as [`Inbound::bytes`] has been used up as far as it makes requests.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received> {
        self.make_room();
        let nothing = Buffer::empty();
        let (memory, filled) = match &self.write {
            Some(write) => (&write.buffer, write.filled),
            None => (&nothing, 0),
        };
        let wanted = memory.len() - filled;
        let room = &mut self.staging[self.end..];
        let room_len = if wanted < LARGE_BYTES {
            room.len()
        } else {
            room.len().min(LOOK_AHEAD_BYTES)
        };
        let count = match stream::receive(socket, memory, filled, &mut room[..room_len]) {
            Ok(0) => return Ok(Received::End),
            Ok(count) => count,
            Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Received::Nothing);
            }
            Err(cause) => return Err(cause),
        };
        let in_place = count.min(wanted);
        if let Some(write) = &mut self.write {
            write.filled += in_place;
        }
        self.end += count - in_place;
        Ok(if count == wanted + room_len {
            Received::Full
        } else {
            Received::Some
        })
    }

    fn make_room(&mut self) {
        if self.start > 0 {
            self.staging.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// The bytes that come next, without those that nobody looks at.
    pub(crate) fn bytes(&mut self) -> &[u8] {
        let skipped = self.skip.min(self.end - self.start);
        self.skip -= skipped;
        self.start += skipped;
        &self.staging[self.start..self.end]
    }

    /// The first `count` of the bytes are used up.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// The next `count` bytes are of no interest.
    pub(crate) fn skip(&mut self, count: usize) {
        self.skip = count;
    }

    /// The next `buffer.len()` bytes are the data of a write.
    pub(crate) fn begin_write(&mut self, request: Request, buffer: Buffer) {
        let filled = buffer.len().min(self.end - self.start);
        buffer.copy_from_slice(0, &self.staging[self.start..self.start + filled]);
        self.start += filled;
        self.write = Some(IncomingWrite {
            request,
            buffer,
            filled,
        });
    }

    /// Whether a write waits for data.
    pub(crate) fn is_writing(&self) -> bool {
        self.write.is_some()
    }

    /// Forgets the write whose data is on its way, and returns its request.
    pub(crate) fn abandon_write(&mut self) -> Option<Request> {
        self.write.take().map(|write| write.request)
    }

    /// The write whose data is complete.
    pub(crate) fn take_write(&mut self) -> Option<(Request, Buffer)> {
        let write = self
            .write
            .take_if(|write| write.filled == write.buffer.len())?;
        Some((write.request, write.buffer))
    }
}
