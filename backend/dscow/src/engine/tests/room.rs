//! What a driver is told about where nobody minds.

use super::driver::{Below, Driver};
use crate::units::DiskRange;

const BLOCK: u64 = 4096;

fn blocks(first: u64, end: u64) -> DiskRange {
    DiskRange::new(first * BLOCK, (end - first) * BLOCK)
}

/// A disk of 16 blocks of which blocks 4 and 12 are allocated.
fn disk() -> Driver {
    let mut disk = Driver::new(16 * BLOCK, BLOCK, vec![Below::Raw(vec![1; 16 * 4096])]);
    disk.write(1, 4 * BLOCK, &[9; 4096]);
    disk.write(2, 12 * BLOCK, &[9; 4096]);
    disk
}

#[test]
fn room_reaches_to_what_is_allocated() {
    let mut disk = disk();
    disk.submit_write(3, 8 * BLOCK, &[9; 4096]);
    let room = |bounds| disk.engine.room_around(blocks(8, 9), bounds);
    assert_eq!(room(blocks(0, 16)), Some(blocks(5, 12)));
    assert_eq!(room(blocks(8, 10)), Some(blocks(8, 10)));
    assert_eq!(disk.engine.room_around(blocks(4, 5), blocks(0, 16)), None);
    let within_a_block = DiskRange::new(4 * BLOCK + 512, 512);
    assert_eq!(disk.engine.room_around(within_a_block, blocks(0, 16)), None);
    assert_eq!(disk.engine.allocated_within(blocks(0, 16)), 2 * BLOCK);
    assert_eq!(disk.engine.allocated_within(blocks(4, 8)), BLOCK);
}

#[test]
fn a_write_is_the_first_if_it_is_to_any_of_its_blocks() {
    let disk = disk();
    let is_first = |start, len| disk.engine.is_first_write(DiskRange::new(start, len));
    assert!(is_first(8 * BLOCK, BLOCK));
    assert!(is_first(8 * BLOCK + 512, 512));
    assert!(is_first(4 * BLOCK, 2 * BLOCK));
    assert!(is_first(3 * BLOCK + 3584, 1024));
    assert!(!is_first(4 * BLOCK, BLOCK));
    assert!(!is_first(4 * BLOCK + 512, 512));
}

#[test]
fn a_write_fills_up_the_blocks_at_its_ends() {
    let disk = disk();
    let filled = |start, len| disk.engine.filled_up_by_write(DiskRange::new(start, len));
    assert_eq!(filled(8 * BLOCK, 2 * BLOCK), 0);
    assert_eq!(filled(8 * BLOCK, 512), BLOCK);
    assert_eq!(filled(8 * BLOCK + 512, 2 * BLOCK), 2 * BLOCK);
    // Allocated, at one end and at both.
    assert_eq!(filled(4 * BLOCK + 512, BLOCK), BLOCK);
    assert_eq!(filled(4 * BLOCK + 512, 512), 0);
    assert_eq!(filled(0, 0), 0);
}

#[test]
fn room_ends_where_another_request_has_written_a_part_of_what_it_writes() {
    let mut disk = disk();
    // Block 9 in part, so that it is copied up; block 10 as a whole, which is written and done.
    disk.submit_write(3, 9 * BLOCK + 512, &[7; 4096 + 3584]);
    let direct = disk
        .waiting
        .iter()
        .position(|action| format!("{action:?}").starts_with("WriteData"));
    disk.complete(direct.unwrap(), Ok(()));
    disk.submit_write(4, 8 * BLOCK, &[9; 4096]);
    assert_eq!(
        disk.engine.room_around(blocks(8, 9), blocks(0, 16)),
        Some(blocks(5, 9))
    );
    assert_eq!(
        disk.engine.unused_within(blocks(0, 16)),
        [blocks(0, 4), blocks(5, 8), blocks(11, 12), blocks(13, 16)]
    );
}
