//! The negotiation, byte for byte.

use super::*;

/// Client's flags: fixed newstyle and no zeroes.
const FLAGS: &str = "00000003";

/// A negotiation past the client's flags.
fn begun(flags: &str) -> Negotiation {
    let mut negotiation = Negotiation::new();
    let mut replies = Vec::new();
    let advance = negotiation.advance(&export(), &bytes(flags), &mut replies);
    assert_eq!(
        advance,
        Ok(Advance {
            consumed: 4,
            outcome: Outcome::Continue
        })
    );
    assert!(replies.is_empty());
    negotiation
}

/// Shows the bytes, all of which must be consumed, and returns what was answered.
fn say(negotiation: &mut Negotiation, text: &str) -> (Vec<u8>, Outcome) {
    let input = bytes(text);
    let mut replies = Vec::new();
    let advance = negotiation
        .advance(&export(), &input, &mut replies)
        .unwrap();
    assert_eq!(advance.consumed, input.len());
    (replies, advance.outcome)
}

#[track_caller]
fn answers(negotiation: &mut Negotiation, option: &str, expected: &str) {
    let (replies, outcome) = say(negotiation, option);
    assert_eq!(outcome, Outcome::Continue);
    assert_eq!(
        replies,
        bytes(expected),
        "{}",
        String::from_utf8_lossy(&replies)
    );
}

const STRUCTURED_REPLY: &str = "'IHAVEOPT' 00000008 00000000";

#[test]
fn the_server_greets() {
    assert_eq!(
        Negotiation::greeting()[..],
        bytes("'NBDMAGIC' 'IHAVEOPT' 0003")
    );
}

#[test]
fn unknown_flags_of_the_client_end_the_connection() {
    for flags in [4, 0x8000_0000, 0xffff_ffff_u32] {
        let result = Negotiation::new().advance(&export(), &flags.to_be_bytes(), &mut Vec::new());
        assert_eq!(result, Err(NegotiationError::ClientFlags(flags)));
    }
}

#[test]
fn transmission_begins_by_name_without_zeroes() {
    let (replies, outcome) = say(&mut begun(FLAGS), "'IHAVEOPT' 00000001 00000004 'disk'");
    assert_eq!(outcome, Outcome::Transmission(SIMPLE));
    // 1 MiB; flags, flush, FUA, trim, write zeroes, several connections, fast zero.
    assert_eq!(replies, bytes("0000000000100000 096d"));
}

#[test]
fn transmission_begins_by_the_empty_name_with_zeroes() {
    let (replies, outcome) = say(&mut begun("00000001"), "'IHAVEOPT' 00000001 00000000");
    assert_eq!(outcome, Outcome::Transmission(SIMPLE));
    let mut expected = bytes("0000000000100000 096d");
    expected.extend([0; 124]);
    assert_eq!(replies, expected);
}

#[test]
fn an_unknown_export_asked_for_by_name_ends_the_connection() {
    let input = bytes("'IHAVEOPT' 00000001 00000004 'disc'");
    let mut replies = Vec::new();
    let result = begun(FLAGS).advance(&export(), &input, &mut replies);
    assert_eq!(result, Err(NegotiationError::NoSuchExport));
    assert!(replies.is_empty());
}

#[test]
fn go_tells_what_was_asked_for_and_begins_transmission() {
    let mut negotiation = begun(FLAGS);
    answers(
        &mut negotiation,
        STRUCTURED_REPLY,
        "0003e889045565a9 00000008 00000001 00000000",
    );
    let (replies, outcome) = say(
        &mut negotiation,
        // Name, description and block size, the last one twice, and something unknown.
        "'IHAVEOPT' 00000007 00000014 00000004 'disk' 0005 0001 0002 0003 0003 7777",
    );
    let session = Session {
        contexts: Contexts::EMPTY,
        ..STRUCTURED
    };
    assert_eq!(outcome, Outcome::Transmission(session));
    assert_eq!(
        replies,
        bytes(
            "0003e889045565a9 00000007 00000003 0000000c 0000 0000000000100000 09ed
             0003e889045565a9 00000007 00000003 0000000e 0003 00000200 00001000 02000000
             0003e889045565a9 00000007 00000003 00000006 0001 'disk'
             0003e889045565a9 00000007 00000003 00000008 0002 'a disk'
             0003e889045565a9 00000007 00000001 00000000"
        )
    );
}

#[test]
fn info_tells_and_stays_in_negotiation() {
    answers(
        &mut begun(FLAGS),
        "'IHAVEOPT' 00000006 00000006 00000000 0000",
        "0003e889045565a9 00000006 00000003 0000000c 0000 0000000000100000 096d
         0003e889045565a9 00000006 00000001 00000000",
    );
}

#[test]
fn an_unknown_export_is_an_error_reply() {
    for option in ["00000006", "00000007"] {
        answers(
            &mut begun(FLAGS),
            &format!("'IHAVEOPT' {option} 00000007 00000001 'x' 0000"),
            &format!(
                "0003e889045565a9 {option} 80000006 0000001f 'there is no export of that name'"
            ),
        );
    }
}

#[test]
fn exports_are_listed() {
    answers(
        &mut begun(FLAGS),
        "'IHAVEOPT' 00000003 00000000",
        "0003e889045565a9 00000003 00000002 0000000e 00000004 'disk' 'a disk'
         0003e889045565a9 00000003 00000001 00000000",
    );
}

#[test]
fn abort_is_acknowledged_whatever_it_carries() {
    for data in ["00000000", "00000002 0000"] {
        let (replies, outcome) = say(&mut begun(FLAGS), &format!("'IHAVEOPT' 00000002 {data}"));
        assert_eq!(outcome, Outcome::Aborted);
        assert_eq!(
            replies,
            bytes("0003e889045565a9 00000002 00000001 00000000")
        );
    }
}

#[test]
fn what_is_not_supported_is_said_to_be() {
    // PEEK_EXPORT, STARTTLS, EXTENDED_HEADERS, and a number that means nothing, with data.
    for option in [
        "00000004 00000000",
        "00000005 00000000",
        "0000000b 00000000",
        "ffffffff 00000001 00",
    ] {
        let number = &option[..8];
        answers(
            &mut begun(FLAGS),
            &format!("'IHAVEOPT' {option}"),
            &format!("0003e889045565a9 {number} 80000001 0000001b 'the option is not supported'"),
        );
    }
}

#[test]
fn options_without_data_are_refused_with_data() {
    for option in ["00000003", "00000005", "00000008"] {
        answers(
            &mut begun(FLAGS),
            &format!("'IHAVEOPT' {option} 00000001 00"),
            &format!("0003e889045565a9 {option} 80000003 00000017 'this option has no data'"),
        );
    }
}

#[test]
fn malformed_data_is_refused() {
    for data in [
        // Too short for anything; a name longer than the data; a count larger than the list; bytes left over.
        "00000002 0000",
        "00000006 00000100 0000",
        "00000006 00000000 0001",
        "00000007 00000000 0000 00",
        "00000006 ffffffff 0000",
    ] {
        answers(
            &mut begun(FLAGS),
            &format!("'IHAVEOPT' 00000007 {data}"),
            "0003e889045565a9 00000007 80000003 0000001e 'the option' 27 's data is malformed'",
        );
    }
}

#[test]
fn contexts_need_structured_replies_first() {
    for option in ["00000009", "0000000a"] {
        answers(
            &mut begun(FLAGS),
            &format!("'IHAVEOPT' {option} 00000008 00000000 00000000"),
            &format!(
                "0003e889045565a9 {option} 80000003 0000002b 'structured replies must be negotiated first'"
            ),
        );
    }
}

fn structured() -> Negotiation {
    let mut negotiation = begun(FLAGS);
    let _ = say(&mut negotiation, STRUCTURED_REPLY);
    negotiation
}

#[test]
fn contexts_are_listed_without_numbers() {
    let allocation = "0003e889045565a9 00000009 00000004 00000013 00000000 'base:allocation'";
    let depth = "0003e889045565a9 00000009 00000004 00000019 00000000 'qemu:allocation-depth'";
    let ack = "0003e889045565a9 00000009 00000001 00000000";
    let both = format!("{allocation} {depth} {ack}");
    let mut negotiation = structured();
    for (query, expected) in [
        ("0000000c 00000004 'disk' 00000000", both.clone()),
        (
            "00000011 00000000 00000001 00000005 'base:'",
            format!("{allocation} {ack}"),
        ),
        (
            "00000011 00000000 00000001 00000005 'qemu:'",
            format!("{depth} {ack}"),
        ),
        (
            "0000001a 00000000 00000002 00000005 'qemu:' 00000005 'base:'",
            both,
        ),
        ("00000011 00000000 00000001 00000005 'othe:'", ack.into()),
        ("00000010 00000000 00000001 00000004 'base'", ack.into()),
        ("0000000c 00000000 00000001 00000000", ack.into()),
    ] {
        answers(
            &mut negotiation,
            &format!("'IHAVEOPT' 00000009 {query}"),
            &expected,
        );
    }
}

const SET_BOTH: &str = "'IHAVEOPT' 0000000a 00000034 00000000 00000002
    0000000f 'base:allocation' 00000015 'qemu:allocation-depth'";

#[test]
fn contexts_are_set_with_numbers_and_end_up_in_the_session() {
    let mut negotiation = structured();
    answers(
        &mut negotiation,
        SET_BOTH,
        "0003e889045565a9 0000000a 00000004 00000013 00000001 'base:allocation'
         0003e889045565a9 0000000a 00000004 00000019 00000002 'qemu:allocation-depth'
         0003e889045565a9 0000000a 00000001 00000000",
    );
    let (_, outcome) = say(&mut negotiation, "'IHAVEOPT' 00000001 00000000");
    let Outcome::Transmission(session) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(session.contexts().iter().collect::<Vec<_>>(), Context::ALL);
}

#[test]
fn setting_contexts_replaces_those_before_also_when_it_fails() {
    for second in [
        // None; a wildcard, which selects nothing; one that is unknown; another export; malformed.
        "00000008 00000000 00000000",
        "00000011 00000000 00000001 00000005 'base:'",
        "00000014 00000000 00000001 00000008 'base:xyz'",
        "0000000c 00000004 'disc' 00000000",
        "00000008 00000000 00000001",
    ] {
        let mut negotiation = structured();
        let _ = say(&mut negotiation, SET_BOTH);
        let _ = say(&mut negotiation, &format!("'IHAVEOPT' 0000000a {second}"));
        let (_, outcome) = say(&mut negotiation, "'IHAVEOPT' 00000001 00000000");
        let Outcome::Transmission(session) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(session.contexts().is_empty(), "{second}");
    }
}

#[test]
fn a_count_of_queries_costs_nothing() {
    answers(
        &mut structured(),
        "'IHAVEOPT' 0000000a 0000000c 00000000 ffffffff 00000000",
        "0003e889045565a9 0000000a 80000003 0000001e 'the option' 27 's data is malformed'",
    );
}

#[test]
fn an_option_that_is_too_long_is_passed_over() {
    let mut negotiation = begun(FLAGS);
    let (replies, outcome) = say(&mut negotiation, "'IHAVEOPT' 0000000a 00100000");
    assert_eq!(outcome, Outcome::Continue);
    assert_eq!(
        replies,
        bytes("0003e889045565a9 0000000a 80000009 00000016 'the option is too long'")
    );
    let mut left = 1 << 20;
    while left > 0 {
        let now = left.min(50_000);
        let advance = negotiation
            .advance(&export(), &vec![0xff; now], &mut Vec::new())
            .unwrap();
        assert_eq!(advance.consumed, now);
        left -= now;
        let wanted = if left == 0 {
            Outcome::Continue
        } else {
            Outcome::NeedMore
        };
        assert_eq!(advance.outcome, wanted);
    }
    answers(
        &mut negotiation,
        STRUCTURED_REPLY,
        "0003e889045565a9 00000008 00000001 00000000",
    );
}

#[test]
fn an_option_that_is_longer_still_ends_the_connection() {
    let input = bytes("'IHAVEOPT' 0000000a 00100001");
    assert_eq!(
        begun(FLAGS).advance(&export(), &input, &mut Vec::new()),
        Err(NegotiationError::OptionLength {
            option: 10,
            len: 0x10_0001
        })
    );
}

#[test]
fn an_option_with_another_magic_ends_the_connection() {
    // Already its first eight bytes do.
    let result = begun(FLAGS).advance(&export(), &bytes("'IHAVEOPS'"), &mut Vec::new());
    assert_eq!(result, Err(NegotiationError::Magic(0x4948_4156_454f_5053)));
}

#[test]
fn nobody_may_ask_without_end() {
    let mut negotiation = begun(FLAGS);
    for _ in 0..OPTIONS_MAX {
        let _ = say(&mut negotiation, STRUCTURED_REPLY);
    }
    let result = negotiation.advance(&export(), &bytes(STRUCTURED_REPLY), &mut Vec::new());
    assert_eq!(result, Err(NegotiationError::TooManyOptions));
}

#[test]
fn bytes_may_come_one_by_one() {
    let stream = bytes(&format!(
        "{FLAGS} {STRUCTURED_REPLY} {SET_BOTH} 'IHAVEOPT' 00000007 0000000a 00000004 'disk' 0000"
    ));
    let mut negotiation = Negotiation::new();
    let (mut start, mut replies) = (0, Vec::new());
    for end in 1..=stream.len() {
        loop {
            let advance = negotiation
                .advance(&export(), &stream[start..end], &mut replies)
                .unwrap();
            start += advance.consumed;
            match advance.outcome {
                Outcome::Continue => {}
                Outcome::NeedMore => break,
                outcome => {
                    assert_eq!((start, end), (stream.len(), stream.len()));
                    assert!(matches!(outcome, Outcome::Transmission(_)));
                    return;
                }
            }
        }
    }
    panic!("transmission was never reached");
}

#[test]
fn a_read_only_export_offers_no_changes() {
    let export = with(Features {
        read_only: true,
        trim: true,
        write_zeroes: true,
        fast_zero: true,
    });
    // Flags, read-only, flush, FUA, several connections; with structured replies also DF.
    assert_eq!(SIMPLE.flags(&export), 0x010f);
    assert_eq!(STRUCTURED.flags(&export), 0x018f);
    assert_eq!(SIMPLE.flags(&with(Features::default())), 0x010d);
}
