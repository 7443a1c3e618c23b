//! Which requests pass, and what the others are answered.

use proptest::prelude::*;

use crate::{
    Discard, Features, GrantRef, Limits, LimitsError, Operation, RawRequest, RawSegment, RawSlot,
    Reason, Request, Sector, SectorSize, Status, TransferDirection,
};

const READ: u8 = 0;
const WRITE: u8 = 1;
const BARRIER: u8 = 2;
const FLUSH: u8 = 3;

const ALL_FEATURES: Features = Features {
    flush: true,
    barrier: true,
    discard: Discard::Secure,
    indirect_segments_max: 256,
};

/// A writable disk of 1000 sectors with everything on offer.
fn disk() -> Limits {
    limits(512, false, ALL_FEATURES)
}

fn limits(sector_size: u32, read_only: bool, features: Features) -> Limits {
    let size = SectorSize::from_bytes(sector_size).expect("a sector size");
    Limits::new(Sector(1000), size, read_only, features).expect("possible limits")
}

/// A transfer with the segments `(first, last)`, whose grants are 100, 101, ...
fn transfer(operation: u8, sector: u64, sectors: &[(u8, u8)]) -> RawRequest {
    let mut segments = [RawSegment::default(); 11];
    for ((gref, segment), &(first_sect, last_sect)) in (100..).zip(&mut segments).zip(sectors) {
        *segment = RawSegment {
            gref,
            first_sect,
            last_sect,
        };
    }
    RawRequest::Transfer {
        operation,
        id: 77,
        sector,
        nr_segments: u8::try_from(sectors.len()).expect("few"),
        segments,
    }
}

fn discard(sector: u64, nr_sectors: u64, flag: u8) -> RawRequest {
    RawRequest::Discard {
        id: 77,
        flag,
        sector,
        nr_sectors,
    }
}

fn indirect(indirect_op: u8, nr_segments: u16) -> RawRequest {
    RawRequest::Indirect {
        indirect_op,
        id: 77,
        sector: 8,
        nr_segments,
        pages: [1, 2, 3, 4, 5, 6, 7, 8],
    }
}

#[track_caller]
fn accept(raw: &RawRequest, limits: &Limits) -> Operation {
    let request = raw.validate(limits).expect("a request to be accepted");
    assert_eq!(request.id, 77);
    request.operation
}

/// Asserts that the request is rejected for `reason`, and answered with that code and status.
#[track_caller]
fn reject(raw: &RawRequest, limits: &Limits, reason: Reason, operation: u8, status: i16) {
    let rejection = raw.validate(limits).expect_err("a request to be rejected");
    assert_eq!(rejection.reason, reason);
    let response = rejection.response();
    assert_eq!(
        (response.id, response.operation, response.status.code()),
        (77, operation, status)
    );
}

#[test]
fn a_read_becomes_typed() {
    let raw = transfer(READ, 16, &[(0, 7), (3, 5)]);
    let request = raw.validate(&disk()).expect("a good read");
    assert_eq!(request.response(Status::Okay).operation, 0);
    let Operation::Read { start, segments } = &request.operation else {
        panic!("not a read: {request:?}");
    };
    assert_eq!((start.0, start.byte_offset()), (16, 8192));
    assert!(!segments.spilled(), "a direct request must not allocate");
    let parts: Vec<_> = segments
        .iter()
        .map(|s| (s.gref(), s.byte_offset(), s.byte_len(), s.sector_count()))
        .collect();
    assert_eq!(
        parts,
        [(GrantRef(100), 0, 4096, 8), (GrantRef(101), 1536, 1536, 3)]
    );
}

#[test]
fn eleven_segments_do_not_allocate() {
    let operation = accept(&transfer(WRITE, 0, &[(0, 7); 11]), &disk());
    let Operation::Write { segments, .. } = operation else {
        panic!("not a write: {operation:?}");
    };
    assert_eq!(segments.len(), 11);
    assert!(!segments.spilled());
}

#[test]
fn segment_counts() {
    for operation in [READ, WRITE] {
        let none = transfer(operation, 0, &[]);
        reject(&none, &disk(), Reason::NoSegments, operation, -1);
    }
    for nr_segments in [12, 255] {
        let raw = RawRequest::Transfer {
            operation: READ,
            id: 77,
            sector: 0,
            nr_segments,
            segments: [RawSegment::default(); 11],
        };
        reject(&raw, &disk(), Reason::TooManySegments, READ, -1);
    }
}

#[test]
fn segments_outside_of_their_page() {
    for bad in [
        (1, 0),
        (7, 6),
        (0, 8),
        (8, 8),
        (0, 255),
        (255, 0),
        (255, 255),
    ] {
        let raw = transfer(READ, 0, &[(0, 7), bad]);
        reject(&raw, &disk(), Reason::BadSegment, READ, -1);
    }
    for good in [(0, 0), (7, 7), (0, 7)] {
        accept(&transfer(READ, 0, &[good]), &disk());
    }
}

#[test]
fn leftovers_behind_the_segments_are_not_looked_at() {
    let mut raw = transfer(READ, 0, &[(0, 7)]);
    if let RawRequest::Transfer { segments, .. } = &mut raw {
        segments[1].first_sect = 255;
    }
    accept(&raw, &disk());
}

#[test]
fn ranges_end_on_the_disk() {
    for operation in [READ, WRITE, BARRIER, FLUSH] {
        accept(&transfer(operation, 992, &[(0, 7)]), &disk());
        accept(&transfer(operation, 984, &[(0, 7), (0, 7)]), &disk());
        for sector in [993, 1000, u64::MAX - 8, u64::MAX - 7, u64::MAX] {
            let raw = transfer(operation, sector, &[(0, 7)]);
            reject(&raw, &disk(), Reason::BeyondEnd, operation, -1);
        }
        let raw = transfer(operation, 985, &[(0, 7), (0, 7)]);
        reject(&raw, &disk(), Reason::BeyondEnd, operation, -1);
    }
}

#[test]
fn blocks_of_4096_bytes() {
    let disk = limits(4096, false, ALL_FEATURES);
    accept(&transfer(READ, 8, &[(0, 7), (0, 7)]), &disk);
    for raw in [
        transfer(READ, 4, &[(0, 7)]),
        transfer(READ, 8, &[(0, 3), (4, 7)]),
        transfer(READ, 8, &[(1, 7)]),
    ] {
        reject(&raw, &disk, Reason::Misaligned, READ, -1);
    }
    accept(&discard(8, 16, 0), &disk);
    reject(&discard(4, 8, 0), &disk, Reason::Misaligned, 5, -1);
    reject(&discard(8, 4, 0), &disk, Reason::Misaligned, 5, -1);
}

#[test]
fn blocks_of_1024_bytes_within_the_page() {
    let disk = limits(1024, false, ALL_FEATURES);
    accept(&transfer(READ, 2, &[(2, 5)]), &disk);
    // Whole in length, not in place.
    reject(
        &transfer(READ, 2, &[(1, 4)]),
        &disk,
        Reason::Misaligned,
        READ,
        -1,
    );
}

#[test]
fn flush_and_barrier_without_data() {
    // The sector of a request without data means nothing: Linux writes 0, others whatever was there.
    for sector in [0, 3, 5000, u64::MAX] {
        assert_eq!(
            accept(&transfer(FLUSH, sector, &[]), &disk()),
            Operation::Flush
        );
        let barrier = accept(&transfer(BARRIER, sector, &[]), &disk());
        assert!(barrier.segments().is_empty());
        assert_eq!(barrier.code(), 2);
    }
}

#[test]
fn flush_and_barrier_with_data() {
    let flush = accept(&transfer(FLUSH, 8, &[(0, 7)]), &disk());
    assert!(
        matches!(&flush, Operation::FlushWrite { start: Sector(8), segments } if segments.len() == 1)
    );
    assert_eq!(flush.code(), 3);
    let barrier = accept(&transfer(BARRIER, 8, &[(0, 7)]), &disk());
    assert!(
        matches!(&barrier, Operation::WriteBarrier { start: Sector(8), segments } if segments.len() == 1)
    );
    let twelve = RawRequest::Transfer {
        operation: FLUSH,
        id: 77,
        sector: 0,
        nr_segments: 12,
        segments: [RawSegment::default(); 11],
    };
    reject(&twelve, &disk(), Reason::TooManySegments, FLUSH, -1);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let disk = limits(512, true, ALL_FEATURES);
    for operation in [WRITE, BARRIER, FLUSH] {
        let raw = transfer(operation, 0, &[(0, 7)]);
        reject(&raw, &disk, Reason::ReadOnly, operation, -1);
    }
    reject(&discard(0, 8, 0), &disk, Reason::ReadOnly, 5, -1);
    reject(&indirect(WRITE, 12), &disk, Reason::ReadOnly, WRITE, -1);
    accept(&transfer(READ, 0, &[(0, 7)]), &disk);
    accept(&indirect(READ, 12), &disk);
    // There is nothing to flush, and that is done at once.
    assert_eq!(accept(&transfer(FLUSH, 0, &[]), &disk), Operation::Flush);
}

#[test]
fn what_is_not_offered_is_not_supported() {
    let disk = limits(512, false, Features::default());
    for operation in [BARRIER, FLUSH] {
        for segments in [&[][..], &[(0, 7)], &[(5, 4)]] {
            let mut raw = transfer(operation, 0, segments);
            reject(&raw, &disk, Reason::NotOffered, operation, -2);
            // Also if there is something else wrong with it.
            if let RawRequest::Transfer { nr_segments, .. } = &mut raw {
                *nr_segments = 12;
            }
            reject(&raw, &disk, Reason::NotOffered, operation, -2);
        }
    }
    reject(&discard(0, 8, 0), &disk, Reason::NotOffered, 5, -2);
    for inner in [READ, WRITE, 200] {
        // Answered with the operation inside, which is what a frontend compares with.
        reject(&indirect(inner, 12), &disk, Reason::NotOffered, inner, -2);
    }
    accept(&transfer(READ, 0, &[(0, 7)]), &disk);
    accept(&transfer(WRITE, 0, &[(0, 7)]), &disk);
}

#[test]
fn unknown_codes_are_not_supported() {
    for operation in [4, 7, 200, 255] {
        let raw = RawRequest::Unknown { operation, id: 77 };
        reject(&raw, &disk(), Reason::UnknownOperation, operation, -2);
    }
}

#[test]
fn discards() {
    assert_eq!(
        accept(&discard(1, 999, 1), &disk()),
        Operation::Discard {
            start: Sector(1),
            sectors: Sector(999),
            secure: true
        }
    );
    let plain = Features {
        discard: Discard::Plain,
        ..ALL_FEATURES
    };
    let not_secure = limits(512, false, plain);
    reject(
        &discard(1, 999, 1),
        &not_secure,
        Reason::SecureDiscard,
        5,
        -2,
    );
    accept(&discard(1, 999, 0), &not_secure);
    assert!(matches!(
        accept(&discard(1, 999, 2), &disk()),
        Operation::Discard { secure: false, .. }
    ));
    reject(&discard(1, 0, 0), &disk(), Reason::EmptyDiscard, 5, -1);
    for (sector, count) in [(1, 1000), (0, u64::MAX), (u64::MAX, 1), (1 << 63, 1 << 63)] {
        reject(
            &discard(sector, count, 0),
            &disk(),
            Reason::BeyondEnd,
            5,
            -1,
        );
    }
}

#[test]
fn indirect_slots() {
    for (nr_segments, pages) in [(1, 1), (256, 1)] {
        let operation = accept(&indirect(WRITE, nr_segments), &disk());
        assert_eq!(operation.code(), WRITE);
        let Operation::Indirect(request) = operation else {
            panic!("not indirect: {operation:?}");
        };
        assert_eq!(request.direction(), TransferDirection::Write);
        assert_eq!(request.segment_count(), nr_segments);
        assert_eq!(request.pages().len(), pages);
        assert_eq!(request.pages()[0], GrantRef(1));
    }
    reject(&indirect(READ, 0), &disk(), Reason::NoSegments, READ, -1);
    reject(
        &indirect(READ, 257),
        &disk(),
        Reason::TooManySegments,
        READ,
        -1,
    );
    for inner in [BARRIER, FLUSH, 5, 6, 200] {
        reject(
            &indirect(inner, 12),
            &disk(),
            Reason::IndirectOperation,
            inner,
            -1,
        );
    }
}

#[test]
fn indirect_pages_hold_512_descriptors_each() {
    let most = Features {
        indirect_segments_max: 4096,
        ..ALL_FEATURES
    };
    for (nr_segments, pages) in [(512, 1), (513, 2), (4096, 8)] {
        let operation = accept(&indirect(READ, nr_segments), &limits(512, false, most));
        let Operation::Indirect(request) = operation else {
            panic!("not indirect: {operation:?}");
        };
        assert_eq!(request.pages().len(), pages);
    }
}

#[test]
fn indirect_descriptors_are_validated_like_direct_segments() {
    let Operation::Indirect(request) = accept(&indirect(WRITE, 20), &disk()) else {
        panic!("not indirect");
    };
    let good = RawSegment {
        gref: 5,
        first_sect: 0,
        last_sect: 7,
    };
    let whole = request
        .with_descriptors([good; 512], &disk())
        .expect("good descriptors");
    assert_eq!(whole.id, 77);
    assert!(
        matches!(&whole.operation, Operation::Write { start: Sector(8), segments } if segments.len() == 20)
    );

    let mut bad = [good; 20];
    bad[19].last_sect = 8;
    let answer = |descriptors: &[RawSegment], limits: &Limits| {
        let rejection = request
            .with_descriptors(descriptors.iter().copied(), limits)
            .expect_err("bad descriptors");
        assert_eq!((rejection.id, rejection.operation), (77, WRITE));
        (rejection.reason, rejection.response().status)
    };
    assert_eq!(answer(&bad, &disk()), (Reason::BadSegment, Status::Error));
    assert_eq!(
        answer(&[good; 19], &disk()),
        (Reason::MissingDescriptors, Status::Error)
    );
    // 20 pages from sector 8 on end at 168.
    let small = Limits::new(Sector(167), SectorSize::B512, false, ALL_FEATURES).expect("limits");
    assert_eq!(
        answer(&[good; 20], &small),
        (Reason::BeyondEnd, Status::Error)
    );
}

#[test]
fn limits_that_cannot_be() {
    let new = |sectors, size, indirect_segments_max| {
        let features = Features {
            indirect_segments_max,
            ..ALL_FEATURES
        };
        Limits::new(Sector(sectors), size, false, features).map(|_| ())
    };
    let largest = u64::MAX / 512;
    assert_eq!(new(largest, SectorSize::B512, 4096), Ok(()));
    assert_eq!(
        new(largest + 1, SectorSize::B512, 0),
        Err(LimitsError::DiskTooLarge(36_028_797_018_963_968))
    );
    assert_eq!(
        new(1001, SectorSize::B4096, 0),
        Err(LimitsError::RaggedEnd {
            sectors: 1001,
            sector_size: 4096
        })
    );
    assert_eq!(
        new(8, SectorSize::B512, 4097),
        Err(LimitsError::TooManyIndirectSegments(4097))
    );
}

#[test]
fn reasons_have_distinct_labels() {
    let labels: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.label()).collect();
    assert_eq!(labels.len(), 12);
}

proptest! {
    /// Whatever a slot holds, what passes is within the disk, in its blocks, and on offer; and the
    /// answer echoes the id.
    #[test]
    fn any_slot(
        noise in prop::collection::vec(any::<u8>(), 112),
        operation in 0..8_u8,
        nr_segments in 0..13_u8,
        sector in prop_oneof![0..1100_u64, any::<u64>()],
        tame in any::<bool>(),
        read_only in any::<bool>(),
        large_blocks in any::<bool>(),
    ) {
        let mut slot = RawSlot([0; 112]);
        slot.0.copy_from_slice(&noise);
        slot.0[0] = operation;
        slot.0[1] = nr_segments;
        slot.0[16..24].copy_from_slice(&sector.to_le_bytes());
        if tame {
            for segment in slot.0[24..].chunks_exact_mut(8) {
                segment[4] %= 8;
                segment[5] = segment[4] + (segment[5] % (8 - segment[4]));
            }
        }
        let mut id = [0; 8];
        id.copy_from_slice(&noise[8..16]);
        let id = u64::from_le_bytes(id);
        let block = if large_blocks { 8 } else { 1 };
        let limits = limits(if large_blocks { 4096 } else { 512 }, read_only, ALL_FEATURES);

        let request = match Request::from_slot(&slot, &limits) {
            Ok(request) => request,
            Err(rejection) => {
                prop_assert_eq!(rejection.id, id);
                prop_assert_ne!(rejection.response().status, Status::Okay);
                return Ok(());
            }
        };
        prop_assert_eq!(request.id, id);
        let (start, sectors, writes) = match &request.operation {
            Operation::Read { start, segments } => (start.0, sum(segments), false),
            Operation::Write { start, segments } | Operation::FlushWrite { start, segments } => {
                prop_assert!(!segments.is_empty());
                (start.0, sum(segments), true)
            }
            Operation::WriteBarrier { segments, .. } if segments.is_empty() => return Ok(()),
            Operation::WriteBarrier { start, segments } => (start.0, sum(segments), true),
            Operation::Discard { start, sectors, .. } => (start.0, u128::from(sectors.0), true),
            Operation::Flush | Operation::Indirect(_) => return Ok(()),
        };
        prop_assert!(sectors > 0);
        prop_assert!(u128::from(start) + sectors <= 1000);
        prop_assert_eq!(start % block, 0);
        prop_assert_eq!(sectors % u128::from(block), 0);
        prop_assert!(!(writes && read_only));
    }
}

fn sum(segments: &[crate::Segment]) -> u128 {
    segments
        .iter()
        .map(|s| u128::from(s.last() - s.first()) + 1)
        .sum()
}
