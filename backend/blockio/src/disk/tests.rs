//! Disks on real files, through both executors.

mod hints;
mod large_sectors;
mod space;
mod without_io_uring;

use std::fs;
use std::path::{Path, PathBuf};

use dscow::engine::{OnNoSpace, Request, Token};
use dscow::header::State;
use dscow::units::DiskRange;
use tempfile::TempDir;

use super::*;
use crate::executor::{Event, PoolExecutor, UringExecutor};
use crate::file::Caching;
use crate::image::{CreateOptions, Image, ImageAccess, check, create};
use crate::testing::not_tested;

const OPEN: Token = Token(1000);
const CLOSE: Token = Token(1001);

struct Bench {
    executor: Box<dyn Executor>,
    disk: Disk,
}

impl Bench {
    fn open(path: &Path, executor: Box<dyn Executor>) -> Self {
        Self::open_with(path, Caching::DIRECT, executor)
    }

    fn open_with(path: &Path, caching: Caching, mut executor: Box<dyn Executor>) -> Self {
        let image = Image::open_with(path, ImageAccess::Writable, caching).unwrap();
        let (engine, files) = image.into_engine(OnNoSpace::Report);
        let mut disk = Disk::new(
            DiskNumber(7),
            engine,
            files,
            DiskOptions::default(),
            executor.as_mut(),
        );
        disk.open(executor.as_mut(), OPEN);
        let mut bench = Self { executor, disk };
        assert_eq!(bench.wait_for(OPEN).result, Ok(()));
        bench
    }

    fn wait_for(&mut self, token: Token) -> Finished {
        let mut events = Vec::new();
        loop {
            for finished in self.disk.take_finished() {
                if finished.token == token {
                    return finished;
                }
            }
            self.executor.wait(None, &mut events).unwrap();
            for event in events.drain(..) {
                let Event::Done { key, result } = event else {
                    continue;
                };
                let (number, op) = DiskNumber::of_key(key);
                assert_eq!(number, DiskNumber(7));
                self.disk.complete(self.executor.as_mut(), op, result);
            }
        }
    }

    fn request(&mut self, request: Request, buffer: Buffer) -> Finished {
        self.disk
            .submit(self.executor.as_mut(), Token(1), request, buffer);
        self.wait_for(Token(1))
    }

    fn write(&mut self, start: u64, bytes: &[u8]) {
        let range = DiskRange::new(start, bytes.len() as u64);
        let buffer = AlignedBuf::from_slice(bytes).into_buffer();
        assert_eq!(self.request(Request::Write(range), buffer).result, Ok(()));
    }

    fn read(&mut self, start: u64, len: usize) -> Vec<u8> {
        let buffer = AlignedBuf::zeroed(len).into_buffer();
        let range = DiskRange::new(start, len as u64);
        let finished = self.request(Request::Read(range), buffer);
        assert_eq!(finished.result, Ok(()));
        finished.buffer.to_vec()
    }

    fn close(mut self) {
        self.disk.close(self.executor.as_mut(), CLOSE);
        assert_eq!(self.wait_for(CLOSE).result, Ok(()));
        self.disk.release(self.executor.as_mut());
    }
}

fn fixture() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let base = folder.path().join("base.img");
    fs::write(&base, vec![0x55; 1 << 20]).unwrap();
    let path = folder.path().join("vm.cow");
    let options = CreateOptions {
        base: Some(base),
        ..CreateOptions::default()
    };
    create(&path, &options).unwrap();
    (folder, path)
}

fn what_is_written_is_there_after_reopening(executor: impl Fn() -> Box<dyn Executor>) {
    let (folder, path) = fixture();
    let mut bench = Bench::open(&path, executor());
    bench.write(4096 * 3 + 512, &[9; 8192]);
    let mut expected = vec![0x55; 4096 * 8];
    expected[4096 * 3 + 512..4096 * 5 + 512].fill(9);
    assert_eq!(bench.read(0, 4096 * 8), expected);
    assert_eq!(
        bench.request(Request::Flush, Buffer::empty()).result,
        Ok(())
    );
    bench.close();

    let report = check(&path).unwrap();
    assert!(report.problems.is_empty() && report.closed_cleanly);
    assert_eq!(report.allocated_blocks, 3);
    let mut bench = Bench::open(&path, executor());
    assert_eq!(bench.read(0, 4096 * 8), expected);
    bench.close();
    assert_eq!(
        fs::read(folder.path().join("base.img")).unwrap(),
        vec![0x55; 1 << 20]
    );
}

#[test]
fn what_is_written_is_there_after_reopening_with_io_uring() {
    what_is_written_is_there_after_reopening(|| Box::new(UringExecutor::new().unwrap()));
}

#[test]
fn what_is_written_is_there_after_reopening_with_threads() {
    what_is_written_is_there_after_reopening(|| Box::new(PoolExecutor::new(2).unwrap()));
}

#[test]
fn io_outlives_the_process_where_it_bypasses_the_page_cache() {
    let (folder, path) = fixture();
    for caching in [Caching::DIRECT, Caching::Buffered] {
        let bench = Bench::open_with(&path, caching, Box::new(PoolExecutor::new(2).unwrap()));
        let bypasses = bench.disk.files[0].direct();
        assert_eq!(bench.disk.io_outlives_process(), bypasses);
        if caching == Caching::Buffered {
            assert!(!bypasses);
        } else if !bypasses {
            not_tested("direct I/O", &format!("{}: no", folder.path().display()));
        }
        bench.close();
    }
}

#[test]
fn an_image_left_open_says_so_and_opens_again() {
    let (_folder, path) = fixture();
    let mut bench = Bench::open(&path, Box::new(PoolExecutor::new(2).unwrap()));
    bench.write(0, &[9; 4096]);
    assert_eq!(
        bench.request(Request::Flush, Buffer::empty()).result,
        Ok(())
    );
    drop(bench);
    let image = Image::open(&path, ImageAccess::Writable).unwrap();
    assert!(matches!(image.header().state, State::InUse { .. }));
    assert_eq!(image.bitmap().count_set(), 1);
    assert!(!check(&path).is_ok_and(|report| report.closed_cleanly));
}

#[test]
fn keys_say_which_disk_and_operation() {
    let op = OpId::from_usize(0x1234_5678);
    let key = DiskNumber(0xfedc_ba98).key(op);
    assert_eq!(key, 0xfedc_ba98_1234_5678);
    assert_eq!(DiskNumber::of_key(key), (DiskNumber(0xfedc_ba98), op));
}
