//! Replies on their way to the client.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use blockio::buffer::Buffer;
use blockio::stream::{self, Piece};
use nbd::reply::Bytes;

/// What a client has in flight: from when a request is taken until its reply has been sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) requests: usize,
    pub(crate) bytes: usize,
}

/// Part of a reply.
pub(crate) struct Entry {
    bytes: Bytes,
    data: Buffer,
    /// What the client has no longer in flight when this has been sent.
    release: Charge,
}

/// The replies that have not been sent.
#[derive(Default)]
pub(crate) struct Outbound {
    entries: VecDeque<Entry>,
    /// Bytes of the first entry that have been sent.
    sent: usize,
}

impl Outbound {
    pub(crate) fn push(&mut self, bytes: Bytes, data: Buffer, release: Charge) {
        self.entries.push_back(Entry {
            bytes,
            data,
            release,
        });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives up what is left, and returns what it would have released.
    pub(crate) fn abandon(&mut self) -> Charge {
        self.sent = 0;
        let mut released = Charge::default();
        for entry in self.entries.drain(..) {
            released.add(entry.release);
        }
        released
    }

    /// Sends what the socket takes. Returns what has been released, and whether something is left.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> io::Result<(Charge, bool)> {
        let mut released = Charge::default();
        while !self.entries.is_empty() {
            let pieces = self
                .entries
                .iter()
                .flat_map(|entry| [Piece::Bytes(&entry.bytes), Piece::Memory(&entry.data)]);
            match stream::send(socket, pieces, self.sent) {
                Ok(count) => released.add(self.advance(count)),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    return Ok((released, true));
                }
                Err(cause) => return Err(cause),
            }
        }
        Ok((released, false))
    }

    fn advance(&mut self, count: usize) -> Charge {
        let mut released = Charge::default();
        self.sent += count;
        while let Some(entry) = self.entries.front() {
            let len = entry.bytes.len() + entry.data.len();
            if self.sent < len {
                break;
            }
            self.sent -= len;
            released.add(entry.release);
            self.entries.pop_front();
        }
        released
    }
}

impl Charge {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }

    pub(crate) fn subtract(&mut self, other: Self) {
        self.requests -= other.requests;
        self.bytes -= other.bytes;
    }
}
