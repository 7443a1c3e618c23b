//! Barriers: what comes before, what comes after.

use super::super::{Action, Errno, Request, Token};
use super::driver::Driver;
use crate::units::DiskRange;

fn disk() -> Driver {
    Driver::new(64 << 10, 4096, vec![])
}

fn next(disk: &Driver) -> &'static str {
    match &disk.waiting[..] {
        [Action::Sync { .. }] => "sync",
        [Action::WriteBitmap { .. }] => "bitmap",
        [Action::WriteData { .. }] => "data",
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_barrier_drains_commits_writes_and_commits() {
    let mut disk = disk();
    disk.submit_write(1, 0, &[1; 4096]);
    disk.submit_barrier(2, 4096, &[2; 4096]);
    disk.submit_write(3, 8192, &[3; 4096]);
    disk.submit_flush(4);
    for step in [
        "data", "sync", "bitmap", "sync", "data", "sync", "bitmap", "sync",
    ] {
        assert_eq!(next(&disk), step);
        assert!(!disk.is_finished(2));
        disk.complete(0, Ok(()));
    }
    assert_eq!(disk.take_result(Token(2)), Some(Ok(())));
    assert!(!disk.is_finished(3) && !disk.is_finished(4));
    disk.run();
    assert_eq!(disk.take_result(Token(3)), Some(Ok(())));
    assert_eq!(disk.take_result(Token(4)), Some(Ok(())));
    assert!(disk.engine.is_idle());
    assert_eq!(disk.read(4096, 8192)[..4096], [2; 4096]);
}

#[test]
fn a_barrier_waits_for_a_commit_that_began_before_the_last_write() {
    let mut disk = disk();
    disk.submit_flush(1);
    disk.submit_write(2, 0, &[1; 4096]);
    disk.submit_barrier(3, 0, &[]);
    disk.complete(1, Ok(()));
    // The flush's own sync, and then a commit that covers the write.
    for step in ["sync", "sync", "bitmap", "sync"] {
        assert_eq!(next(&disk), step);
        assert!(!disk.is_finished(3));
        disk.complete(0, Ok(()));
    }
    assert_eq!(disk.take_result(Token(3)), Some(Ok(())));
}

#[test]
fn barriers_follow_each_other_in_their_order() {
    let mut disk = disk();
    disk.submit_barrier(1, 0, &[1; 512]);
    disk.submit_barrier(2, 0, &[2; 512]);
    disk.submit_read(3, 0, 512);
    disk.run();
    assert!((1..=3).all(|token| disk.is_finished(token)));
    assert_eq!(disk.buffer(3), [2; 512]);
    assert!(disk.engine.is_idle());
}

#[test]
fn a_barrier_that_fails_lets_go_of_what_it_held_back() {
    for failing_step in 0..6 {
        let mut disk = disk();
        disk.write(9, 8192, &[9; 4096]);
        disk.submit_barrier(1, 0, &[1; 4096]);
        disk.submit_write(2, 4096, &[2; 4096]);
        for _ in 0..failing_step {
            disk.complete(0, Ok(()));
        }
        disk.complete(0, Err(Errno::EIO));
        disk.run();
        assert_eq!(
            disk.take_result(Token(1)),
            Some(Err(Errno::EIO)),
            "step {failing_step}"
        );
        assert_eq!(disk.take_result(Token(2)), Some(Ok(())));
        assert!(disk.engine.is_idle());
    }
}

#[test]
fn a_barrier_outside_the_disk_is_refused_at_once() {
    let mut disk = disk();
    disk.submit_write(1, 0, &[1; 4096]);
    disk.submit(2, Request::Barrier(DiskRange::new(64 << 10, 512)));
    assert_eq!(disk.take_result(Token(2)), Some(Err(Errno::EINVAL)));
}
