//! Replies, byte for byte.

use super::reply::{Descriptor, Part, block_status, hole};
use super::*;

const COOKIE: Cookie = Cookie(0x0102_0304_0506_0708);

#[test]
fn simple_replies() {
    assert_eq!(
        SIMPLE.done(COOKIE)[..],
        bytes("67446698 00000000 0102030405060708")
    );
    assert_eq!(
        SIMPLE.failed(COOKIE, ErrorCode::NoSpace, "not told")[..],
        bytes("67446698 0000001c 0102030405060708")
    );
    assert_eq!(
        SIMPLE.failed_at(COOKIE, ErrorCode::Io, "not told", 512)[..],
        bytes("67446698 00000005 0102030405060708")
    );
    assert_eq!(
        SIMPLE.data_head(COOKIE, Part::Last, 4096, 512)[..],
        bytes("67446698 00000000 0102030405060708")
    );
}

#[test]
fn structured_replies() {
    assert_eq!(
        STRUCTURED.done(COOKIE)[..],
        bytes("668e33ef 0001 0000 0102030405060708 00000000")
    );
    assert_eq!(
        STRUCTURED.data_head(COOKIE, Part::Last, 0x1122_3344_5566, 512)[..],
        bytes("668e33ef 0001 0001 0102030405060708 00000208 0000112233445566")
    );
    assert_eq!(
        STRUCTURED.data_head(COOKIE, Part::More, 0, PAYLOAD_BYTES_MAX)[..],
        bytes("668e33ef 0000 0001 0102030405060708 02000008 0000000000000000")
    );
    assert_eq!(
        hole(COOKIE, Part::Last, 0x1000, 0x2000)[..],
        bytes("668e33ef 0001 0002 0102030405060708 0000000c 0000000000001000 00002000")
    );
    assert_eq!(
        hole(COOKIE, Part::More, 0x1000, 0x2000)[..],
        bytes("668e33ef 0000 0002 0102030405060708 0000000c 0000000000001000 00002000")
    );
}

#[test]
fn structured_errors() {
    assert_eq!(
        STRUCTURED.failed(COOKIE, ErrorCode::Invalid, "no")[..],
        bytes("668e33ef 0001 8001 0102030405060708 00000008 00000016 0002 'no'")
    );
    assert_eq!(
        STRUCTURED.failed(COOKIE, ErrorCode::Shutdown, "")[..],
        bytes("668e33ef 0001 8001 0102030405060708 00000006 0000006c 0000")
    );
    assert_eq!(
        STRUCTURED.failed_at(COOKIE, ErrorCode::Io, "no", 0x1000)[..],
        bytes("668e33ef 0001 8002 0102030405060708 00000010 00000005 0002 'no' 0000000000001000")
    );
    // Longer than a string may be: left out.
    assert_eq!(
        STRUCTURED.failed(COOKIE, ErrorCode::Io, &"x".repeat(4097))[..],
        bytes("668e33ef 0001 8001 0102030405060708 00000006 00000005 0000")
    );
}

#[test]
fn status_replies() {
    let descriptors = [
        Descriptor {
            len: 0x1000,
            status: 0,
        },
        Descriptor {
            len: 0x2000,
            status: STATE_HOLE | STATE_ZERO,
        },
    ];
    assert_eq!(
        block_status(COOKIE, Part::More, Context::Allocation, &descriptors)[..],
        bytes(
            "668e33ef 0000 0005 0102030405060708 00000014 00000001
             00001000 00000000 00002000 00000003"
        )
    );
    assert_eq!(
        block_status(
            COOKIE,
            Part::Last,
            Context::AllocationDepth,
            &descriptors[..1]
        )[..],
        bytes("668e33ef 0001 0005 0102030405060708 0000000c 00000002 00001000 00000000")
    );
}
