//! A host without space: what waits, what goes on, and how it ends.

use super::super::{Action, Errno, OnNoSpace, Options, Request, Token};
use super::driver::{Below, Driver};
use crate::units::DiskRange;

fn patient() -> Driver {
    let options = Options {
        on_no_space: OnNoSpace::Pause,
        ..Options::default()
    };
    let below = vec![Below::Raw(vec![1; 64 << 10])];
    Driver::new_with(64 << 10, 4096, below, options)
}

#[test]
fn a_write_without_space_waits_and_is_repeated_as_it_was() {
    let mut disk = patient();
    disk.submit_write(1, 4096, &[9; 8192]);
    let first = disk.waiting[0].clone();
    disk.complete(0, Err(Errno::ENOSPC));
    assert!(!disk.is_finished(1) && disk.waiting.is_empty());
    assert_eq!(disk.engine.stalled(), 1);
    disk.engine.retry_stalled();
    disk.collect();
    assert_eq!(disk.waiting, [first]);
    disk.complete(0, Err(Errno::EDQUOT));
    disk.engine.retry_stalled();
    disk.run();
    assert_eq!(disk.take_result(Token(1)), Some(Ok(())));
    assert_eq!((disk.engine.stalled(), disk.engine.stats().stalls), (0, 2));
    assert_eq!(disk.read(4096, 8192), [9; 8192]);
}

#[test]
fn copy_ups_zeros_and_the_bitmap_wait_as_well() {
    let mut disk = patient();
    disk.submit_write(1, 0, &[9; 512]);
    disk.complete(0, Ok(()));
    disk.complete(0, Err(Errno::ENOSPC));
    disk.submit(2, Request::Discard(DiskRange::new(8192, 4096)));
    disk.complete(0, Err(Errno::ENOSPC));
    assert_eq!(disk.engine.stalled(), 2);
    disk.engine.retry_stalled();
    disk.run();
    assert!(disk.is_finished(1) && disk.is_finished(2));
    disk.submit_flush(3);
    disk.complete(0, Ok(()));
    let bitmap = disk.waiting[0].clone();
    disk.complete(0, Err(Errno::ENOSPC));
    // Written in the meantime, and not covered by the sync: it must not be in what is repeated.
    disk.write(4, 4096, &[9; 4096]);
    disk.engine.retry_stalled();
    disk.collect();
    match (&disk.waiting[..], bitmap) {
        ([Action::WriteBitmap { bytes, .. }], Action::WriteBitmap { bytes: first, .. }) => {
            assert_eq!(*bytes, first);
        }
        other => panic!("{other:?}"),
    }
    disk.run();
    assert_eq!(disk.take_result(Token(3)), Some(Ok(())));
    assert_eq!(disk.bounces_in_use(), 0);
}

#[test]
fn reads_and_other_writes_go_on_while_one_waits() {
    let mut disk = patient();
    disk.submit_write(1, 0, &[9; 4096]);
    disk.complete(0, Err(Errno::ENOSPC));
    assert_eq!(disk.read(0, 4096), [1; 4096]);
    disk.write(2, 4096, &[8; 4096]);
    disk.submit_write(3, 0, &[7; 4096]);
    assert!(
        disk.waiting.is_empty(),
        "a write to the same block waits for the one that waits"
    );
    disk.engine.retry_stalled();
    disk.run();
    assert!(disk.is_finished(1) && disk.is_finished(3));
    assert_eq!(disk.read(0, 4096), [7; 4096]);
}

#[test]
fn who_will_not_wait_is_told() {
    let mut disk = patient();
    disk.submit_write(1, 0, &[9; 4096]);
    disk.complete(0, Err(Errno::ENOSPC));
    disk.engine.fail_stalled();
    disk.run();
    assert_eq!(disk.take_result(Token(1)), Some(Err(Errno::ENOSPC)));
    assert_eq!(disk.engine.allocated_blocks(), 0);
    assert!(disk.engine.is_idle());
}

#[test]
fn the_other_policy_reports_at_once() {
    let mut disk = Driver::new(64 << 10, 4096, vec![]);
    disk.submit_write(1, 0, &[9; 4096]);
    disk.complete(0, Err(Errno::ENOSPC));
    assert_eq!(disk.take_result(Token(1)), Some(Err(Errno::ENOSPC)));
    assert_eq!(disk.engine.stalled(), 0);
}

#[test]
fn a_sync_without_space_has_lost_data_and_does_not_wait() {
    let mut disk = patient();
    disk.write(1, 0, &[9; 4096]);
    disk.submit_flush(2);
    disk.complete(0, Err(Errno::ENOSPC));
    assert_eq!(disk.take_result(Token(2)), Some(Err(Errno::ENOSPC)));
    disk.submit_flush(3);
    assert_eq!(disk.take_result(Token(3)), Some(Err(Errno::ENOSPC)));
}

#[test]
fn a_change_of_policy_holds_for_what_waits_already() {
    let mut disk = patient();
    disk.submit_write(1, 0, &[9; 4096]);
    disk.complete(0, Err(Errno::ENOSPC));
    disk.engine.set_on_no_space(OnNoSpace::Report);
    disk.collect();
    disk.complete(0, Err(Errno::ENOSPC));
    assert_eq!(disk.take_result(Token(1)), Some(Err(Errno::ENOSPC)));
    assert_eq!(disk.engine.stalled(), 0);
    disk.engine.set_on_no_space(OnNoSpace::Pause);
    disk.submit_write(2, 0, &[8; 4096]);
    disk.complete(0, Err(Errno::ENOSPC));
    assert_eq!(disk.engine.stalled(), 1);
    // There is space again: nothing is lost by the change.
    disk.engine.set_on_no_space(OnNoSpace::Report);
    disk.run();
    assert_eq!(disk.take_result(Token(2)), Some(Ok(())));
    assert_eq!(disk.read(0, 4096), [8; 4096]);
}
