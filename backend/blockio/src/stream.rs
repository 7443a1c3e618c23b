//! Bytes between stream sockets and buffers, gathered and scattered, without copying them through other memory.
//!
//! Nothing here waits: what cannot be done now fails with `WouldBlock`, whatever mode the socket is in.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{c_int, iovec, msghdr};
use smallvec::SmallVec;

use crate::buffer::Buffer;

/// Most pieces of memory in one system call (`UIO_MAXIOV`).
const SEGMENTS_MAX: usize = 1024;

/// Enough for most calls without an allocation.
type Segments = SmallVec<[iovec; 64]>;

/// Bytes to be sent.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Ordinary ones.
    Bytes(&'a [u8]),
    /// The contents of a buffer.
    Memory(&'a Buffer),
}

impl Piece<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Memory(buffer) => buffer.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Sends the pieces, one after the other, without the first `skip` bytes, and returns how many bytes the socket took.
///
/// That may be fewer than there are: call again with what is left, until the socket is full or all is sent.
///
/// # Errors
///
/// `WouldBlock` if the socket takes nothing now, else why it does not. A peer that is gone is an error, not a signal.
pub fn send<'a>(
    socket: BorrowedFd<'_>,
    pieces: impl IntoIterator<Item = Piece<'a>>,
    skip: usize,
) -> io::Result<usize> {
    let mut segments = Segments::new();
    let mut skip = skip;
    for piece in pieces {
        if segments.len() >= SEGMENTS_MAX {
            break;
        }
        let skipped = skip.min(piece.len());
        skip -= skipped;
        match piece {
            Piece::Bytes(bytes) => push_bytes(&mut segments, &bytes[skipped..]),
            Piece::Memory(buffer) => push_buffer(&mut segments, buffer, skipped),
        }
    }
    let message = message(&mut segments);
    // SAFETY: the message points at the list, and the list at memory that outlives the call: slices borrowed by the
    // caller, and segments of buffers that the caller borrows, whose owners keep them mapped. It is only read.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const message,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    count_of(sent)
}

/// Receives into `memory` from `offset` on, and what comes after that into `rest`; returns how many bytes came in all,
/// 0 if the peer has ended its side.
///
/// # Errors
///
/// `WouldBlock` if there is nothing now, else why nothing can be received.
///
/// # Panics
///
/// If `offset` is outside `memory`, or there is no room at all.
pub fn receive(
    socket: BorrowedFd<'_>,
    memory: &Buffer,
    offset: usize,
    rest: &mut [u8],
) -> io::Result<usize> {
    let mut segments = Segments::new();
    push_buffer(&mut segments, memory, offset);
    if !rest.is_empty() && segments.len() < SEGMENTS_MAX {
        segments.push(iovec {
            iov_base: rest.as_mut_ptr().cast(),
            iov_len: rest.len(),
        });
    }
    assert!(!segments.is_empty(), "no room to receive anything into");
    let mut message = message(&mut segments);
    // SAFETY: the message points at the list, and the list at memory that outlives the call and may be written: the
    // segments of a buffer, which its owner keeps mapped and no reference exists to, and a slice borrowed mutably.
    let received = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut message,
            libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC,
        )
    };
    count_of(received)
}

fn push_bytes(segments: &mut Segments, bytes: &[u8]) {
    if !bytes.is_empty() {
        segments.push(iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        });
    }
}

fn push_buffer(segments: &mut Segments, buffer: &Buffer, offset: usize) {
    let room = SEGMENTS_MAX - segments.len();
    for piece in buffer.pieces(offset, buffer.len() - offset).take(room) {
        segments.push(iovec {
            iov_base: piece.address.as_ptr().cast(),
            iov_len: piece.len,
        });
    }
}

/// A message of these segments, without address and control data.
fn message(segments: &mut Segments) -> msghdr {
    // SAFETY: all zeros is the message of nothing, to nobody: null pointers with lengths of 0.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = segments.as_mut_ptr();
    message.msg_iovlen = segments.len();
    message
}

fn count_of(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| match io::Error::last_os_error() {
        // Nothing was transferred: a signal came in between.
        cause if cause.kind() == io::ErrorKind::Interrupted => io::ErrorKind::WouldBlock.into(),
        cause => cause,
    })
}

/// Asks for room for `bytes` in flight from this socket to its peer. The kernel gives what its limits allow.
///
/// # Errors
///
/// If the descriptor is not a socket.
pub fn set_send_room(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let wanted = c_int::try_from(bytes).unwrap_or(c_int::MAX);
    // Past the limit for everybody, if this process may; else up to it.
    if set_option(socket, libc::SO_SNDBUFFORCE, wanted).is_ok() {
        return Ok(());
    }
    set_option(socket, libc::SO_SNDBUF, wanted)
}

fn set_option(socket: BorrowedFd<'_>, option: c_int, value: c_int) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<c_int>()).expect("4");
    // SAFETY: the option's value is an int, and the pointer is to one that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
