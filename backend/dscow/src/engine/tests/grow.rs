//! Growing an open disk.

use super::super::{Action, Errno, Request, Token};
use super::driver::{Below, Driver, OPEN};
use crate::units::DiskRange;

const GROW: Token = Token(77);
const DATA: usize = 1 << 20;

fn kind(disk: &Driver) -> &'static str {
    match &disk.waiting[..] {
        [Action::SetLen { .. }] => "length",
        [Action::Sync { .. }] => "sync",
        [Action::WriteHeader { .. }] => "header",
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_file_is_longer_for_good_before_the_header_says_so() {
    let mut disk = Driver::new(64 << 10, 4096, vec![]);
    disk.engine.grow(GROW, 128 << 10);
    disk.collect();
    for step in ["length", "sync", "header", "sync"] {
        assert_eq!(kind(&disk), step);
        assert_eq!(disk.engine.layout().virtual_size(), 64 << 10);
        disk.submit_read(1, 96 << 10, 512);
        assert_eq!(disk.take_result(Token(1)), Some(Err(Errno::EINVAL)));
        disk.complete(0, Ok(()));
    }
    // In force; then the other slot.
    for step in ["header", "sync"] {
        assert_eq!(kind(&disk), step);
        assert_eq!(disk.take_result(GROW), None);
        disk.complete(0, Ok(()));
    }
    assert_eq!(disk.take_result(GROW), Some(Ok(())));
    assert_eq!(disk.files[0].len(), DATA + (128 << 10));
    assert_eq!(disk.read(96 << 10, 4096), [0; 4096]);
    disk.write(2, 96 << 10, &[5; 512]);
    disk.engine.close(Token(3));
    disk.run();
    let mut reopened = Driver::reopen(disk.files.swap_remove(0), vec![]);
    reopened.engine.open(OPEN);
    reopened.run();
    assert_eq!(reopened.read(96 << 10, 512), [5; 512]);
}

#[test]
fn a_second_header_that_cannot_be_written_does_not_take_the_new_size_back() {
    let mut disk = Driver::new(64 << 10, 4096, vec![]);
    disk.engine.grow(GROW, 128 << 10);
    disk.collect();
    for step in ["length", "sync", "header", "sync"] {
        assert_eq!(kind(&disk), step);
        disk.complete(0, Ok(()));
    }
    assert_eq!(kind(&disk), "header");
    disk.complete(0, Err(Errno::EIO));
    assert_eq!(disk.take_result(GROW), Some(Ok(())));
    assert_eq!(disk.engine.layout().virtual_size(), 128 << 10);
    disk.write(1, 96 << 10, &[5; 512]);
    disk.engine.close(Token(2));
    disk.run();
    assert_eq!(disk.take_result(Token(2)), Some(Ok(())));
    let reopened = Driver::reopen(disk.files.swap_remove(0), vec![]);
    assert_eq!(reopened.engine.layout().virtual_size(), 128 << 10);
}

#[test]
fn what_is_new_hides_a_larger_parent_also_after_reopening() {
    let raw = || vec![Below::Raw(vec![1; 64 << 10])];
    let mut disk = Driver::new(16 << 10, 4096, raw());
    for size in [32 << 10, 48 << 10] {
        disk.engine.grow(GROW, size);
        disk.run();
        assert_eq!(disk.take_result(GROW), Some(Ok(())));
    }
    let mut expected = vec![1; 48 << 10];
    expected[16 << 10..].fill(0);
    assert_eq!(disk.read(0, 48 << 10), expected);
    disk.write(1, 20 << 10, &[7; 512]);
    expected[20 << 10..(20 << 10) + 512].fill(7);
    assert_eq!(disk.read(0, 48 << 10), expected);
    disk.engine.close(Token(3));
    disk.run();
    let mut reopened = Driver::reopen(disk.files.swap_remove(0), raw());
    reopened.engine.open(OPEN);
    reopened.run();
    assert_eq!(reopened.read(0, 48 << 10), expected);
}

#[test]
fn a_disk_that_ended_inside_a_block_shows_zeros_behind_its_old_end() {
    let mut disk = Driver::new(4096 + 512, 4096, vec![Below::Raw(vec![1; 16384])]);
    disk.write(1, 4096, &[5; 512]);
    disk.engine.grow(GROW, 16384);
    disk.run();
    let mut expected = vec![1; 4096];
    expected.extend([5; 512]);
    expected.resize(16384, 0);
    assert_eq!(disk.read(0, 16384), expected);
}

#[test]
fn impossible_sizes_are_refused() {
    let mut disk = Driver::new(64 << 10, 4096, vec![]);
    // A bitmap page has room for 128 MiB.
    for (size, errno) in [
        (32 << 10, Errno::EINVAL),
        (64 << 20 | 1, Errno::EFBIG),
        ((128 << 20) + 4096, Errno::EFBIG),
    ] {
        disk.engine.grow(GROW, size);
        disk.collect();
        assert_eq!(disk.take_result(GROW), Some(Err(errno)), "{size}");
    }
    disk.engine.grow(Token(1), 128 << 10);
    disk.engine.grow(Token(2), 256 << 10);
    disk.collect();
    assert_eq!(disk.take_result(Token(2)), Some(Err(Errno::EBUSY)));
}

#[test]
fn a_disk_that_could_not_grow_goes_on_as_it_was() {
    for failing_step in 0..4 {
        let mut disk = Driver::new(64 << 10, 4096, vec![]);
        disk.engine.grow(GROW, 128 << 10);
        disk.collect();
        for _ in 0..failing_step {
            disk.complete(0, Ok(()));
        }
        disk.complete(0, Err(Errno::EIO));
        assert_eq!(disk.take_result(GROW), Some(Err(Errno::EIO)));
        assert_eq!(disk.engine.layout().virtual_size(), 64 << 10);
        disk.write(1, 0, &[1; 4096]);
        // A failed sync is told once: whoever flushes later must hear of it too.
        let is_sync = failing_step % 2 == 1;
        disk.submit_flush(2);
        disk.run();
        let expected = if is_sync { Err(Errno::EIO) } else { Ok(()) };
        assert_eq!(
            disk.take_result(Token(2)),
            Some(expected),
            "step {failing_step}"
        );
    }
}

#[test]
fn zeros_under_way_leave_what_is_new_in_the_last_block_alone() {
    let mut disk = Driver::new(4096 + 1024, 4096, vec![]);
    disk.write(1, 4096, &[5; 1024]);
    disk.submit(2, Request::WriteZeroes(DiskRange::new(4096, 1024)));
    disk.engine.grow(GROW, 8192);
    disk.collect();
    while disk.waiting.len() > 1 {
        disk.complete(1, Ok(()));
    }
    assert_eq!(disk.take_result(GROW), Some(Ok(())));
    disk.submit_write(3, 4096 + 1024, &[7; 512]);
    disk.complete(1, Ok(()));
    assert_eq!(disk.take_result(Token(3)), Some(Ok(())));
    assert!(!disk.is_finished(2));
    disk.run();
    let mut expected = vec![0; 4096];
    expected[1024..1536].fill(7);
    assert_eq!(disk.read(4096, 4096), expected);
}

#[test]
fn no_two_syncs_are_under_way_at_a_time() {
    let mut disk = Driver::new(64 << 10, 4096, vec![]);
    disk.write(1, 0, &[1; 4096]);
    disk.submit_flush(2);
    disk.engine.grow(GROW, 128 << 10);
    disk.collect();
    while !disk.waiting.is_empty() {
        let syncs = disk.waiting.iter();
        let syncs = syncs.filter(|action| matches!(action, Action::Sync { .. }));
        assert!(syncs.count() <= 1, "{:?}", disk.waiting);
        disk.complete(disk.waiting.len() - 1, Ok(()));
    }
    assert_eq!(disk.take_result(Token(2)), Some(Ok(())));
    assert_eq!(disk.take_result(GROW), Some(Ok(())));
}

#[test]
fn a_sync_that_fails_for_the_length_fails_the_flush_that_waits() {
    let mut disk = Driver::new(64 << 10, 4096, vec![]);
    disk.engine.grow(GROW, 128 << 10);
    disk.collect();
    disk.complete(0, Ok(()));
    disk.submit_flush(2);
    assert_eq!(kind(&disk), "sync");
    disk.complete(0, Err(Errno::EIO));
    assert_eq!(disk.take_result(GROW), Some(Err(Errno::EIO)));
    assert_eq!(disk.take_result(Token(2)), Some(Err(Errno::EIO)));
}
