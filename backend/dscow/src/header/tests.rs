use proptest::prelude::*;

use super::*;
use crate::layout::Headroom;

fn example() -> Header {
    Header {
        sequence: 7,
        compatible_features: 0,
        uuid: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        layout: Layout::for_new(1 << 30, BlockSize::MIN, Headroom::Exact).unwrap(),
        generation: 3,
        created: 1_156_809_600,
        state: State::Clean {
            bitmap_crc: 0xdead_beef,
        },
        parent: Some(Parent::Raw {
            path: PathBuf::from("/images/debian.img"),
            size: 1 << 30,
            fingerprint: [0xab; 32],
            modified: Some(Modified {
                seconds: -2,
                nanoseconds: 5,
            }),
        }),
        commit_under_way: false,
        parent_limit: Some(1 << 20),
    }
}

#[test]
fn the_bytes_are_where_the_format_says() {
    let bytes = example().encode();
    assert_eq!(&bytes[0..8], b"DSCOW\r\n\x1a");
    assert_eq!(&bytes[8..12], [2, 0, 0, 0]);
    assert_eq!(&bytes[16..24], [7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[24..48], [0; 24]);
    assert_eq!(bytes[48..52], [0x00, 0x11, 0x22, 0x33]);
    assert_eq!(&bytes[64..72], [0, 0, 0, 0x40, 0, 0, 0, 0]);
    assert_eq!(&bytes[72..76], [12, 0, 0, 0]);
    assert_eq!(&bytes[76..80], [0, 0, 0, 0]);
    assert_eq!(&bytes[80..88], [0, 0x20, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[88..96], [0, 0x80, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[96..104], [0, 0, 0x10, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[104..112], [3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[112..120], [0x80, 0x83, 0xf3, 0x44, 0, 0, 0, 0]);
    assert_eq!(&bytes[120..124], [0xef, 0xbe, 0xad, 0xde]);
    assert_eq!(&bytes[124..128], [1, 0, 0, 0]);
    assert_eq!(&bytes[144..152], [0, 0, 0, 0x40, 0, 0, 0, 0]);
    assert_eq!(&bytes[160..192], [0xab; 32]);
    assert_eq!(&bytes[192..200], [0xfe, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(&bytes[200..204], [5, 0, 0, 0]);
    assert_eq!(&bytes[204..208], [1, 0, 0, 0]);
    assert_eq!(&bytes[512..530], b"/images/debian.img");
    assert!(bytes[530..].iter().all(|b| *b == 0));
}

#[test]
fn a_commit_under_way_is_the_second_flag_of_the_parent() {
    let header = Header {
        commit_under_way: true,
        ..example()
    };
    assert_eq!(&header.encode()[204..208], [3, 0, 0, 0]);
}

#[test]
fn every_kind_of_header_survives_a_round_trip() {
    let parents = [
        None,
        example().parent,
        Some(Parent::Dscow {
            path: PathBuf::from("golden.cow"),
            size: 512,
            uuid: Uuid::from_u128(9),
            generation: COUNTER_MAX,
        }),
    ];
    for parent in parents {
        for state in [
            State::Clean { bitmap_crc: 0 },
            State::InUse {
                owner: Uuid::from_u128(4),
            },
        ] {
            // A commit can only be under way into a parent.
            for commit_under_way in [false, parent.is_some()] {
                let header = Header {
                    parent: parent.clone(),
                    state,
                    commit_under_way,
                    ..example()
                };
                assert_eq!(Header::decode(&header.encode()), Ok(header));
            }
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = example().encode();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_torn_write_of_one_slot_leaves_the_other() {
    let old = example().encode();
    let new = Header {
        sequence: 8,
        generation: 4,
        ..example()
    }
    .encode();
    for sectors in 0..8 {
        let mut torn = Box::new([0; 4096]);
        torn[..sectors * 512].copy_from_slice(&new[..sectors * 512]);
        // A slot whose tail is all zeros before and after is whole once its last non-zero sector is.
        let expected = if torn == new { Slot::B } else { Slot::A };
        assert_eq!(select(&old, &torn).unwrap().1, expected, "{sectors}");
    }
    assert_eq!(select(&old, &new).unwrap().1, Slot::B);
    assert_eq!(select(&new, &old).unwrap().1, Slot::A);
}

#[test]
fn unknown_features_and_versions_refuse() {
    let with = |at: usize, value: u8| {
        let mut bytes = example().encode();
        bytes[at] = value;
        reseal(&mut bytes);
        Header::decode(&bytes).unwrap_err()
    };
    assert_eq!(with(8, 3), HeaderError::Version(3));
    assert_eq!(with(24, 4), HeaderError::IncompatibleFeatures(4));
    assert_eq!(with(72, 22), HeaderError::BlockSize(22));
    assert_eq!(with(76, 9), HeaderError::State(9));
    assert_eq!(with(124, 3), HeaderError::ParentFormat(3));
    assert_eq!(with(224, 0), HeaderError::ParentPath(0));
    assert_eq!(with(227, 1), HeaderError::ParentPath((1 << 24) + 18));
    assert_eq!(with(513, 0), HeaderError::ParentPath(18));
    assert_eq!(with(0, b'X'), HeaderError::Magic);
    assert_eq!(with(23, 0x80), HeaderError::Counter((0x80 << 56) + 7));
    assert_eq!(with(111, 0x80), HeaderError::Counter((0x80 << 56) + 3));
}

#[test]
fn a_newer_slot_that_is_not_understood_is_not_passed_over() {
    let old = example().encode();
    for (at, value, cause) in [
        (24, 4, HeaderError::IncompatibleFeatures(4)),
        (8, 3, HeaderError::Version(3)),
    ] {
        let mut newer = Header {
            sequence: 8,
            ..example()
        }
        .encode();
        newer[at] = value;
        assert!(select(&old, &newer).is_ok(), "its checksum is wrong: torn");
        reseal(&mut newer);
        assert_eq!(
            select(&old, &newer),
            Err(NoHeader::Current {
                slot: Slot::B,
                cause
            })
        );
    }
}

#[test]
fn unknown_compatible_features_are_kept_and_autoclear_ones_dropped() {
    let mut bytes = example().encode();
    bytes[32] = 1;
    bytes[40] = 1;
    reseal(&mut bytes);
    let header = Header::decode(&bytes).unwrap();
    let written = header.encode();
    assert_eq!((written[32], written[40]), (1, 0));
}

fn reseal(bytes: &mut SlotBytes) {
    bytes[12..16].fill(0);
    let crc = crc32c::crc32c(&bytes[..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

proptest! {
    /// Any bytes at all, with the signature, version and checksum right so that the fields are reached.
    #[test]
    fn arbitrary_fields_never_panic(
        fields in proptest::collection::vec(any::<u8>(), 4096),
        small in proptest::collection::vec((0..300usize, 0..40u8), 0..40),
    ) {
        let mut bytes = Box::new([0; 4096]);
        bytes.copy_from_slice(&fields);
        for at in [24..48, 76..80, 124..128] {
            bytes[at].fill(0);
        }
        for (at, value) in small {
            bytes[at] = value;
        }
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&2u32.to_le_bytes());
        reseal(&mut bytes);
        if let Ok(header) = Header::decode(&bytes) {
            prop_assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
    }
}

/// The example at the end of docs/image-format.md: a new image of 1 MiB, without a parent and without headroom.
fn documented(sequence: u64) -> Header {
    Header {
        sequence,
        compatible_features: 0,
        uuid: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
        layout: Layout::for_new(1 << 20, BlockSize::MIN, Headroom::Exact).unwrap(),
        generation: 0,
        created: 1_156_809_600,
        state: State::Clean {
            bitmap_crc: crc32c::crc32c(&[0; 32]),
        },
        parent: None,
        parent_limit: None,
        commit_under_way: false,
    }
}

#[test]
fn the_example_in_the_document_is_true() {
    let document = include_str!("../../../../docs/image-format.md");
    let bytes = documented(2).encode();
    let lines = bytes[..128].chunks(16).enumerate().map(|(i, line)| {
        let line: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}", 16 * i, line.join(" "))
    });
    let dump = lines.collect::<Vec<_>>().join("\n");
    assert!(document.contains(&dump), "{dump}");
    assert!(bytes[128..].iter().all(|byte| *byte == 0));
    let checksum = |sequence| {
        let bytes = documented(sequence).encode();
        u32::from_le_bytes(*bytes[12..16].first_chunk().unwrap())
    };
    let text = format!("with sequence 1 and checksum 0x{:08x}", checksum(1));
    assert!(document.contains(&text), "{text}");
    let text = format!("whose CRC32C is 0x{:08x}", crc32c::crc32c(&[0; 32]));
    assert!(document.contains(&text), "{text}");
    let mut digest = crate::fingerprint::Fingerprinter::new(1 << 20);
    let content: Vec<u8> = (0..1_u32 << 20).map(|i| i.to_le_bytes()[1]).collect();
    for sample in crate::fingerprint::samples(1 << 20) {
        let start = usize::try_from(sample.offset.0).unwrap();
        digest.update(&content[start..][..usize::try_from(sample.len).unwrap()]);
    }
    let fingerprint: String = digest
        .finish()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert!(document.contains(&fingerprint), "{fingerprint}");
}
