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

    /// Sends what the socket takes. Returns whether something is left. What has been released is added to `released`,
    /// also if the socket fails after it took a part: the rest of it is found by [`Outbound::abandon`].
    pub(crate) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        released: &mut Charge,
    ) -> io::Result<bool> {
        while !self.entries.is_empty() {
            let pieces = self
                .entries
                .iter()
                .flat_map(|entry| [Piece::Bytes(&entry.bytes), Piece::Memory(&entry.data)]);
            match stream::send(socket, pieces, self.sent) {
                Ok(count) => released.add(self.advance(count)),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(true);
                }
                Err(cause) => return Err(cause),
            }
        }
        Ok(false)
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use blockio::buffer::AlignedBuf;

    use super::*;

    #[test]
    fn what_was_sent_before_the_socket_failed_is_released() {
        let one = Charge {
            requests: 1,
            bytes: 0,
        };
        let mut outbound = Outbound::default();
        // More than one call takes, and then more than a datagram can be, so that the second call fails.
        for _ in 0..1500 {
            outbound.push(Bytes::from_slice(&[7]), Buffer::empty(), one);
        }
        let large = AlignedBuf::zeroed(64 << 20).into_buffer();
        outbound.push(Bytes::from_slice(&[7]), large, one);

        let (socket, _peer) = UnixDatagram::pair().unwrap();
        let mut released = Charge::default();
        let result = outbound.send(socket.as_fd(), &mut released);
        assert!(result.is_err());
        assert_eq!(released.requests, 1024);
        released.add(outbound.abandon());
        assert_eq!(released.requests, 1501);
    }
}
