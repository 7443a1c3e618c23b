//! What a task makes of results that real files seldom give.

use std::fs;

use libc::iovec;
use tempfile::TempDir;

use super::{Outcome, SEGMENTS_MAX, Step, Task};
use crate::buffer::{AlignedBuf, Buffer};
use crate::executor::files::Files;
use crate::executor::{Action, FileSlot, IoError, Op};
use crate::file::{Access, BlockFile, Caching};
use crate::testing::Scattered;

struct Fixture {
    file: BlockFile,
    slot: FileSlot,
    segments: Vec<iovec>,
    _directory: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image");
        fs::write(&path, b"").unwrap();
        let open = || BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
        let slot = Files::default().insert(open().into());
        Self {
            file: open(),
            slot,
            segments: Vec::new(),
            _directory: directory,
        }
    }

    fn step(&mut self, task: &mut Task) -> Step {
        task.step(&self.file, &mut self.segments)
    }

    fn lengths(&self) -> Vec<usize> {
        self.segments
            .iter()
            .map(|segment| segment.iov_len)
            .collect()
    }

    fn read(&self, buffer: &Buffer, offset: u64) -> Task {
        Task::new(
            1,
            0,
            Op::Read {
                file: self.slot,
                offset,
                buffer: buffer.clone(),
            },
        )
    }

    fn write(&self, buffer: &Buffer, offset: u64) -> Task {
        let op = Op::Write {
            file: self.slot,
            offset,
            buffer: buffer.clone(),
            takes_storage: false,
        };
        Task::new(1, 0, op)
    }

    fn zero(&self, offset: u64, len: u64) -> Task {
        Task::new(
            1,
            0,
            Op::ZeroRange {
                file: self.slot,
                offset,
                len,
            },
        )
    }

    fn error(&self, action: Action, offset: u64, len: u64, errno: i32) -> Outcome {
        Outcome::Done(Err(IoError::failed(
            action,
            self.file.path(),
            offset,
            len,
            errno,
        )))
    }
}

const DONE: Outcome = Outcome::Done(Ok(()));

fn scattered() -> Buffer {
    Buffer::from_memory(Scattered::new(&[3, 5, 2], 1, b"abcdefghij"))
}

#[test]
fn a_short_read_goes_on_where_it_stopped_and_fails_at_the_end_of_the_file() {
    let mut fixture = Fixture::new();
    let buffer = scattered();
    let mut task = fixture.read(&buffer, 100);
    assert_eq!(fixture.step(&mut task), Step::Read { offset: 100 });
    assert_eq!(fixture.lengths(), [3, 5, 2]);
    assert_eq!(task.advance(&fixture.file, 4), Outcome::Continue);
    assert_eq!(fixture.step(&mut task), Step::Read { offset: 104 });
    assert_eq!(fixture.lengths(), [4, 2]);
    assert_eq!(task.advance(&fixture.file, 3), Outcome::Continue);
    assert_eq!(fixture.step(&mut task), Step::Read { offset: 107 });
    assert_eq!(fixture.lengths(), [1, 2]);
    let Outcome::Done(Err(error)) = task.advance(&fixture.file, 0) else {
        panic!("the rest cannot be read")
    };
    assert_eq!(error.errno(), libc::EIO);
}

#[test]
fn a_short_write_goes_on_where_it_stopped() {
    let mut fixture = Fixture::new();
    let mut task = fixture.write(&scattered(), 7);
    assert_eq!(fixture.step(&mut task), Step::Write { offset: 7 });
    assert_eq!(task.advance(&fixture.file, 8), Outcome::Continue);
    assert_eq!(fixture.step(&mut task), Step::Write { offset: 15 });
    assert_eq!(fixture.lengths(), [2]);
    assert_eq!(task.advance(&fixture.file, 2), DONE);
}

#[test]
fn a_write_that_makes_no_progress_fails() {
    let mut fixture = Fixture::new();
    let mut task = fixture.write(&scattered(), 7);
    fixture.step(&mut task);
    assert_eq!(
        task.advance(&fixture.file, 0),
        fixture.error(Action::Write, 7, 10, libc::EIO)
    );
}

#[test]
fn interruptions_are_tried_again_but_not_for_ever() {
    let mut fixture = Fixture::new();
    let mut task = fixture.read(&scattered(), 0);
    fixture.step(&mut task);
    assert!(!task.must_block());
    for _ in 0..500 {
        assert_eq!(task.advance(&fixture.file, -libc::EINTR), Outcome::Continue);
        assert_eq!(
            task.advance(&fixture.file, -libc::EAGAIN),
            Outcome::Continue
        );
    }
    assert!(task.must_block());
    let error = fixture.error(Action::Read, 0, 10, libc::EAGAIN);
    assert_eq!(task.advance(&fixture.file, -libc::EAGAIN), error);
}

#[test]
fn progress_gives_new_patience() {
    let mut fixture = Fixture::new();
    let mut task = fixture.read(&scattered(), 0);
    fixture.step(&mut task);
    for _ in 0..1000 {
        assert_eq!(task.advance(&fixture.file, -libc::EINTR), Outcome::Continue);
    }
    assert_eq!(task.advance(&fixture.file, 1), Outcome::Continue);
    assert_eq!(task.advance(&fixture.file, -libc::EINTR), Outcome::Continue);
}

#[test]
fn an_error_after_progress_is_about_the_whole_operation() {
    let mut fixture = Fixture::new();
    let mut task = fixture.write(&scattered(), 512);
    fixture.step(&mut task);
    assert_eq!(task.advance(&fixture.file, 4), Outcome::Continue);
    let outcome = task.advance(&fixture.file, -libc::ENOSPC);
    assert_eq!(outcome, fixture.error(Action::Write, 512, 10, libc::ENOSPC));
    let Outcome::Done(Err(error)) = outcome else {
        unreachable!()
    };
    assert!(error.is_no_space());
}

#[test]
fn one_step_has_at_most_1024_segments() {
    let mut fixture = Fixture::new();
    let contents = vec![1; 1500];
    let buffer = Buffer::from_memory(Scattered::new(&[1; 1500], 1, &contents));
    let mut task = fixture.write(&buffer, 0);
    fixture.step(&mut task);
    assert_eq!(fixture.segments.len(), 1024);
    assert_eq!(SEGMENTS_MAX, 1024);
    assert_eq!(task.advance(&fixture.file, 1024), Outcome::Continue);
    assert_eq!(fixture.step(&mut task), Step::Write { offset: 1024 });
    assert_eq!(fixture.segments.len(), 476);
}

#[test]
fn zeroing_falls_back_step_by_step_and_the_file_remembers() {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    let mut fixture = Fixture::new();
    let mut task = fixture.zero(4096, 10 << 20);
    let step = fixture.step(&mut task);
    assert_eq!(
        step,
        Step::Fallocate {
            mode: PUNCH,
            offset: 4096,
            len: 10 << 20
        }
    );
    assert_eq!(
        task.advance(&fixture.file, -libc::EOPNOTSUPP),
        Outcome::Continue
    );
    let step = fixture.step(&mut task);
    assert_eq!(
        step,
        Step::Fallocate {
            mode: ZERO,
            offset: 4096,
            len: 10 << 20
        }
    );
    assert_eq!(
        task.advance(&fixture.file, -libc::EOPNOTSUPP),
        Outcome::Continue
    );
    assert_eq!(fixture.step(&mut task), Step::Write { offset: 4096 });
    assert_eq!(fixture.lengths(), [65536; 64]);
    assert_eq!(task.advance(&fixture.file, 4 << 20), Outcome::Continue);
    assert_eq!(
        fixture.step(&mut task),
        Step::Write {
            offset: 4096 + (4 << 20),
        }
    );
    assert_eq!(task.advance(&fixture.file, 4 << 20), Outcome::Continue);
    fixture.step(&mut task);
    assert_eq!(fixture.lengths(), [65536; 32]);
    assert_eq!(task.advance(&fixture.file, 2 << 20), DONE);

    let mut next = fixture.zero(0, 100);
    assert_eq!(fixture.step(&mut next), Step::Write { offset: 0 });
    assert_eq!(fixture.lengths(), [100]);
}

#[test]
fn a_range_that_a_device_cannot_zero_says_nothing_about_the_next() {
    let mut fixture = Fixture::new();
    let mut odd = fixture.zero(1, 5);
    fixture.step(&mut odd);
    assert_eq!(odd.advance(&fixture.file, -libc::EINVAL), Outcome::Continue);
    let mut even = fixture.zero(0, 4096);
    let Step::Fallocate { mode, .. } = fixture.step(&mut even) else {
        panic!("not tried")
    };
    assert_eq!(mode, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE);
}

#[test]
fn an_error_that_is_not_about_the_method_ends_the_zeroing() {
    let mut fixture = Fixture::new();
    let mut task = fixture.zero(0, 4096);
    fixture.step(&mut task);
    let outcome = task.advance(&fixture.file, -libc::ENOSPC);
    assert_eq!(outcome, fixture.error(Action::Zero, 0, 4096, libc::ENOSPC));
}

#[test]
fn ranges_that_no_file_can_have_never_reach_the_kernel() {
    let fixture = Fixture::new();
    let buffer = AlignedBuf::zeroed(2).into_buffer();
    for offset in [u64::MAX, u64::MAX - 1, 1 << 63, i64::MAX as u64 - 1] {
        let settled = fixture.read(&buffer, offset).settled_at_once(&fixture.file);
        let errno = settled.map(|result| result.map_err(|error| error.errno()));
        assert_eq!(errno, Some(Err(libc::EINVAL)), "at {offset}");
    }
    let last = fixture
        .read(&buffer, i64::MAX as u64 - 2)
        .settled_at_once(&fixture.file);
    assert_eq!(last, None);
}

#[test]
fn nothing_is_done_at_once_but_a_sync_is_not_nothing() {
    let fixture = Fixture::new();
    let empty = fixture
        .read(&Buffer::empty(), 5)
        .settled_at_once(&fixture.file);
    assert_eq!(empty, Some(Ok(())));
    let zero = fixture.zero(5, 0).settled_at_once(&fixture.file);
    assert_eq!(zero, Some(Ok(())));
    let sync = Task::new(1, 0, Op::Sync { file: fixture.slot }).settled_at_once(&fixture.file);
    assert_eq!(sync, None);
}

#[test]
fn messages_name_the_file_the_range_and_the_cause() {
    let path = std::path::Path::new("/images/vm1.cow");
    let read = IoError::failed(Action::Read, path, 4096, 512, libc::EIO);
    assert_eq!(
        read.to_string(),
        "/images/vm1.cow: cannot read 512 bytes at offset 4096: Input/output error (os error 5)"
    );
    let sync = IoError::failed(Action::Sync, path, 0, 0, libc::EIO);
    assert_eq!(
        sync.to_string(),
        "/images/vm1.cow: cannot sync: Input/output error (os error 5)"
    );
}
