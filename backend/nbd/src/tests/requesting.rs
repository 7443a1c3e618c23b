//! Requests, byte for byte.

use super::*;

fn decode_by(session: Session, export: &Export, text: &str) -> Result<Decoded, RequestError> {
    session.decode(export, &bytes(text).try_into().unwrap())
}

fn decode(text: &str) -> Result<Decoded, RequestError> {
    decode_by(STRUCTURED, &export(), text)
}

#[track_caller]
fn accepts(text: &str, command: Command) {
    let cookie = Cookie(0x0102_0304_0506_0708);
    assert_eq!(
        decode(text),
        Ok(Decoded::Request(Request { cookie, command }))
    );
}

#[track_caller]
fn refuses(session: Session, export: &Export, text: &str, reason: Reason, code: ErrorCode) {
    let decoded = decode_by(session, export, text);
    let Ok(Decoded::Refused(refusal)) = decoded else {
        panic!("{text}: {decoded:?}");
    };
    assert_eq!(refusal.cookie, Cookie(0x0102_0304_0506_0708));
    assert_eq!((refusal.reason, refusal.code()), (reason, code), "{text}");
}

fn range(offset: u64, len: u32) -> ByteRange {
    ByteRange { offset, len }
}

#[test]
fn each_request_is_decoded() {
    let at = range(0x1000, 0x2000);
    for (flags, whole) in [("0000", false), ("0004", true), ("0005", true)] {
        accepts(
            &format!("25609513 {flags} 0000 0102030405060708 0000000000001000 00002000"),
            Command::Read { range: at, whole },
        );
    }
    for (flags, fua) in [("0000", false), ("0001", true)] {
        accepts(
            &format!("25609513 {flags} 0001 0102030405060708 0000000000001000 00002000"),
            Command::Write { range: at, fua },
        );
        accepts(
            &format!("25609513 {flags} 0004 0102030405060708 0000000000001000 00002000"),
            Command::Trim { range: at, fua },
        );
        accepts(
            &format!("25609513 {flags} 0003 0102030405060708 0000000000000000 00000000"),
            Command::Flush,
        );
    }
    accepts(
        "25609513 0000 0002 0102030405060708 0000000000000000 00000000",
        Command::Disconnect,
    );
    for (flags, fua, no_hole, fast) in [
        ("0000", false, false, false),
        ("0001", true, false, false),
        ("0002", false, true, false),
        ("0010", false, false, true),
        ("0013", true, true, true),
    ] {
        accepts(
            &format!("25609513 {flags} 0006 0102030405060708 0000000000001000 00002000"),
            Command::WriteZeroes {
                range: at,
                fua,
                no_hole,
                fast,
            },
        );
    }
    for (flags, one) in [("0000", false), ("0008", true)] {
        accepts(
            &format!("25609513 {flags} 0007 0102030405060708 0000000000001000 00002000"),
            Command::BlockStatus { range: at, one },
        );
    }
}

#[test]
fn the_whole_export_and_its_last_block_are_in_range() {
    accepts(
        "25609513 0000 0001 0102030405060708 0000000000000000 00100000",
        Command::Write {
            range: range(0, 1 << 20),
            fua: false,
        },
    );
    accepts(
        "25609513 0000 0001 0102030405060708 00000000000ffe00 00000200",
        Command::Write {
            range: range((1 << 20) - 512, 512),
            fua: false,
        },
    );
}

#[test]
fn only_writes_carry_data() {
    for kind in 0..8 {
        let text = format!("25609513 0000 {kind:04x} 0102030405060708 0000000000000000 00000200");
        let len = match decode(&text) {
            Ok(Decoded::Request(request)) => request.payload_len(),
            Ok(Decoded::Refused(refusal)) => refusal.payload_len,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(len, if kind == 1 { 512 } else { 0 }, "{kind}");
    }
}

#[test]
fn ranges_must_be_inside() {
    // Behind the end by a block, from far away, and with a sum that overflows.
    for at in [
        "00000000000ffe00 00000400",
        "0000000000100000 00000200",
        "fffffffffffffe00 00000200",
        "fffffffffffffe00 00000400",
    ] {
        for (kind, code) in [
            ("0000", ErrorCode::Invalid),
            ("0001", ErrorCode::NoSpace),
            ("0004", ErrorCode::Invalid),
            ("0006", ErrorCode::NoSpace),
            ("0007", ErrorCode::Invalid),
        ] {
            let text = format!("25609513 0000 {kind} 0102030405060708 {at}");
            refuses(STRUCTURED, &export(), &text, Reason::OutOfRange, code);
        }
    }
}

#[test]
fn ranges_must_be_in_whole_blocks_and_not_empty() {
    for kind in ["0000", "0001", "0004", "0006", "0007"] {
        for (at, reason) in [
            ("0000000000000001 00000200", Reason::Misaligned),
            ("0000000000000000 00000201", Reason::Misaligned),
            ("0000000000000100 00000100", Reason::Misaligned),
            ("0000000000000200 00000000", Reason::Empty),
        ] {
            let text = format!("25609513 0000 {kind} 0102030405060708 {at}");
            refuses(STRUCTURED, &export(), &text, reason, ErrorCode::Invalid);
        }
    }
}

#[test]
fn a_flush_has_no_range() {
    for at in ["0000000000000200 00000000", "0000000000000000 00000200"] {
        let text = format!("25609513 0000 0003 0102030405060708 {at}");
        refuses(
            STRUCTURED,
            &export(),
            &text,
            Reason::FlushWithRange,
            ErrorCode::Invalid,
        );
    }
}

#[test]
fn a_read_only_export_is_not_changed() {
    let export = with(Features {
        read_only: true,
        trim: true,
        write_zeroes: true,
        fast_zero: true,
    });
    for kind in ["0001", "0004", "0006"] {
        let text = format!("25609513 0000 {kind} 0102030405060708 0000000000000000 00000200");
        refuses(
            SIMPLE,
            &export,
            &text,
            Reason::ReadOnly,
            ErrorCode::NotPermitted,
        );
    }
    let read = "25609513 0000 0000 0102030405060708 0000000000000000 00000200";
    assert!(matches!(
        decode_by(SIMPLE, &export, read),
        Ok(Decoded::Request(_))
    ));
}

#[test]
fn flags_belong_to_commands() {
    for kind in [0, 1, 3, 4, 6, 7_u16] {
        let allowed: u16 = 1 | match kind {
            0 => 4,
            6 => 2 | 16,
            7 => 8,
            _ => 0,
        };
        for bit in (0..16).filter(|bit| allowed & 1 << bit == 0) {
            let len = if kind == 3 { 0 } else { 512 };
            let flags = 1_u16 << bit;
            let text = format!(
                "25609513 {flags:04x} {kind:04x} 0102030405060708 0000000000000000 {len:08x}"
            );
            refuses(
                STRUCTURED,
                &export(),
                &text,
                Reason::UnknownFlag,
                ErrorCode::Invalid,
            );
        }
    }
    let unfragmented = "25609513 0004 0000 0102030405060708 0000000000000000 00000200";
    refuses(
        SIMPLE,
        &export(),
        unfragmented,
        Reason::UnknownFlag,
        ErrorCode::Invalid,
    );
    let fast = "25609513 0010 0006 0102030405060708 0000000000000000 00000200";
    let slow = with(Features {
        write_zeroes: true,
        ..Features::default()
    });
    refuses(
        STRUCTURED,
        &slow,
        fast,
        Reason::UnknownFlag,
        ErrorCode::Invalid,
    );
}

#[test]
fn commands_that_were_not_offered_are_unknown() {
    // CACHE, RESIZE, one that means nothing.
    for kind in ["0005", "0008", "ffff"] {
        let text = format!("25609513 0000 {kind} 0102030405060708 0000000000000000 00000200");
        refuses(
            STRUCTURED,
            &export(),
            &text,
            Reason::UnknownCommand,
            ErrorCode::Invalid,
        );
    }
    for kind in ["0004", "0006"] {
        let text = format!("25609513 0000 {kind} 0102030405060708 0000000000000000 00000200");
        let plain = with(Features::default());
        refuses(
            STRUCTURED,
            &plain,
            &text,
            Reason::UnknownCommand,
            ErrorCode::Invalid,
        );
    }
    let status = "25609513 0000 0007 0102030405060708 0000000000000000 00000200";
    refuses(
        SIMPLE,
        &export(),
        status,
        Reason::NoContext,
        ErrorCode::Invalid,
    );
}

#[test]
fn data_has_a_limit() {
    let large = Export::new(
        String::new(),
        String::new(),
        1 << 40,
        export().sizes(),
        export().features(),
    )
    .unwrap();
    let text = |kind, len| format!("25609513 0000 {kind} 0102030405060708 0000000000000000 {len}");
    for kind in ["0000", "0001"] {
        let longest = decode_by(SIMPLE, &large, &text(kind, "02000000"));
        assert!(matches!(longest, Ok(Decoded::Request(_))), "{longest:?}");
    }
    refuses(
        STRUCTURED,
        &large,
        &text("0000", "02000200"),
        Reason::TooLong,
        ErrorCode::Overflow,
    );
    refuses(
        SIMPLE,
        &large,
        &text("0000", "02000200"),
        Reason::TooLong,
        ErrorCode::Invalid,
    );
    // Not even to be passed over.
    assert_eq!(
        decode_by(SIMPLE, &large, &text("0001", "02000001")),
        Err(RequestError::Payload(0x0200_0001))
    );
    // What carries no data has no such limit.
    for kind in ["0004", "0006", "0007"] {
        let decoded = decode_by(STRUCTURED, &large, &text(kind, "fffffe00"));
        assert!(matches!(decoded, Ok(Decoded::Request(_))), "{decoded:?}");
    }
}

#[test]
fn another_magic_ends_the_connection() {
    for magic in ["25609514", "12560953", "00000000", "67446698"] {
        let text = format!("{magic} 0000 0000 0102030405060708 0000000000000000 00000200");
        let number = u32::from_str_radix(magic, 16).unwrap();
        assert_eq!(decode(&text), Err(RequestError::Magic(number)));
    }
}
