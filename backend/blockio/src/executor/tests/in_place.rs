//! What io_uring would hand over is done by `submit` itself, as long as it does not sleep.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Bench, IN_PLACE, Op, Way, buffer_of, write};
use crate::executor::Event;
use crate::executor::files::Files;
use crate::executor::in_place::{Kind, Measure};
use crate::file::{Access, BlockFile, Caching, sleeps};
use crate::testing::not_tested;

/// What was written when `submit` returned, of what it writes.
const SUBMITTED: [u8; 4096] = [7; 4096];

fn bench(way: Way) -> Option<(TempDir, Bench, PathBuf)> {
    // On a disk: a sync there sleeps.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let bench = Bench {
        executor: (way.make)()?,
        directory: folder.path().to_owned(),
        at_once: way.at_once,
    };
    let path = bench.create("image", &[0; 8192]);
    Some((folder, bench, path))
}

fn is_written(path: &PathBuf) -> bool {
    fs::read(path).unwrap()[..4096] == SUBMITTED
}

fn finish(bench: &mut Bench, count: usize) {
    let mut events = Vec::new();
    while events.len() < count {
        bench.executor.wait(None, &mut events).unwrap();
    }
    let all_well = |event: &Event| matches!(event, Event::Done { result: Ok(()), .. });
    assert!(
        events.iter().all(all_well) && events.len() == count,
        "{events:?}"
    );
    assert_eq!(bench.executor.in_flight(), 0);
}

#[test]
fn a_write_that_takes_storage_is_done_when_submit_returns() {
    let Some((_folder, mut bench, path)) = bench(IN_PLACE) else {
        return;
    };
    let file = bench.open(&path, Caching::Buffered);
    bench
        .executor
        .submit(1, write(file, 0, buffer_of(&SUBMITTED)));
    assert!(is_written(&path));
    assert_eq!(bench.executor.in_flight(), 1);
    finish(&mut bench, 1);
}

#[test]
fn other_writes_and_other_files_wait_for_the_batch() {
    for (at_once, takes_storage) in [(true, false), (false, true)] {
        let way = Way {
            at_once,
            ..IN_PLACE
        };
        let Some((_folder, mut bench, path)) = bench(way) else {
            return;
        };
        let file = bench.open(&path, Caching::Buffered);
        let op = Op::Write {
            file,
            offset: 0,
            buffer: buffer_of(&SUBMITTED),
            takes_storage,
        };
        bench.executor.submit(1, op);
        assert!(!is_written(&path), "{at_once} {takes_storage}");
        finish(&mut bench, 1);
        assert!(is_written(&path));
    }
}

#[test]
fn nothing_is_done_in_place_beside_what_is_under_way() {
    let Some((_folder, mut bench, path)) = bench(IN_PLACE) else {
        return;
    };
    let file = bench.open(&path, Caching::Buffered);
    let plain = Op::Write {
        file,
        offset: 4096,
        buffer: buffer_of(&[8; 4096]),
        takes_storage: false,
    };
    bench.executor.submit(1, plain);
    bench
        .executor
        .submit(2, write(file, 0, buffer_of(&SUBMITTED)));
    assert!(!is_written(&path));
    finish(&mut bench, 2);
    assert!(is_written(&path));
}

#[test]
fn errors_are_those_of_the_operation() {
    let Some((_folder, mut bench, path)) = bench(IN_PLACE) else {
        return;
    };
    let mut opened = BlockFile::open(&path, Access::ReadOnly, Caching::Buffered).unwrap();
    opened.assume_answers_at_once();
    let file = bench.executor.register(Arc::new(opened));
    let error = bench
        .run_one(write(file, 1, buffer_of(&[1; 100])))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("cannot write 100 bytes at offset 1: Bad file descriptor (os error 9)"),
        "{error}"
    );
}

#[test]
fn a_commit_may_take_a_moment_while_no_other_image_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    fs::write(&path, [0; 4096]).unwrap();
    let open = |access| Arc::new(BlockFile::open(&path, access, Caching::Buffered).unwrap());
    let mut files = Files::default();
    let may_sleep = |files: &Files| matches!(files.measure(Kind::Commit), Measure::Time(_));
    let image = files.insert(open(Access::ReadWrite));
    let base = files.insert(open(Access::ReadOnly));
    assert!(may_sleep(&files));
    assert!(!matches!(files.measure(Kind::Write), Measure::Time(_)));
    let another = files.insert(open(Access::ReadWrite));
    assert!(!may_sleep(&files));
    files.remove(base);
    assert!(!may_sleep(&files));
    let in_use = files.begin_use(another).unwrap();
    files.remove(another);
    assert!(!may_sleep(&files));
    files.end_use(in_use);
    assert!(may_sleep(&files));
    files.remove(image);
    assert!(!may_sleep(&files));
}

/// On storage that is no memory, whatever is assumed.
#[test]
fn after_a_sync_that_slept_the_next_ones_are_handed_over() {
    let Some((_folder, mut bench, path)) = bench(IN_PLACE) else {
        return;
    };
    let file = bench.open(&path, Caching::Buffered);
    let other = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let mut sleeps_in_submit = || {
        other.write_at(&[1; 8192], 0).unwrap();
        let before = sleeps();
        bench.executor.submit(1, Op::Sync { file });
        let slept = sleeps() != before;
        finish(&mut bench, 1);
        slept
    };
    if !sleeps_in_submit() {
        return not_tested("a sync that sleeps", "there is none in /var/tmp");
    }
    for sync in 0..16 {
        assert!(!sleeps_in_submit(), "sync {sync} was not handed over");
    }
    assert!(sleeps_in_submit(), "it was not tried again");
}
