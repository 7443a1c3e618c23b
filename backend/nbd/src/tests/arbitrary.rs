//! Whatever a client sends, there is an answer or a typed error, in bounds.

use proptest::prelude::*;

use super::*;

/// Feeds a negotiation as a server does; gives where it ended.
fn negotiate(stream: &[u8], steps: &mut impl Iterator<Item = usize>) {
    let export = export();
    let mut negotiation = Negotiation::new();
    let (mut start, mut end) = (0, 0);
    loop {
        let mut replies = Vec::new();
        let before = start;
        match negotiation.advance(&export, &stream[start..end], &mut replies) {
            Err(_) => {
                assert!(replies.is_empty());
                return;
            }
            Ok(Advance { consumed, outcome }) => {
                assert!(consumed <= end - start);
                assert!(replies.len() < OPTION_BYTES_MAX);
                start += consumed;
                match outcome {
                    Outcome::Continue => assert!(start > before),
                    Outcome::NeedMore => {
                        // It never needs more at once than it says.
                        assert!(end - start < OPTION_BYTES_MAX);
                        if end == stream.len() {
                            return;
                        }
                        let step = steps.next().unwrap_or(1);
                        end = stream.len().min(end + step);
                    }
                    Outcome::Transmission(_) | Outcome::Aborted => return,
                }
            }
        }
    }
}

/// An option with any number, mostly a known one, and any data that claims to have its length, mostly truly.
fn option() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![8 => 0..12_u32, 1 => any::<u32>()];
    let data = prop_oneof![
        proptest::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u8>()], 0..40),
        Just(bytes("00000004 'disk' 0002 0003 0001")),
        Just(bytes("00000000 00000001 0000000f 'base:allocation'")),
        Just(vec![0; 20_000]),
    ];
    let lie = prop_oneof![8 => Just(0), 1 => any::<u32>()];
    (number, data, lie).prop_map(|(number, data, lie)| {
        let len = u32::try_from(data.len()).unwrap() ^ lie;
        let mut option = bytes("'IHAVEOPT'");
        option.extend(number.to_be_bytes());
        option.extend(len.to_be_bytes());
        option.extend(data);
        option
    })
}

proptest! {
    #[test]
    fn negotiation_takes_any_bytes(
        stream in proptest::collection::vec(any::<u8>(), 0..200),
        steps in proptest::collection::vec(1..50_usize, 1..20),
    ) {
        negotiate(&stream, &mut steps.into_iter().cycle());
    }

    #[test]
    fn negotiation_takes_any_options(
        options in proptest::collection::vec(option(), 0..20),
        steps in proptest::collection::vec(1..5000_usize, 1..20),
    ) {
        let mut stream = bytes("00000003");
        stream.extend(options.concat());
        negotiate(&stream, &mut steps.into_iter().cycle());
    }

    /// What is accepted satisfies everything that a server relies upon.
    #[test]
    fn what_is_decoded_is_in_bounds(
        flags in prop_oneof![Just(0), 0..32_u16, any::<u16>()],
        kind in prop_oneof![0..9_u16, any::<u16>()],
        cookie: u64,
        offset in prop_oneof![(0..2050_u64).prop_map(|block| block * 512), any::<u64>()],
        len in prop_oneof![(0..2050_u32).prop_map(|block| block * 512), any::<u32>()],
        structured: bool,
        read_only: bool,
    ) {
        let mut header = bytes("25609513");
        header.extend(flags.to_be_bytes());
        header.extend(kind.to_be_bytes());
        header.extend(cookie.to_be_bytes());
        header.extend(offset.to_be_bytes());
        header.extend(len.to_be_bytes());
        let session = if structured { STRUCTURED } else { SIMPLE };
        let export = with(Features { read_only, ..export().features() });
        let Ok(decoded) = session.decode(&export, &header.try_into().unwrap()) else {
            prop_assert!(kind == 1 && len > PAYLOAD_BYTES_MAX);
            return Ok(());
        };
        let request = match decoded {
            Decoded::Request(request) => request,
            Decoded::Refused(refusal) => {
                prop_assert_eq!(refusal.payload_len, if kind == 1 { len } else { 0 });
                return Ok(());
            }
        };
        let range = match request.command {
            Command::Disconnect | Command::Flush => return Ok(()),
            Command::Read { range, whole } => {
                prop_assert!(structured || !whole);
                range
            }
            Command::BlockStatus { range, .. } => {
                prop_assert!(structured);
                range
            }
            Command::Write { range, .. }
            | Command::Trim { range, .. }
            | Command::WriteZeroes { range, .. } => {
                prop_assert!(!read_only);
                range
            }
        };
        prop_assert_eq!((range.offset, range.len), (offset, len));
        prop_assert!(offset + u64::from(len) <= 1 << 20 && len > 0);
        prop_assert!(offset % 512 == 0 && len % 512 == 0);
    }

    #[test]
    fn a_header_of_any_bytes_is_a_value_or_an_error(header: [u8; HEADER_BYTES]) {
        let _ = STRUCTURED.decode(&export(), &header);
    }
}
