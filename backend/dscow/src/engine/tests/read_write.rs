//! Reads, writes and copy-up, action by action.

use super::super::{Action, Errno, Memory, Token};
use super::driver::{Below, Driver, op_of};
use crate::parents::LayerIndex;
use crate::units::FileOffset;

const DATA: u64 = 1 << 20;

fn request(token: u64, offset: u64) -> Memory {
    Memory::Request {
        token: Token(token),
        offset,
    }
}

fn over_raw(fill: u8) -> Driver {
    Driver::new(64 << 10, 4096, vec![Below::Raw(vec![fill; 64 << 10])])
}

#[test]
fn an_aligned_first_write_is_one_write_at_its_identity_position() {
    let mut disk = over_raw(1);
    disk.submit_write(7, 8192, &[9; 8192]);
    assert_eq!(
        disk.waiting,
        [Action::WriteData {
            op: op_of(&disk.waiting[0]),
            offset: FileOffset(DATA + 8192),
            memory: request(7, 0),
            len: 8192,
        }]
    );
    disk.run();
    assert_eq!(disk.take_result(Token(7)), Some(Ok(())));
    assert_eq!(disk.engine.allocated_blocks(), 2);
    assert_eq!(disk.read(4096, 4096), [1; 4096]);
    assert_eq!(disk.read(8192, 8192), [9; 8192]);
}

#[test]
fn a_read_takes_one_action_for_each_run_of_one_layer() {
    let mut disk = over_raw(1);
    disk.write(1, 4096, &[9; 8192]);
    disk.submit_read(2, 0, 32768);
    let read = |i: usize, layer: usize, offset: u64, at: u64, len: u64| Action::Read {
        op: op_of(&disk.waiting[i]),
        layer: LayerIndex(layer),
        offset: FileOffset(offset),
        memory: request(2, at),
        len,
    };
    assert_eq!(
        disk.waiting,
        [
            read(0, 1, 0, 0, 4096),
            read(1, 0, DATA + 4096, 4096, 8192),
            read(2, 1, 12288, 12288, 20480),
        ]
    );
    disk.run();
    assert_eq!(disk.take_result(Token(2)), Some(Ok(())));
}

#[test]
fn a_partial_first_write_copies_the_block_up() {
    let mut disk = over_raw(1);
    disk.write(1, 4096 + 512, &[9; 1024]);
    let mut expected = vec![1; 4096];
    expected[512..1536].fill(9);
    assert_eq!(disk.read(4096, 4096), expected);
    let at = usize::try_from(DATA).unwrap() + 4096;
    assert_eq!(disk.files[0][at..at + 4096], expected[..]);
    assert_eq!(disk.engine.stats().copy_ups, 1);
    assert_eq!(disk.bounces_in_use(), 0);
}

#[test]
fn a_write_ragged_at_both_ends_copies_two_blocks_and_writes_the_middle() {
    let mut disk = over_raw(1);
    disk.write(1, 3584, &[9; 9216]);
    let mut expected = vec![1; 16384];
    expected[3584..12800].fill(9);
    assert_eq!(disk.read(0, 16384), expected);
    assert_eq!(disk.engine.stats().copy_ups, 2);
    assert_eq!(disk.engine.allocated_blocks(), 4);
}

#[test]
fn a_partial_write_to_an_allocated_block_copies_nothing() {
    let mut disk = over_raw(1);
    disk.write(1, 0, &[9; 4096]);
    disk.submit_write(2, 512, &[8; 512]);
    assert_eq!(disk.waiting.len(), 1);
    disk.run();
    assert_eq!(disk.engine.stats().copy_ups, 0);
    assert_eq!(disk.read(0, 1536)[512..1024], [8; 512]);
}

#[test]
fn the_bit_is_set_only_after_the_data_is_written() {
    let mut disk = over_raw(1);
    disk.submit_write(1, 0, &[9; 4096]);
    disk.submit_read(2, 0, 4096);
    // Complete the read while the write is still under way: it shows the base, not a hole.
    disk.complete(1, Ok(()));
    assert!(disk.is_finished(2) && !disk.is_finished(1));
    assert_eq!(disk.buffer(2), [1; 4096]);
    disk.run();
    assert_eq!(disk.read(0, 4096), [9; 4096]);
}

#[test]
fn a_second_write_to_a_block_in_copy_up_waits_for_it() {
    let mut disk = over_raw(1);
    disk.submit_write(1, 0, &[8; 512]);
    disk.submit_write(2, 512, &[9; 512]);
    disk.submit_write(3, 0, &[7; 8192]);
    assert_eq!(disk.waiting.len(), 1, "only the read of the first copy-up");
    disk.run();
    let content = disk.read(0, 8192);
    assert_eq!(content, [7; 8192]);
    assert_eq!(disk.engine.stats().copy_ups, 1);
}

#[test]
fn a_copy_up_waits_for_a_whole_write_in_flight() {
    let mut disk = over_raw(1);
    disk.submit_write(1, 0, &[8; 4096]);
    disk.submit_write(2, 512, &[9; 512]);
    assert_eq!(disk.waiting.len(), 1);
    disk.run();
    let mut expected = vec![8; 4096];
    expected[512..1024].fill(9);
    assert_eq!(disk.read(0, 4096), expected);
    assert_eq!(disk.engine.stats().copy_ups, 0);
}

#[test]
fn a_failed_write_allocates_nothing_and_releases_who_waits() {
    let mut disk = over_raw(1);
    disk.submit_write(1, 0, &[8; 4096]);
    disk.submit_write(2, 0, &[9; 512]);
    disk.complete(0, Err(Errno::EIO));
    assert_eq!(disk.take_result(Token(1)), Some(Err(Errno::EIO)));
    assert_eq!(disk.engine.allocated_blocks(), 0);
    disk.run();
    assert_eq!(disk.take_result(Token(2)), Some(Ok(())));
    let mut expected = vec![1; 4096];
    expected[..512].fill(9);
    assert_eq!(disk.read(0, 4096), expected);
}

#[test]
fn a_copy_up_that_cannot_read_writes_nothing() {
    let mut disk = over_raw(1);
    disk.submit_write(1, 0, &[8; 512]);
    disk.complete(0, Err(Errno::EIO));
    assert!(disk.waiting.is_empty());
    assert_eq!(disk.take_result(Token(1)), Some(Err(Errno::EIO)));
    assert_eq!(disk.bounces_in_use(), 0);
    assert_eq!(disk.read(0, 512), [1; 512]);
}

#[test]
fn a_failed_read_waits_for_its_other_parts() {
    let mut disk = over_raw(1);
    disk.write(1, 0, &[9; 4096]);
    disk.submit_read(2, 0, 8192);
    disk.complete(0, Err(Errno::EIO));
    assert!(!disk.is_finished(2), "its buffer is still in use");
    disk.complete(0, Ok(()));
    assert_eq!(disk.take_result(Token(2)), Some(Err(Errno::EIO)));
}

#[test]
fn requests_outside_the_disk_or_not_in_sectors_are_refused() {
    let mut disk = over_raw(1);
    let size = 64 << 10;
    for (i, (start, len)) in [(size, 512), (size - 512, 1024), (1, 512), (0, 100), (0, 0)]
        .into_iter()
        .enumerate()
    {
        let token = 100 + i as u64;
        disk.submit_read(token, start, len);
        assert_eq!(disk.take_result(Token(token)), Some(Err(Errno::EINVAL)));
        disk.submit_write(token, start, &vec![0; len]);
        assert_eq!(disk.take_result(Token(token)), Some(Err(Errno::EINVAL)));
    }
    disk.submit_write(1, u64::MAX - 511, &[0; 512]);
    assert_eq!(disk.take_result(Token(1)), Some(Err(Errno::EINVAL)));
}

#[test]
fn the_last_block_of_a_ragged_disk_is_padded_with_zeros() {
    let below = vec![Below::Raw(vec![1; 8192])];
    let mut disk = Driver::new(4096 + 512, 4096, below);
    disk.write(1, 4096, &[9; 512]);
    let at = usize::try_from(DATA).unwrap() + 4096;
    assert_eq!(disk.files[0][at..at + 512], [9; 512]);
    assert_eq!(disk.files[0][at + 512..at + 4096], [0; 3584]);
}

#[test]
fn a_base_shorter_than_the_image_ends_in_zeros() {
    let mut disk = Driver::new(16384, 8192, vec![Below::Raw(vec![1; 8192 + 512])]);
    disk.write(1, 8192 + 1024, &[9; 512]);
    let mut expected = vec![0; 8192];
    expected[..512].fill(1);
    expected[1024..1536].fill(9);
    assert_eq!(disk.read(8192, 8192), expected);
}

#[test]
fn a_chain_is_read_from_the_nearest_image_that_holds_the_block() {
    let below = vec![
        Below::Dscow(8192, 65536, vec![(1, 3)]),
        Below::Dscow(4096, 65536, vec![(1, 4), (3, 5), (5, 6)]),
        Below::Raw(vec![7; 65536]),
    ];
    let mut disk = Driver::new(65536, 4096, below);
    let content = disk.read(0, 28672);
    let pages: Vec<u8> = content.chunks(4096).map(|page| page[17]).collect();
    assert_eq!(pages, [7, 4, 3, 3, 7, 6, 7]);
}
