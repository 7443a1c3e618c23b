//! Opening and closing.

use super::super::{Action, Engine, Errno, Mode, Options, Request, Token};
use super::driver::{Driver, OPEN, new_header};
use crate::bitmap::Bitmap;
use crate::header::{Header, Slot, State};
use crate::parents::Parents;
use crate::units::DiskRange;

const CLOSE: Token = Token(99);

#[test]
fn opening_marks_the_image_in_use_in_both_slots() {
    let disk = Driver::new(65536, 4096, vec![]);
    assert_eq!(disk.slot(), Slot::A);
    let header = disk.engine.header();
    assert_eq!((header.sequence, header.generation), (3, 1));
    let in_b = Header {
        sequence: 2,
        ..header.clone()
    };
    assert_eq!(disk.files[0][4096..8192], in_b.encode()[..]);
    assert!(matches!(header.state, State::InUse { .. }));
    let reopened = Driver::reopen(disk.files[0].clone(), vec![]);
    assert_eq!(reopened.engine.header(), header);
}

/// What is under way, if it is one step of opening or closing.
fn step(disk: &Driver) -> &'static str {
    match &disk.waiting[..] {
        [Action::Sync { .. }] => "sync",
        [Action::WriteBitmap { .. }] => "bitmap",
        [Action::WriteHeader { slot: Slot::B, .. }] => "header B",
        [Action::WriteHeader { slot: Slot::A, .. }] => "header A",
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_header_that_was_read_is_made_durable_before_the_other_slot_is_written() {
    let closed = Driver::new(65536, 4096, vec![]).files.remove(0);
    let mut disk = Driver::reopen(closed.clone(), vec![]);
    disk.engine.open(OPEN);
    disk.collect();
    let header_a = |disk: &Driver| disk.files[0][..4096] == closed[..4096];
    for expected in ["header A", "sync", "header B", "sync"] {
        assert_eq!(step(&disk), expected);
        disk.complete(0, Ok(()));
        assert!(header_a(&disk), "it is as it was read");
    }
    for expected in ["header A", "sync"] {
        assert_eq!(step(&disk), expected);
        disk.complete(0, Ok(()));
    }
    assert_eq!(disk.take_result(OPEN), Some(Ok(())));
}

#[test]
fn the_bits_of_an_image_that_was_not_closed_are_written_again() {
    let mut disk = Driver::new(65536, 4096, vec![]);
    disk.write(1, 0, &[5; 4096]);
    disk.submit_flush(2);
    disk.run();
    let mut reopened = Driver::reopen(disk.files.remove(0), vec![]);
    reopened.engine.open(OPEN);
    reopened.run();
    reopened.write(3, 0, &[6; 4096]);
    reopened.submit_flush(4);
    for expected in ["sync", "bitmap", "sync"] {
        assert_eq!(step(&reopened), expected);
        reopened.complete(0, Ok(()));
    }
    assert_eq!(reopened.take_result(Token(4)), Some(Ok(())));
}

#[test]
fn the_bits_of_an_image_that_was_closed_are_not() {
    let mut disk = Driver::new(65536, 4096, vec![]);
    disk.write(1, 0, &[5; 4096]);
    disk.engine.close(CLOSE);
    disk.run();
    let mut reopened = Driver::reopen(disk.files.remove(0), vec![]);
    reopened.engine.open(OPEN);
    reopened.run();
    assert!(!reopened.engine.has_uncommitted_bits());
}

#[test]
fn closing_commits_and_marks_the_image_clean() {
    let mut disk = Driver::new(65536, 4096, vec![]);
    disk.write(1, 4096, &[5; 4096]);
    disk.engine.close(CLOSE);
    disk.run();
    assert_eq!(disk.take_result(CLOSE), Some(Ok(())));
    let mut reopened = Driver::reopen(disk.files[0].clone(), vec![]);
    let bitmap_crc = crc32c::crc32c(&[0b10, 0]);
    assert_eq!(reopened.engine.header().state, State::Clean { bitmap_crc });
    assert_eq!(reopened.slot(), Slot::A);
    reopened.engine.open(OPEN);
    reopened.run();
    assert_eq!(reopened.engine.header().generation, 2);
    assert_eq!(reopened.read(4096, 4096), [5; 4096]);
}

#[test]
fn the_clean_header_is_written_only_after_the_last_commit() {
    let mut disk = Driver::new(65536, 4096, vec![]);
    disk.write(1, 4096, &[5; 4096]);
    disk.engine.close(CLOSE);
    disk.collect();
    for expected in [
        "sync", "bitmap", "sync", "header B", "sync", "header A", "sync",
    ] {
        assert_eq!(step(&disk), expected);
        disk.complete(0, Ok(()));
    }
    assert_eq!(disk.take_result(CLOSE), Some(Ok(())));
}

#[test]
fn closing_during_a_commit_waits_for_it_and_commits_the_rest() {
    let mut disk = Driver::new(65536, 4096, vec![]);
    disk.write(1, 0, &[5; 4096]);
    disk.submit_flush(2);
    disk.write(3, 4096, &[5; 4096]);
    disk.engine.close(CLOSE);
    disk.run();
    assert_eq!(disk.take_result(CLOSE), Some(Ok(())));
    let reopened = Driver::reopen(disk.files[0].clone(), vec![]);
    assert_eq!(reopened.engine.allocated_blocks(), 2);
}

#[test]
fn an_image_that_cannot_be_committed_stays_in_use() {
    let mut disk = Driver::new(65536, 4096, vec![]);
    disk.write(1, 0, &[5; 4096]);
    disk.engine.close(CLOSE);
    disk.collect();
    disk.complete(0, Err(Errno::EIO));
    assert_eq!(disk.take_result(CLOSE), Some(Err(Errno::EIO)));
    assert!(disk.waiting.is_empty());
    let reopened = Driver::reopen(disk.files[0].clone(), vec![]);
    assert!(matches!(
        reopened.engine.header().state,
        State::InUse { .. }
    ));
}

#[test]
fn an_image_whose_header_cannot_be_written_does_not_open() {
    for failing_step in 0..6 {
        let mut disk = Driver::reopen(Driver::new(65536, 4096, vec![]).files.remove(0), vec![]);
        disk.engine.open(OPEN);
        disk.collect();
        for _ in 0..failing_step {
            disk.complete(0, Ok(()));
        }
        disk.complete(0, Err(Errno::EIO));
        assert_eq!(disk.take_result(OPEN), Some(Err(Errno::EIO)));
        disk.submit_read(1, 0, 512);
        assert_eq!(disk.take_result(Token(1)), Some(Err(Errno(108))));
    }
}

#[test]
fn a_read_only_image_is_never_written() {
    let header = new_header(65536, 4096);
    let bitmap = Bitmap::empty(&header.layout).unwrap();
    let mut engine = Engine::new(
        header,
        Slot::A,
        bitmap,
        Parents::default(),
        Mode::ReadOnly,
        Options::default(),
    );
    let finish = |token: Token, result| Some(Action::Finish { token, result });
    engine.open(OPEN);
    assert_eq!(engine.next_action(), finish(OPEN, Ok(())));
    engine.submit(Token(1), Request::Write(DiskRange::new(0, 512)));
    assert_eq!(engine.next_action(), finish(Token(1), Err(Errno::EROFS)));
    engine.close(CLOSE);
    assert_eq!(engine.next_action(), finish(CLOSE, Ok(())));
    assert!(engine.is_idle());
}
