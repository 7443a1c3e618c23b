//! Locks among openings in one process, among processes, and with QEMU's own tools.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::{LockError, byte, conflict, set};
use super::{LockMode, lock_exclusive, lock_raw_base, lock_shared, patiently, unlock};
use crate::file::{Access, BlockFile, Caching};
use crate::testing::{directories, not_tested};

/// Runs a check with the path of a file of 1 MiB on each kind of file system.
fn with_image(check: impl Fn(&Path)) {
    for directory in directories() {
        let path = directory.path().join("image");
        fs::write(&path, vec![0; 1 << 20]).unwrap();
        check(&path);
    }
}

fn open(path: &Path) -> BlockFile {
    BlockFile::open(path, Access::ReadWrite, Caching::Buffered).unwrap()
}

fn open_for_reading(path: &Path) -> BlockFile {
    BlockFile::open(path, Access::ReadOnly, Caching::Buffered).unwrap()
}

#[test]
fn a_writer_excludes_everybody_also_in_one_process() {
    with_image(|path| {
        let (first, second, reader) = (open(path), open(path), open_for_reading(path));
        lock_exclusive(&first).unwrap();
        assert!(matches!(
            lock_exclusive(&second),
            Err(LockError::Held { .. })
        ));
        assert!(matches!(lock_shared(&reader), Err(LockError::Held { .. })));
        assert!(matches!(
            lock_raw_base(&reader),
            Err(LockError::Held { .. })
        ));
        drop(first);
        lock_exclusive(&second).unwrap();
    });
}

#[test]
fn readers_share_and_exclude_a_writer() {
    with_image(|path| {
        let (first, second, writer) = (open_for_reading(path), open_for_reading(path), open(path));
        lock_shared(&first).unwrap();
        lock_shared(&second).unwrap();
        drop(first);
        assert!(matches!(
            lock_exclusive(&writer),
            Err(LockError::Held { .. })
        ));
        drop(second);
        lock_exclusive(&writer).unwrap();
    });
}

#[test]
fn a_base_is_shared_by_readers_and_excludes_a_writer_of_the_image_kind() {
    with_image(|path| {
        let (first, second, writer) = (open_for_reading(path), open_for_reading(path), open(path));
        lock_raw_base(&first).unwrap();
        lock_raw_base(&second).unwrap();
        assert!(matches!(
            lock_exclusive(&writer),
            Err(LockError::Held { .. })
        ));
        drop((first, second));
        lock_exclusive(&writer).unwrap();
    });
}

#[test]
fn a_lock_can_change_its_mode_and_be_released() {
    with_image(|path| {
        let (writer, reader) = (open(path), open_for_reading(path));
        lock_exclusive(&writer).unwrap();
        lock_shared(&writer).unwrap();
        lock_shared(&reader).unwrap();
        assert!(matches!(
            lock_exclusive(&writer),
            Err(LockError::Held { .. })
        ));
        unlock(&reader).unwrap();
        lock_exclusive(&writer).unwrap();
        unlock(&writer).unwrap();
        lock_shared(&reader).unwrap();
    });
}

#[test]
fn a_file_open_for_reading_cannot_be_locked_for_writing() {
    with_image(|path| {
        let message = lock_exclusive(&open_for_reading(path))
            .unwrap_err()
            .to_string();
        let expected = format!(
            "{}: cannot be locked for writing: it is open for reading only",
            path.display()
        );
        assert_eq!(message, expected);
    });
}

#[test]
fn the_holder_is_named() {
    with_image(|path| {
        let (first, second) = (open(path), open(path));
        lock_exclusive(&first).unwrap();
        let error = lock_shared(&second).unwrap_err();
        let LockError::Held {
            holder,
            mode: LockMode::Shared,
            ..
        } = &error
        else {
            panic!("{error}")
        };
        assert_eq!(holder.pid, Some(std::process::id()));
        let start = format!(
            "{}: cannot be locked for reading: it is in use by process {} (",
            path.display(),
            std::process::id()
        );
        assert!(error.to_string().starts_with(&start), "{error}");
    });
}

#[test]
fn somebody_who_writes_a_base_is_refused_whichever_byte_says_so() {
    with_image(|path| {
        let base = open_for_reading(path);
        // 101 writes, 103 resizes, 200 lets nobody read.
        for offset in [101, 103, 200] {
            let other = open(path);
            set(&other, LockMode::Shared, byte(offset)).unwrap();
            assert!(
                matches!(lock_raw_base(&base), Err(LockError::Held { .. })),
                "byte {offset}"
            );
            // Nothing of the failed try is left.
            let left = conflict(&other, LockMode::Exclusive, super::WHOLE_FILE).unwrap();
            assert!(left.is_none(), "byte {offset}");
        }
        // 100 reads, 102 writes what is there already, 201 and 203 let nobody write or resize.
        let other = open(path);
        for offset in [100, 102, 201, 203] {
            set(&other, LockMode::Shared, byte(offset)).unwrap();
        }
        lock_raw_base(&base).unwrap();
    });
}

#[test]
fn the_bytes_that_a_base_locks_are_those_of_qemu() {
    with_image(|path| {
        let (base, other) = (open_for_reading(path), open(path));
        lock_raw_base(&base).unwrap();
        let locked = |offset| {
            conflict(&other, LockMode::Exclusive, byte(offset))
                .unwrap()
                .is_some()
        };
        let bytes: Vec<_> = (0..300).filter(|&offset| locked(offset)).collect();
        assert_eq!(bytes, [0, 100, 201, 203]);
    });
}

#[test]
fn waiting_for_a_lock_ends_when_it_is_free_or_patience_is_over() {
    with_image(|path| {
        let (first, second) = (open(path), open(path));
        lock_exclusive(&first).unwrap();
        let impatient = patiently(std::time::Duration::ZERO, &second, lock_raw_base);
        assert!(matches!(impatient, Err(LockError::Held { .. })));
        let waiter = std::thread::spawn(move || {
            patiently(std::time::Duration::from_secs(600), &second, lock_shared)
        });
        drop(first);
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn a_lock_ends_with_its_file_even_if_a_child_still_has_the_descriptor() {
    with_image(|path| {
        let first = open(path);
        lock_exclusive(&first).unwrap();
        // What a child has between its fork and its exec.
        let inherited = first.as_fd().try_clone_to_owned().unwrap();
        drop(first);
        lock_exclusive(&open(path)).unwrap();
        drop(inherited);
    });
}

#[test]
fn locks_are_not_inherited_by_programs_that_are_started() {
    with_image(|path| {
        let first = open(path);
        lock_exclusive(&first).unwrap();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        drop(first);
        lock_exclusive(&open(path)).unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    });
}

/// QEMU's tools if they are installed. Where tests must be complete (`CI=true`), missing them is a failure.
fn qemu_tool(name: &str) -> Option<Command> {
    let found = Command::new(name).arg("--version").output().is_ok();
    if found {
        return Some(Command::new(name));
    }
    not_tested("what QEMU does", &format!("{name} is not installed"));
    None
}

fn run(mut command: Command, arguments: &[&str], path: &Path) -> Output {
    command.args(arguments).arg(path).output().unwrap()
}

fn refused_for_its_lock(output: &Output) -> bool {
    !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("lock")
}

#[test]
fn qemu_reads_a_base_in_use_but_does_not_write_it() {
    with_image(|path| {
        let (Some(info), Some(map)) = (qemu_tool("qemu-img"), qemu_tool("qemu-img")) else {
            return;
        };
        let (Some(read), Some(write)) = (qemu_tool("qemu-io"), qemu_tool("qemu-io")) else {
            return;
        };
        let Some(mut resize) = qemu_tool("qemu-img") else {
            return;
        };
        let base = open_for_reading(path);
        lock_raw_base(&base).unwrap();
        assert!(run(info, &["info", "-f", "raw"], path).status.success());
        assert!(run(map, &["map", "-f", "raw"], path).status.success());
        assert!(
            run(read, &["-r", "-f", "raw", "-c", "read 0 512"], path)
                .status
                .success()
        );

        let output = run(write, &["-f", "raw", "-c", "write -P 1 0 512"], path);
        assert!(refused_for_its_lock(&output), "{output:?}");
        let output = resize
            .args(["resize", "-f", "raw"])
            .arg(path)
            .arg("2M")
            .output()
            .unwrap();
        assert!(refused_for_its_lock(&output), "{output:?}");
        assert_eq!(fs::read(path).unwrap(), vec![0; 1 << 20]);

        drop(base);
        let write = qemu_tool("qemu-io").unwrap();
        assert!(
            run(write, &["-f", "raw", "-c", "write -P 1 0 512"], path)
                .status
                .success()
        );
        assert_eq!(fs::read(path).unwrap()[..512], [1; 512]);
    });
}

/// A `qemu-io` that has the file open and waits for commands.
struct OpenInQemu {
    child: Child,
}

impl OpenInQemu {
    fn start(mut command: Command, arguments: &[&str], path: &Path) -> Self {
        let mut child = command
            .args(arguments)
            .args(["-f", "raw"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Its answer to a command says that the file is open.
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(b"length\n")
            .unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("1 MiB")));
        Self { child }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

#[test]
fn a_base_that_qemu_writes_is_refused_and_one_that_it_reads_is_not() {
    with_image(|path| {
        let (Some(writer), Some(reader)) = (qemu_tool("qemu-io"), qemu_tool("qemu-io")) else {
            return;
        };
        let base = open_for_reading(path);
        let writer = OpenInQemu::start(writer, &[], path);
        let error = lock_raw_base(&base).unwrap_err();
        let LockError::Held { holder, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(holder.pid, Some(writer.pid()));
        assert_eq!(holder.program.as_deref(), Some("qemu-io"));
        writer.end();
        let reader = OpenInQemu::start(reader, &["-r"], path);
        lock_raw_base(&base).unwrap();
        reader.end();
    });
}

#[test]
fn qemu_leaves_an_image_of_ours_alone() {
    with_image(|path| {
        let (Some(write), Some(read)) = (qemu_tool("qemu-io"), qemu_tool("qemu-io")) else {
            return;
        };
        let image = open(path);
        lock_exclusive(&image).unwrap();
        let output = run(write, &["-f", "raw", "-c", "write -P 1 0 512"], path);
        assert!(refused_for_its_lock(&output), "{output:?}");
        let output = run(read, &["-r", "-f", "raw", "-c", "read 0 512"], path);
        assert!(refused_for_its_lock(&output), "{output:?}");
    });
}

#[test]
fn a_lock_on_a_path_that_is_gone_still_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("image");
    fs::write(&path, b"").unwrap();
    let (first, second) = (open(&path), open(&path));
    fs::remove_file(&path).unwrap();
    lock_exclusive(&first).unwrap();
    let message = lock_exclusive(&second).unwrap_err().to_string();
    assert!(
        message.starts_with(&format!("{}: ", path.display())),
        "{message}"
    );
}
