//! What both executors promise, checked on real files with each of them.

mod in_place;
mod watching;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Event, Executor, FileSlot, IoError, Op, PoolExecutor, UringExecutor};
use crate::buffer::{AlignedBuf, Buffer};
use crate::file::{Access, BlockFile, Caching, ZeroMethod};
use crate::lock;
use crate::testing::{Scattered, directories, pattern};

/// A way to execute.
#[derive(Clone, Copy)]
struct Way {
    make: fn() -> Option<Box<dyn Executor>>,
    /// Files are taken to answer at once, so that what can be is done in place.
    at_once: bool,
}

const URING: Way = Way {
    make: uring,
    at_once: false,
};
const IN_PLACE: Way = Way {
    make: uring,
    at_once: true,
};
const THREADS: Way = Way {
    make: threads,
    at_once: false,
};

/// `None`, loudly, where the machine has no io_uring: then the fallback is what would run here, and is tested.
fn uring() -> Option<Box<dyn Executor>> {
    match UringExecutor::new() {
        Ok(executor) => Some(Box::new(executor)),
        Err(cause) => {
            eprintln!("SKIPPED: io_uring cannot be used here: {cause}");
            None
        }
    }
}

fn threads() -> Option<Box<dyn Executor>> {
    Some(Box::new(PoolExecutor::new(4).expect("threads")))
}

/// Makes a test for each way to execute out of functions that take one.
macro_rules! for_each_way {
    ($($name:ident)*) => {
        mod on_io_uring {
            $(#[test] fn $name() { super::$name(crate::executor::tests::URING); })*
        }
        mod on_io_uring_in_place {
            $(#[test] fn $name() { super::$name(crate::executor::tests::IN_PLACE); })*
        }
        mod on_threads {
            $(#[test] fn $name() { super::$name(crate::executor::tests::THREADS); })*
        }
    };
}
use for_each_way;

for_each_way! {
    what_is_written_is_read_back
    scattered_memory_of_more_than_1024_segments_is_transferred
    each_of_many_operations_is_done_exactly_once
    a_read_past_the_end_of_the_file_fails
    a_zeroed_range_reads_as_zeros_and_gives_its_storage_back
    zeros_are_written_where_nothing_else_works
    reserved_storage_changes_neither_contents_nor_size
    errors_name_the_file_and_the_cause
    operations_on_files_that_are_not_registered_fail
    a_file_may_leave_while_it_is_in_use
    more_files_than_the_kernel_registers_can_be_used
    nothing_to_do_is_done_at_once
    dropping_an_executor_finishes_what_was_submitted
    files_and_locks_are_free_after_the_drop
    random_operations_do_what_a_model_does
}

/// An executor, and files in a directory.
struct Bench {
    executor: Box<dyn Executor>,
    directory: PathBuf,
    at_once: bool,
}

impl Bench {
    fn create(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    fn open(&mut self, path: &Path, caching: Caching) -> FileSlot {
        let mut file = BlockFile::open(path, Access::ReadWrite, caching).unwrap();
        if self.at_once {
            file.assume_answers_at_once();
        }
        self.executor.register(Arc::new(file))
    }

    /// Submits all and waits for all: the results by the place in the list.
    fn run(&mut self, ops: impl IntoIterator<Item = Op>) -> Vec<Result<(), IoError>> {
        let mut waiting = 0;
        for (key, op) in ops.into_iter().enumerate() {
            self.executor.submit(key as u64, op);
            waiting += 1;
        }
        let mut results = BTreeMap::new();
        let mut events = Vec::new();
        while results.len() < waiting {
            self.executor.wait(None, &mut events).unwrap();
            for event in events.drain(..) {
                let Event::Done { key, result } = event else {
                    panic!("nothing is watched: {event:?}")
                };
                assert!(
                    results.insert(key, result).is_none(),
                    "operation {key} was done twice"
                );
            }
        }
        assert_eq!(self.executor.in_flight(), 0);
        results.into_values().collect()
    }

    fn run_one(&mut self, op: Op) -> Result<(), IoError> {
        self.run([op]).remove(0)
    }
}

/// Runs a check on each kind of file system.
fn on_each_file_system(way: Way, check: impl Fn(&mut Bench)) {
    for directory in directories() {
        let Some(executor) = (way.make)() else { return };
        check(&mut Bench {
            executor,
            directory: directory.path().to_owned(),
            at_once: way.at_once,
        });
    }
}

fn buffer_of(bytes: &[u8]) -> Buffer {
    AlignedBuf::from_slice(bytes).into_buffer()
}

fn write(file: FileSlot, offset: u64, buffer: Buffer) -> Op {
    Op::Write {
        file,
        offset,
        buffer,
        takes_storage: true,
    }
}

fn read(file: FileSlot, offset: u64, buffer: &Buffer) -> Op {
    Op::Read {
        file,
        offset,
        buffer: buffer.clone(),
    }
}

fn what_is_written_is_read_back(way: Way) {
    on_each_file_system(way, |bench| {
        for caching in [
            Caching::Buffered,
            Caching::Direct {
                alignment_max: 4096,
            },
        ] {
            let path = bench.create("image", &[1; 65536]);
            let file = bench.open(&path, caching);
            let bytes = pattern(8192, 3);
            assert_eq!(bench.run_one(write(file, 4096, buffer_of(&bytes))), Ok(()));
            let target = AlignedBuf::zeroed(16384).into_buffer();
            // Out of order: the second half of the range first in memory.
            let parts = Buffer::concat([target.slice(8192, 4096), target.slice(0, 4096)]);
            assert_eq!(bench.run_one(read(file, 4096, &parts)), Ok(()));
            assert_eq!(target.slice(8192, 4096).to_vec(), &bytes[..4096]);
            assert_eq!(target.slice(0, 4096).to_vec(), &bytes[4096..]);
            let on_disk = fs::read(&path).unwrap();
            assert_eq!(on_disk.len(), 65536);
            assert_eq!(on_disk[..4096], [1; 4096]);
            assert_eq!(on_disk[4096..12288], bytes);
            assert_eq!(on_disk[12288..], [1; 65536 - 12288]);
        }
    });
}

fn scattered_memory_of_more_than_1024_segments_is_transferred(way: Way) {
    on_each_file_system(way, |bench| {
        let path = bench.create("image", b"");
        let file = bench.open(&path, Caching::Buffered);
        let bytes = pattern(2500 * 3, 5);
        let source = Scattered::new(&[3; 2500], 2, &bytes);
        assert_eq!(
            bench.run_one(write(file, 7, Buffer::from_memory(source))),
            Ok(())
        );
        assert_eq!(fs::read(&path).unwrap()[7..], bytes);
        let target = Scattered::new(&[3; 2500], 1, &vec![0; 7500]);
        let buffer = Buffer::from_memory(target.clone());
        assert_eq!(bench.run_one(read(file, 7, &buffer)), Ok(()));
        assert_eq!(buffer.to_vec(), bytes);
        assert!(target.gaps_are_intact());
    });
}

fn each_of_many_operations_is_done_exactly_once(way: Way) {
    on_each_file_system(way, |bench| {
        let path = bench.create("image", b"");
        let file = bench.open(&path, Caching::Buffered);
        let block = |index: u64| buffer_of(&index.to_le_bytes().repeat(64));
        let writes: Vec<_> = (0..3000)
            .map(|index| write(file, index * 512, block(index)))
            .collect();
        assert!(bench.run(writes).iter().all(Result::is_ok));
        let buffers: Vec<_> = (0..3000)
            .map(|_| AlignedBuf::zeroed(512).into_buffer())
            .collect();
        let reads: Vec<_> = buffers
            .iter()
            .zip(0..)
            .map(|(buffer, index)| read(file, index * 512, buffer))
            .collect();
        assert!(bench.run(reads).iter().all(Result::is_ok));
        for (index, buffer) in (0..3000u64).zip(&buffers) {
            assert_eq!(
                buffer.to_vec(),
                index.to_le_bytes().repeat(64),
                "block {index}"
            );
        }
    });
}

fn a_read_past_the_end_of_the_file_fails(way: Way) {
    on_each_file_system(way, |bench| {
        for caching in [
            Caching::Buffered,
            Caching::Direct {
                alignment_max: 4096,
            },
        ] {
            let path = bench.create("base", &[9; 5000]);
            let file = bench.open(&path, caching);
            for offset in [4096, 1 << 30] {
                let buffer = buffer_of(&[0xff; 8192]);
                let error = bench.run_one(read(file, offset, &buffer)).unwrap_err();
                assert_eq!(error.errno(), libc::EIO);
            }
        }
    });
}

fn a_zeroed_range_reads_as_zeros_and_gives_its_storage_back(way: Way) {
    on_each_file_system(way, |bench| {
        let path = bench.create("image", &[7; 1 << 20]);
        let opened = BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
        let opened = Arc::new(opened);
        opened.sync_all().unwrap();
        let before = opened.allocated_bytes().unwrap();
        let file = bench.executor.register(opened.clone());
        assert_eq!(
            bench.run_one(Op::ZeroRange {
                file,
                offset: 65536,
                len: 524_288
            }),
            Ok(())
        );
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        assert!(bytes[..65536].iter().all(|&byte| byte == 7));
        assert!(bytes[65536..589_824].iter().all(|&byte| byte == 0));
        assert!(bytes[589_824..].iter().all(|&byte| byte == 7));
        assert_eq!(before - opened.allocated_bytes().unwrap(), 524_288);
        assert_eq!(
            bench.run_one(Op::ZeroRange {
                file,
                offset: 1 << 20,
                len: 4096
            }),
            Ok(())
        );
        assert_eq!(
            opened.size().unwrap(),
            1 << 20,
            "a hole past the end is there already"
        );
    });
}

fn reserved_storage_changes_neither_contents_nor_size(way: Way) {
    on_each_file_system(way, |bench| {
        let contents = pattern(5000, 3);
        let path = bench.create("image", &contents);
        let before = fs::metadata(&path).unwrap().blocks();
        let file = bench.open(&path, Caching::Buffered);
        let reserve = |file| Op::Reserve {
            file,
            offset: 4096,
            len: 1 << 20,
        };
        assert_eq!(bench.run_one(reserve(file)), Ok(()));
        assert_eq!(fs::read(&path).unwrap(), contents);
        assert!(fs::metadata(&path).unwrap().blocks() >= before + 2000);
        let read_only = BlockFile::open(&path, Access::ReadOnly, Caching::Buffered).unwrap();
        let read_only = bench.executor.register(Arc::new(read_only));
        let message = bench.run_one(reserve(read_only)).unwrap_err().to_string();
        assert!(message.contains("cannot reserve storage for"), "{message}");
    });
}

fn zeros_are_written_where_nothing_else_works(way: Way) {
    on_each_file_system(way, |bench| {
        let path = bench.create("image", &[7; 6 << 20]);
        let opened = BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
        opened.give_up_zero_methods_before(ZeroMethod::Write);
        let file = bench.executor.register(Arc::new(opened));
        assert_eq!(
            bench.run_one(Op::ZeroRange {
                file,
                offset: 1000,
                len: 5 << 20
            }),
            Ok(())
        );
        let bytes = fs::read(&path).unwrap();
        let end = 1000 + (5 << 20);
        assert!(bytes[..1000].iter().all(|&byte| byte == 7));
        assert!(bytes[1000..end].iter().all(|&byte| byte == 0));
        assert!(bytes[end..].iter().all(|&byte| byte == 7));
    });
}

fn errors_name_the_file_and_the_cause(way: Way) {
    on_each_file_system(way, |bench| {
        let path = bench.create("base", &[0; 512]);
        let opened = BlockFile::open(&path, Access::ReadOnly, Caching::Buffered).unwrap();
        let file = bench.executor.register(Arc::new(opened));
        let error = bench
            .run_one(write(file, 512, buffer_of(&[1; 100])))
            .unwrap_err();
        assert_eq!(error.errno(), libc::EBADF);
        let expected = format!(
            "{}: cannot write 100 bytes at offset 512: Bad file descriptor (os error 9)",
            path.display()
        );
        assert_eq!(error.to_string(), expected);
        let error = bench
            .run_one(Op::ZeroRange {
                file,
                offset: 0,
                len: 512,
            })
            .unwrap_err();
        assert_eq!(error.errno(), libc::EBADF);
        assert_eq!(fs::read(&path).unwrap(), [0; 512]);
    });
}

fn operations_on_files_that_are_not_registered_fail(way: Way) {
    on_each_file_system(way, |bench| {
        let path = bench.create("old", b"old");
        let old = bench.open(&path, Caching::Buffered);
        bench.executor.unregister(old);
        bench.executor.unregister(old);
        let path = bench.create("new", b"new");
        let new = bench.open(&path, Caching::Buffered);
        let error = bench.run_one(write(old, 0, buffer_of(b"bad"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot write: the file is not registered with the executor"
        );
        // A late end of the old registration must not end the new one in its place.
        bench.executor.unregister(old);
        assert_eq!(bench.run_one(write(new, 0, buffer_of(b"yes"))), Ok(()));
        assert_eq!(fs::read(&path).unwrap(), b"yes");
    });
}

fn a_file_may_leave_while_it_is_in_use(way: Way) {
    on_each_file_system(way, |bench| {
        let path = bench.create("image", b"");
        let file = bench.open(&path, Caching::Buffered);
        // Too many segments for one step: later steps begin after the file has left.
        let bytes = pattern(2100, 1);
        let source = Buffer::from_memory(Scattered::new(&[1; 2100], 1, &bytes));
        bench.executor.submit(1, write(file, 0, source));
        bench.executor.unregister(file);
        let other = bench.create("other", b"other");
        bench.open(&other, Caching::Buffered);
        bench.executor.submit(2, Op::Sync { file });
        let mut events = Vec::new();
        while bench.executor.in_flight() > 0 {
            bench.executor.wait(None, &mut events).unwrap();
        }
        let failed: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Done { key, result } => Some((*key, result.is_err())),
                Event::Readable { .. } | Event::Writable { .. } => None,
            })
            .collect();
        assert!(
            failed.contains(&(1, false)) && failed.contains(&(2, true)),
            "{events:?}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(fs::read(&other).unwrap(), b"other");
    });
}

fn more_files_than_the_kernel_registers_can_be_used(way: Way) {
    on_each_file_system(way, |bench| {
        let path = bench.create("image", b"");
        let opened = BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
        let opened = Arc::new(opened);
        let slots: Vec<_> = (0..5000)
            .map(|_| bench.executor.register(opened.clone()))
            .collect();
        let writes =
            [0, 4095, 4096, 4999].map(|index| write(slots[index], index as u64, buffer_of(b"x")));
        assert!(bench.run(writes).iter().all(Result::is_ok));
        let bytes = fs::read(&path).unwrap();
        assert_eq!([bytes[0], bytes[4095], bytes[4096], bytes[4999]], *b"xxxx");
        for slot in slots {
            bench.executor.unregister(slot);
        }
        assert_eq!(Arc::strong_count(&opened), 1);
    });
}

fn nothing_to_do_is_done_at_once(way: Way) {
    on_each_file_system(way, |bench| {
        let path = bench.create("image", b"as it was");
        let file = bench.open(&path, Caching::Buffered);
        let nothing = [
            write(file, 2, Buffer::empty()),
            Op::ZeroRange {
                file,
                offset: 2,
                len: 0,
            },
        ];
        assert_eq!(bench.run(nothing), [Ok(()), Ok(())]);
        let error = bench
            .run_one(write(file, u64::MAX, buffer_of(b"x")))
            .unwrap_err();
        assert_eq!(error.errno(), libc::EINVAL);
        assert_eq!(fs::read(&path).unwrap(), b"as it was");
    });
}

fn dropping_an_executor_finishes_what_was_submitted(way: Way) {
    for directory in directories() {
        let Some(mut executor) = (way.make)() else {
            return;
        };
        let path = directory.path().join("image");
        fs::write(&path, b"").unwrap();
        let opened = BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
        let file = executor.register(Arc::new(opened));
        let memory = Scattered::new(&[100; 40], 1, &pattern(4000, 9));
        let buffer = Buffer::from_memory(memory.clone());
        for index in 0..700 {
            executor.submit(index, write(file, index * 4000, buffer.clone()));
        }
        executor.submit(1000, Op::Sync { file });
        drop((executor, buffer));
        assert_eq!(Rc::strong_count(&memory), 1, "no buffer is kept");
        assert_eq!(fs::read(&path).unwrap(), pattern(4000, 9).repeat(700));
    }
}

fn files_and_locks_are_free_after_the_drop(way: Way) {
    for directory in directories() {
        let Some(mut executor) = (way.make)() else {
            return;
        };
        let path = directory.path().join("image");
        fs::write(&path, b"").unwrap();
        let open = || BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
        let first = Arc::new(open());
        lock::lock_exclusive(&first).unwrap();
        let file = executor.register(first);
        executor.submit(1, write(file, 0, buffer_of(&[1; 4096])));
        let second = open();
        assert!(lock::lock_exclusive(&second).is_err());
        drop(executor);
        lock::lock_exclusive(&second).unwrap();
    }
}

#[derive(Clone, Debug)]
enum Deed {
    Write(u8),
    Zero,
    Read,
}

/// Batches of operations on different blocks of 100 bytes, so that any order within a batch gives the same.
fn random_operations_do_what_a_model_does(way: Way) {
    const BLOCK: usize = 100;
    const BLOCKS: usize = 12;
    let deed = prop_oneof![
        any::<u8>().prop_map(Deed::Write),
        Just(Deed::Zero),
        Just(Deed::Read),
    ];
    let batch = prop::collection::btree_map(0..BLOCKS, deed, 0..BLOCKS);
    let script = prop::collection::vec(batch, 0..8);
    let directory = tempfile::tempdir().unwrap();
    let Some(executor) = (way.make)() else { return };
    let bench = std::cell::RefCell::new(Bench {
        executor,
        directory: directory.path().to_owned(),
        at_once: way.at_once,
    });
    let config = Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&script, |script| {
            let mut bench = bench.borrow_mut();
            let path = bench.create("image", &[0; BLOCK * BLOCKS]);
            let file = bench.open(&path, Caching::Buffered);
            let mut model = vec![0; BLOCK * BLOCKS];
            for batch in script {
                let mut expected = Vec::new();
                let mut ops = Vec::new();
                for (block, deed) in batch {
                    let (start, offset) = (block * BLOCK, (block * BLOCK) as u64);
                    let part = &mut model[start..start + BLOCK];
                    ops.push(match deed {
                        Deed::Write(byte) => {
                            part.fill(byte);
                            Op::Write {
                                file,
                                offset,
                                buffer: buffer_of(part),
                                takes_storage: byte % 2 == 0,
                            }
                        }
                        Deed::Zero => {
                            part.fill(0);
                            Op::ZeroRange {
                                file,
                                offset,
                                len: BLOCK as u64,
                            }
                        }
                        Deed::Read => {
                            let lengths = [30, 1, 69];
                            let target =
                                Buffer::from_memory(Scattered::new(&lengths, 3, &[1; BLOCK]));
                            expected.push((target.clone(), part.to_vec()));
                            read(file, offset, &target)
                        }
                    });
                }
                ops.push(Op::Sync { file });
                prop_assert!(bench.run(ops).iter().all(Result::is_ok));
                for (buffer, bytes) in expected {
                    prop_assert_eq!(buffer.to_vec(), bytes);
                }
            }
            prop_assert_eq!(fs::read(&path).unwrap(), model);
            bench.executor.unregister(file);
            Ok(())
        })
        .unwrap();
}
