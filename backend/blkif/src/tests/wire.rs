//! The bytes in the shared page, as literals.

use crate::frontend::FrontRing;
use crate::{
    Abi, BackRing, LocalMemory, RawRequest, RawSegment, RawSlot, Response, SLOT_BYTES, Status,
    UnknownProtocol,
};

/// Lays `bytes` into the memory from `offset` on, as the guest's processor would.
fn lay(memory: &LocalMemory, offset: usize, bytes: &[u8]) {
    for (word, chunk) in bytes.chunks_exact(4).enumerate() {
        let value = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        memory.poke(offset + 4 * word, value);
    }
}

/// The `words` 32-bit words from `offset` on, as bytes.
fn bytes_at(memory: &LocalMemory, offset: usize, words: usize) -> Vec<u8> {
    (0..words)
        .flat_map(|word| memory.peek(offset + 4 * word).to_le_bytes())
        .collect()
}

/// A write of two segments as a 64-bit guest lays it out.
const WRITE_X86_64: [u8; 40] = [
    0x01, 0x02, 0x00, 0xca, // operation, nr_segments, handle
    0xee, 0xee, 0xee, 0xee, // padding, with garbage in it
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x81, // id
    0x00, 0x10, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, // sector_number
    0x09, 0x00, 0x00, 0x80, 0x00, 0x07, 0x00, 0x00, // seg[0]
    0x0a, 0x00, 0x00, 0x00, 0x03, 0x05, 0x00, 0x00, // seg[1]
];

/// The same as a 32-bit x86 guest lays it out.
const WRITE_X86_32: [u8; 36] = [
    0x01, 0x02, 0x00, 0xca, // operation, nr_segments, handle
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x81, // id
    0x00, 0x10, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, // sector_number
    0x09, 0x00, 0x00, 0x80, 0x00, 0x07, 0x00, 0x00, // seg[0]
    0x0a, 0x00, 0x00, 0x00, 0x03, 0x05, 0x00, 0x00, // seg[1]
];

fn the_write() -> RawRequest {
    let mut segments = [RawSegment::default(); 11];
    segments[0] = RawSegment {
        gref: 0x8000_0009,
        first_sect: 0,
        last_sect: 7,
    };
    segments[1] = RawSegment {
        gref: 10,
        first_sect: 3,
        last_sect: 5,
    };
    RawRequest::Transfer {
        operation: 1,
        id: 0x8102_0304_0506_0708,
        sector: 0x1_0000_1000,
        nr_segments: 2,
        segments,
    }
}

const DISCARD_X86_64: [u8; 32] = [
    0x05, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // operation, flag, handle, padding
    0x11, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // id
    0x22, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // sector_number
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, // nr_sectors
];

const DISCARD_X86_32: [u8; 28] = [
    0x05, 0x01, 0x00, 0x00, // operation, flag, handle
    0x11, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // id
    0x22, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // sector_number
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff, // nr_sectors
];

const THE_DISCARD: RawRequest = RawRequest::Discard {
    id: 0x11,
    flag: 1,
    sector: 0x22,
    nr_sectors: 0xff00_0000_0000_0000,
};

const INDIRECT_X86_64: [u8; 60] = [
    0x06, 0x01, 0x01, 0x02, // operation, indirect_op, nr_segments = 0x0201
    0x00, 0x00, 0x00, 0x00, // padding
    0x33, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // id
    0x44, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // sector_number
    0x00, 0xca, 0x00, 0x00, // handle, padding
    0x01, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00,
    0x05, 0x00, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00,
];

const INDIRECT_X86_32: [u8; 56] = [
    0x06, 0x01, 0x01, 0x02, // operation, indirect_op, nr_segments = 0x0201
    0x33, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // id
    0x44, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // sector_number
    0x00, 0xca, 0x00, 0x00, // handle, padding
    0x01, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00,
    0x05, 0x00, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00,
];

const THE_INDIRECT: RawRequest = RawRequest::Indirect {
    indirect_op: 1,
    id: 0x33,
    sector: 0x44,
    nr_segments: 0x0201,
    pages: [1, 2, 3, 4, 5, 6, 7, 8],
};

/// A request with the code that blkif.h reserves.
const RESERVED_X86_64: [u8; 16] = [
    0x04, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x55, 0, 0, 0, 0, 0, 0, 0,
];
const RESERVED_X86_32: [u8; 12] = [0x04, 0xff, 0xff, 0xff, 0x55, 0, 0, 0, 0, 0, 0, 0];
const THE_RESERVED: RawRequest = RawRequest::Unknown {
    operation: 4,
    id: 0x55,
};

/// Lays requests into a page from its third slot on, and takes them with a backend ring.
fn take_from(abi: Abi, slot_bytes: usize, slots: &[&[u8]]) -> Vec<RawRequest> {
    let memory = LocalMemory::new(1);
    memory.poke(0, 2 + u32::try_from(slots.len()).expect("few slots")); // req_prod
    memory.poke(8, 2); // rsp_prod
    for (index, bytes) in slots.iter().enumerate() {
        lay(&memory, 64 + (2 + index) * slot_bytes, bytes);
    }
    let mut ring = BackRing::attach(memory, abi).expect("attach");
    std::iter::from_fn(|| ring.take().expect("honest indices"))
        .map(|slot| RawRequest::decode(&slot))
        .collect()
}

#[test]
fn requests_of_64_bit_guests() {
    let slots: [&[u8]; 4] = [
        &WRITE_X86_64,
        &DISCARD_X86_64,
        &INDIRECT_X86_64,
        &RESERVED_X86_64,
    ];
    let expected = [the_write(), THE_DISCARD, THE_INDIRECT, THE_RESERVED];
    assert_eq!(take_from(Abi::X86_64, 112, &slots), expected);
    assert_eq!(take_from(Abi::Arm, 112, &slots), expected);
}

#[test]
fn requests_of_32_bit_x86_guests() {
    let slots: [&[u8]; 4] = [
        &WRITE_X86_32,
        &DISCARD_X86_32,
        &INDIRECT_X86_32,
        &RESERVED_X86_32,
    ];
    assert_eq!(
        take_from(Abi::X86_32, 108, &slots),
        [the_write(), THE_DISCARD, THE_INDIRECT, THE_RESERVED]
    );
}

#[test]
fn the_eleventh_segment_is_at_the_end_of_the_slot() {
    for (abi, slot_bytes) in [(Abi::X86_64, 112), (Abi::X86_32, 108)] {
        let memory = LocalMemory::new(1);
        memory.poke(0, 1);
        lay(&memory, 64, &[0, 11, 0, 0]);
        lay(&memory, 64 + slot_bytes - 8, &[7, 0, 0, 0, 1, 2, 0, 0]);
        let mut ring = BackRing::attach(memory, abi).expect("attach");
        let slot = ring.take().expect("honest indices").expect("a request");
        let RawRequest::Transfer { segments, .. } = RawRequest::decode(&slot) else {
            panic!("not a transfer: {slot:?}");
        };
        let expected = RawSegment {
            gref: 7,
            first_sect: 1,
            last_sect: 2,
        };
        assert_eq!(segments[10], expected, "{abi:?}");
    }
}

#[test]
fn frontend_lays_out_the_same_bytes() {
    let mut write_x86_64 = WRITE_X86_64;
    write_x86_64[2..8].fill(0); // handle and padding are not written by the simulated frontend
    let mut write_x86_32 = WRITE_X86_32;
    write_x86_32[2..4].fill(0);
    for (abi, bytes) in [
        (Abi::X86_64, &write_x86_64[..]),
        (Abi::Arm, &write_x86_64),
        (Abi::X86_32, &write_x86_32),
    ] {
        let memory = LocalMemory::new(1);
        let mut front = FrontRing::create(memory.clone(), abi).expect("create");
        front.push(&the_write().encode()).expect("room");
        assert_eq!(bytes_at(&memory, 64, bytes.len() / 4), bytes, "{abi:?}");
    }
}

#[test]
fn responses_have_one_layout() {
    for (abi, slot_bytes) in [(Abi::X86_64, 112), (Abi::Arm, 112), (Abi::X86_32, 108)] {
        let memory = LocalMemory::new(1);
        memory.poke(0, 2);
        let mut ring = BackRing::attach(memory.clone(), abi).expect("attach");
        for (id, status) in [
            (0x1122_3344_5566_7788, Status::NotSupported),
            (9, Status::Okay),
        ] {
            ring.take().expect("honest indices").expect("a request");
            let response = Response {
                id,
                operation: 3,
                status,
            };
            ring.push_response(response).expect("a request waits");
        }
        assert_eq!(
            bytes_at(&memory, 64, 3),
            [
                0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 3, 0, 0xfe, 0xff
            ],
            "{abi:?}"
        );
        assert_eq!(
            bytes_at(&memory, 64 + slot_bytes, 3),
            [9, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0],
            "{abi:?}"
        );
    }
}

#[test]
fn encoding_and_decoding_agree() {
    for request in [the_write(), THE_DISCARD, THE_INDIRECT, THE_RESERVED] {
        assert_eq!(RawRequest::decode(&request.encode()), request);
    }
}

#[test]
fn a_slot_survives_being_kept_as_bytes() {
    let kept: [u8; SLOT_BYTES] = the_write().encode().0;
    assert_eq!(RawRequest::decode(&RawSlot(kept)), the_write());
}

#[test]
fn indirect_descriptors() {
    let page = [
        0x01, 0x00, 0x00, 0x00, 0x02, 0x07, 0xff, 0xff, // the padding means nothing
        0xff, 0xff, 0xff, 0xff, 0x09, 0x08, 0x00, 0x00, // not validated yet
        0x03, 0x00, 0x00, // not a whole descriptor
    ];
    let segments: Vec<_> = RawSegment::decode_page(&page).collect();
    let expected = [(1, 2, 7), (u32::MAX, 9, 8)].map(|(gref, first_sect, last_sect)| RawSegment {
        gref,
        first_sect,
        last_sect,
    });
    assert_eq!(segments, expected);
    assert_eq!(RawSegment::decode_page(&[0; 4096]).count(), 512);
}

#[test]
fn sizes_of_rings() {
    // As __RING_SIZE computes them for the slots of 112 and of 108 bytes.
    for (pages, slots) in [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)] {
        assert_eq!(Abi::X86_64.slots(pages * 4096), slots);
        assert_eq!(Abi::X86_32.slots(pages * 4096), slots);
    }
    assert_eq!(Abi::X86_64.slots(64), 0);
    assert_eq!(Abi::X86_64.slots(64 + 3 * 112), 2);
}

#[test]
fn protocol_names() {
    for abi in [Abi::X86_32, Abi::X86_64, Abi::Arm] {
        assert_eq!(Abi::from_protocol(Some(abi.protocol())), Ok(abi));
    }
    assert_eq!(Abi::from_protocol(Some("x86_64-abi")), Ok(Abi::X86_64));
    assert_eq!(
        Abi::from_protocol(Some("x86_64-abi ")),
        Err(UnknownProtocol("x86_64-abi ".to_owned()))
    );
    let default = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
        Abi::X86_32
    } else {
        Abi::Arm
    };
    assert_eq!(Abi::from_protocol(None), Ok(default));
}
