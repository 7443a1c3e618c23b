//! The driver on a real image.

use blockio::executor::open_executor;
use blockio::image::{CreateOptions, check, create};
use tempfile::TempDir;

use super::*;
use crate::pattern::{Direction, Order, Pattern};

const WRITES: Pattern = Pattern {
    direction: Direction::Write,
    order: Order::Random { seed: 1 },
    request_len: 4096,
    count: 100,
    span: 4 << 20,
    flush_every: 32,
};

fn image() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("image.cow");
    let options = CreateOptions {
        size: Some(4 << 20),
        ..CreateOptions::default()
    };
    create(&path, &options).unwrap();
    (folder, path)
}

fn session(path: &Path) -> Session {
    Session::open(path, ImageAccess::Writable, open_executor().unwrap()).unwrap()
}

#[test]
fn all_steps_are_executed_and_counted() {
    let (_folder, path) = image();
    let mut session = session(&path);
    let measured = session.run(&WRITES.steps(), 32, None).unwrap();
    session.close().unwrap();
    assert_eq!((measured.requests, measured.flushes), (100, 3));
    assert!(measured.elapsed_ns > 0 && measured.cpu_ns > 0);
    assert_eq!(check(&path).unwrap().allocated_blocks, 100);
}

#[test]
fn what_is_written_is_not_zeros() {
    let (folder, path) = image();
    let mut writer = session(&path);
    writer.run(&WRITES.steps(), 4, None).unwrap();
    writer.close().unwrap();
    let bytes = std::fs::read(folder.path().join("image.cow")).unwrap();
    let data = bytes.len() - (4 << 20);
    let written = bytes[data..]
        .chunks(4096)
        .filter(|block| block.iter().any(|byte| *byte != 0));
    assert_eq!(written.count(), 100);
}

#[test]
fn a_request_that_fails_ends_the_run() {
    let (_folder, path) = image();
    let mut session = session(&path);
    let beyond = [Step::Read(dscow::units::DiskRange::new(4 << 20, 4096))];
    let error = session.run(&beyond, 1, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the request in slot 0 failed with errno 22"
    );
}
