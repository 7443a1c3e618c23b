use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::buffer::AlignedBuf;

fn buffer(bytes: &[u8]) -> Buffer {
    AlignedBuf::from_slice(bytes).into_buffer()
}

#[test]
fn pieces_are_sent_one_after_the_other() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let memory = buffer(b"3456");
    let pieces = [
        Piece::Bytes(b"012"),
        Piece::Memory(&memory),
        Piece::Bytes(b""),
        Piece::Bytes(b"789"),
    ];
    for skip in 0..10 {
        assert_eq!(send(near.as_fd(), pieces, skip).unwrap(), 10 - skip);
        let mut got = vec![0; 10 - skip];
        far.read_exact(&mut got).unwrap();
        assert_eq!(got, &b"0123456789"[skip..]);
    }
}

#[test]
fn more_pieces_than_one_call_takes_are_sent_in_part() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let memory = buffer(b"x");
    let pieces = std::iter::repeat_n(Piece::Memory(&memory), 3000);
    assert_eq!(send(near.as_fd(), pieces, 100).unwrap(), 1024);
    far.read_exact(&mut [0; 1024]).unwrap();
}

#[test]
fn what_is_received_fills_the_memory_first() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let memory = buffer(b"..........");
    let mut rest = [0; 8];
    far.write_all(b"0123").unwrap();
    assert_eq!(receive(near.as_fd(), &memory, 4, &mut rest).unwrap(), 4);
    assert_eq!(memory.to_vec(), b"....0123..");
    assert_eq!(rest, [0; 8]);
    far.write_all(b"abcdef").unwrap();
    assert_eq!(receive(near.as_fd(), &memory, 8, &mut rest).unwrap(), 6);
    assert_eq!(memory.to_vec(), b"....0123ab");
    assert_eq!(&rest, b"cdef\0\0\0\0");
    far.write_all(b"only").unwrap();
    let received = receive(near.as_fd(), &Buffer::empty(), 0, &mut rest);
    assert_eq!(received.unwrap(), 4);
    assert_eq!(&rest, b"only\0\0\0\0");
}

#[test]
fn nothing_waits() {
    let (near, far) = UnixStream::pair().unwrap();
    let nothing = receive(near.as_fd(), &Buffer::empty(), 0, &mut [0; 8]);
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::WouldBlock);
    let memory = buffer(&[7; 1 << 20]);
    loop {
        match send(near.as_fd(), [Piece::Memory(&memory)], 0) {
            Ok(sent) => assert!(sent > 0),
            Err(cause) => {
                assert_eq!(cause.kind(), ErrorKind::WouldBlock);
                break;
            }
        }
    }
    drop(far);
}

#[test]
fn a_peer_that_is_gone_is_an_end_and_an_error() {
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    assert_eq!(
        receive(near.as_fd(), &Buffer::empty(), 0, &mut [0; 8]).unwrap(),
        0
    );
    let sent = send(near.as_fd(), [Piece::Bytes(b"x")], 0);
    assert_eq!(sent.unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn room_is_given_to_sockets_only() {
    let (near, _far) = UnixStream::pair().unwrap();
    set_send_room(near.as_fd(), 1 << 20).unwrap();
    let file = tempfile::tempfile().unwrap();
    assert!(set_send_room(file.as_fd(), 1 << 20).is_err());
}
