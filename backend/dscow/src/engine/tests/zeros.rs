//! Zeros and discards: where the storage goes, and what stays.

use super::super::{Action, Errno, Request, Token};
use super::driver::{Below, Driver};
use crate::units::{DiskRange, FileOffset};

const DATA: u64 = 1 << 20;

fn over_raw(fill: u8) -> Driver {
    Driver::new(64 << 10, 4096, vec![Below::Raw(vec![fill; 64 << 10])])
}

fn zeroed(disk: &Driver) -> Vec<(u64, u64)> {
    disk.waiting
        .iter()
        .map(|action| match action {
            Action::ZeroData { offset, len, .. } => (offset.0 - DATA, *len),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_discard_zeroes_whole_blocks_and_then_sets_their_bits() {
    let mut disk = over_raw(1);
    disk.submit(1, Request::Discard(DiskRange::new(4096, 8192)));
    assert_eq!(zeroed(&disk), [(4096, 8192)]);
    assert_eq!(disk.engine.allocated_blocks(), 0, "nothing is zero yet");
    disk.run();
    assert_eq!(disk.take_result(Token(1)), Some(Ok(())));
    assert_eq!(disk.engine.allocated_blocks(), 2);
    assert_eq!(disk.read(0, 16384)[4096..12288], [0; 8192]);
    assert_eq!(disk.read(0, 4096), [1; 4096]);
}

#[test]
fn a_discard_leaves_the_blocks_that_it_covers_in_part() {
    let mut disk = over_raw(1);
    disk.submit(1, Request::Discard(DiskRange::new(512, 8192)));
    assert_eq!(zeroed(&disk), [(4096, 4096)]);
    disk.run();
    disk.submit(2, Request::Discard(DiskRange::new(512, 4096)));
    assert_eq!(
        disk.take_result(Token(2)),
        Some(Ok(())),
        "no whole block: nothing to do"
    );
    assert_eq!(disk.read(0, 4096), [1; 4096]);
}

#[test]
fn the_last_block_of_a_disk_that_ends_inside_it_is_discarded_whole() {
    let mut disk = Driver::new(4096 + 1024, 4096, vec![Below::Raw(vec![1; 8192])]);
    disk.submit(2, Request::Discard(DiskRange::new(4096, 1024)));
    assert_eq!(zeroed(&disk), [(4096, 4096)]);
    disk.run();
    assert_eq!(disk.read(4096, 1024), [0; 1024]);
}

#[test]
fn what_reads_as_zeros_already_is_left_alone() {
    let mut disk = Driver::new(16 << 20, 4096, vec![Below::Raw(vec![1; 4096])]);
    disk.submit(1, Request::WriteZeroes(DiskRange::new(4 << 20, 8 << 20)));
    assert_eq!(disk.take_result(Token(1)), Some(Ok(())));
    assert_eq!(disk.engine.allocated_blocks(), 0);
    disk.write(2, 5 << 20, &[7; 4096]);
    disk.submit(3, Request::WriteZeroes(DiskRange::new(2 << 20, 12 << 20)));
    // Looked at in steps of 2 MiB; one of them holds something.
    assert_eq!(zeroed(&disk), [(4 << 20, 2 << 20)]);
    disk.run();
    assert_eq!(disk.read(5 << 20, 4096), [0; 4096]);
}

#[test]
fn zeros_in_part_of_a_block_are_merged_with_the_base() {
    let mut disk = over_raw(1);
    disk.submit(1, Request::WriteZeroes(DiskRange::new(3584, 5120)));
    disk.run();
    assert_eq!(disk.take_result(Token(1)), Some(Ok(())));
    let mut expected = vec![1; 12288];
    expected[3584..8704].fill(0);
    assert_eq!(disk.read(0, 12288), expected);
    assert_eq!(disk.engine.stats().copy_ups, 2);
    assert_eq!(disk.bounces_in_use(), 0);
}

#[test]
fn zeros_over_a_whole_disk_go_in_windows_and_hold_nobody_up_for_long() {
    let size = 3 << 30;
    let mut disk = Driver::sparse(size, 1 << 20);
    disk.submit(1, Request::Discard(DiskRange::new(0, size)));
    let mut windows = Vec::new();
    while !disk.waiting.is_empty() {
        windows.extend(zeroed(&disk));
        disk.complete(0, Ok(()));
    }
    let gib = 1 << 30;
    assert_eq!(windows, [(0, gib), (gib, gib), (2 * gib, gib)]);
    assert_eq!(disk.take_result(Token(1)), Some(Ok(())));
    assert_eq!(disk.engine.allocated_blocks(), 3072);
}

#[test]
fn zeros_that_fail_allocate_nothing() {
    let mut disk = over_raw(1);
    disk.submit(1, Request::Discard(DiskRange::new(0, 8192)));
    disk.complete(0, Err(Errno::EIO));
    assert_eq!(disk.take_result(Token(1)), Some(Err(Errno::EIO)));
    assert_eq!(disk.engine.allocated_blocks(), 0);
}

#[test]
fn a_write_waits_for_the_discard_of_its_block() {
    let mut disk = over_raw(1);
    disk.submit(1, Request::Discard(DiskRange::new(0, 8192)));
    disk.submit_write(2, 4096, &[9; 512]);
    assert_eq!(disk.waiting.len(), 1, "the write waits");
    disk.run();
    let mut expected = vec![0; 8192];
    expected[4096..4608].fill(9);
    assert_eq!(disk.read(0, 8192), expected);
    assert_eq!(
        disk.engine.stats().copy_ups,
        0,
        "the block is allocated by then"
    );
}

#[test]
fn blocks_of_a_write_that_are_known_to_be_zeros_become_holes() {
    let mut disk = over_raw(1);
    let mut data = vec![9; 5 * 4096];
    data[4096..3 * 4096].fill(0);
    disk.submit_sparse_write(1, 0, &data, &[(4096, 8192)]);
    let expected = |i: usize| match &disk.waiting[i] {
        Action::WriteData { offset, len, .. } => ("data", *offset, *len),
        Action::ZeroData { offset, len, .. } => ("zero", *offset, *len),
        other => panic!("{other:?}"),
    };
    let at = |position: u64| FileOffset(DATA + position);
    assert_eq!(
        [expected(0), expected(1), expected(2)],
        [
            ("data", at(0), 4096),
            ("zero", at(4096), 8192),
            ("data", at(12288), 8192),
        ]
    );
    disk.run();
    assert_eq!(disk.read(0, 5 * 4096), data);
    assert_eq!(disk.engine.allocated_blocks(), 5);
}

#[test]
#[should_panic(expected = "in DiskRange")]
fn zeros_that_are_not_whole_blocks_are_a_mistake_of_the_caller() {
    over_raw(1).submit_sparse_write(1, 0, &[0; 8192], &[(512, 4096)]);
}
