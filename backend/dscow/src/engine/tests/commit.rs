//! Flush, step by step.

use super::super::{Action, Errno, Token};
use super::driver::{Driver, op_of};
use crate::units::FileOffset;

fn disk() -> Driver {
    // Two bitmap pages: 65536 blocks of 4 KiB.
    Driver::new(256 << 20, 4096, vec![])
}

fn kinds(disk: &Driver) -> Vec<&'static str> {
    disk.waiting
        .iter()
        .map(|action| match action {
            Action::Read { .. } => "read",
            Action::WriteData { .. } => "data",
            Action::WriteBitmap { .. } => "bitmap",
            Action::WriteHeader { .. } => "header",
            Action::Sync { .. } => "sync",
            _ => "other",
        })
        .collect()
}

#[test]
fn a_flush_without_new_bits_is_one_sync() {
    let mut disk = disk();
    disk.submit_flush(1);
    assert_eq!(kinds(&disk), ["sync"]);
    disk.complete(0, Ok(()));
    assert_eq!(disk.take_result(Token(1)), Some(Ok(())));
    assert!(disk.engine.is_idle());
}

#[test]
fn new_bits_are_written_between_two_syncs() {
    let mut disk = disk();
    disk.write(1, 4096 * 9, &[1; 4096]);
    disk.submit_flush(2);
    assert_eq!(kinds(&disk), ["sync"]);
    disk.complete(0, Ok(()));
    let mut bytes = vec![0; 4096];
    bytes[1] = 0b10;
    assert_eq!(
        disk.waiting,
        [Action::WriteBitmap {
            op: op_of(&disk.waiting[0]),
            offset: FileOffset(8192),
            bytes,
        }]
    );
    disk.complete(0, Ok(()));
    assert_eq!(kinds(&disk), ["sync"]);
    assert!(!disk.is_finished(2));
    disk.complete(0, Ok(()));
    assert_eq!(disk.take_result(Token(2)), Some(Ok(())));
    assert!(!disk.engine.has_uncommitted_bits());
}

#[test]
fn neighbouring_pages_are_written_together() {
    let mut disk = disk();
    disk.write(1, 0, &[1; 4096]);
    disk.write(2, 4096 * 32768, &[1; 4096]);
    disk.submit_flush(3);
    disk.complete(0, Ok(()));
    assert_eq!(kinds(&disk), ["bitmap"]);
    match &disk.waiting[0] {
        Action::WriteBitmap { bytes, .. } => assert_eq!(bytes.len(), 8192),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_bit_set_after_the_copy_waits_for_the_next_commit() {
    let mut disk = disk();
    disk.write(1, 0, &[1; 4096]);
    disk.submit_flush(2);
    // Block 1 completes while the flush syncs: the same page of the bitmap, but not covered by the sync.
    disk.submit_write(3, 4096, &[1; 4096]);
    disk.complete(1, Ok(()));
    assert!(disk.is_finished(3));
    disk.complete(0, Ok(()));
    match &disk.waiting[..] {
        [Action::WriteBitmap { bytes, .. }] => assert_eq!(bytes[0], 0b01),
        other => panic!("{other:?}"),
    }
    disk.run();
    assert!(disk.is_finished(2));
    assert!(disk.engine.has_uncommitted_bits());
    disk.engine.commit_idle();
    disk.collect();
    disk.complete(0, Ok(()));
    match &disk.waiting[..] {
        [Action::WriteBitmap { bytes, .. }] => assert_eq!(bytes[0], 0b11),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_in_flight_is_not_covered() {
    let mut disk = disk();
    disk.submit_write(1, 0, &[1; 4096]);
    disk.submit_flush(2);
    disk.complete(1, Ok(()));
    assert_eq!(disk.take_result(Token(2)), Some(Ok(())));
    assert_eq!(kinds(&disk), ["data"]);
}

#[test]
fn flushes_that_come_during_a_commit_share_the_next_one() {
    let mut disk = disk();
    for token in 1..=4 {
        disk.submit_flush(token);
    }
    assert_eq!(kinds(&disk), ["sync"]);
    disk.complete(0, Ok(()));
    assert!(disk.is_finished(1) && !disk.is_finished(2));
    assert_eq!(kinds(&disk), ["sync"]);
    disk.complete(0, Ok(()));
    assert!((1..=4).all(|token| disk.is_finished(token)));
    assert!(disk.engine.is_idle());
}

#[test]
fn after_a_failed_step_every_flush_fails() {
    for failing_step in 0..3 {
        let mut disk = disk();
        disk.write(1, 0, &[1; 4096]);
        disk.submit_flush(2);
        disk.submit_flush(3);
        for _ in 0..failing_step {
            disk.complete(0, Ok(()));
        }
        disk.complete(0, Err(Errno(28)));
        assert_eq!(kinds(&disk), [""; 0], "step {failing_step}");
        for token in [2, 3] {
            assert_eq!(disk.take_result(Token(token)), Some(Err(Errno(28))));
        }
        disk.submit_flush(4);
        assert_eq!(disk.take_result(Token(4)), Some(Err(Errno(28))));
        disk.engine.commit_idle();
        assert!(disk.engine.is_idle());
        assert_eq!(disk.engine.failure(), Some(Errno(28)));
    }
}
