//! Growing images on files and devices, up to the largest.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use dscow::engine::Token;
use dscow::header::{Header, State};
use dscow::layout::{Headroom, VIRTUAL_SIZE_MAX};
use dscow::units::DiskRange;
use tempfile::TempDir;

use super::*;
use crate::buffer::AlignedBuf;
use crate::image::{CreateOptions, check, create, repair};
use crate::testing::{FileSystem, LoopDevice};

const MIB: u64 = 1 << 20;

fn folder_with_image(options: &CreateOptions) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("vm.cow");
    create(&path, options).unwrap();
    (folder, path)
}

fn of_size(size: u64) -> CreateOptions {
    CreateOptions {
        size: Some(size),
        ..CreateOptions::default()
    }
}

fn refusal(path: &Path, size: u64) -> String {
    let before = fs::read(path).unwrap();
    let message = resize(path, size).unwrap_err().to_string();
    assert!(fs::read(path).unwrap() == before, "nothing has changed");
    message.replace(path.to_str().unwrap(), "IMAGE")
}

/// Does one thing with a disk, in a session of its own.
fn with_disk(path: &Path, request: impl Fn(&mut Session, super::super::session::Member)) {
    let image = Image::open(path, ImageAccess::Writable).unwrap();
    let mut session = Session::new().unwrap();
    let disk = session.join(Volume::of_image(image)).unwrap();
    request(&mut session, disk);
    session.close(disk).unwrap();
}

fn write(path: &Path, at: u64, bytes: &[u8]) {
    with_disk(path, |session, disk| {
        let buffer = AlignedBuf::from_slice(bytes).into_buffer();
        session.write(
            disk,
            Token(1),
            DiskRange::new(at, bytes.len() as u64),
            &buffer,
        );
        session.wait().unwrap().remove(0).result.unwrap();
    });
}

fn read(path: &Path, at: u64, len: usize) -> Vec<u8> {
    let buffer = AlignedBuf::zeroed(len).into_buffer();
    with_disk(path, |session, disk| {
        if session.read(disk, Token(1), DiskRange::new(at, len as u64), &buffer) {
            session.wait().unwrap().remove(0).result.unwrap();
        }
    });
    buffer.to_vec()
}

#[test]
fn a_grown_disk_holds_what_it_held_and_zeros_behind_it() {
    let folder = TempDir::new().unwrap();
    let (base, path) = (folder.path().join("base.img"), folder.path().join("vm.cow"));
    fs::write(&base, vec![0x55; 4 << 20]).unwrap();
    let options = CreateOptions {
        base: Some(base),
        ..of_size(MIB + 512)
    };
    create(&path, &options).unwrap();
    write(&path, MIB - 512, &[7; 1024]);
    let done = resize(&path, 3 * MIB).unwrap();
    assert_eq!((done.before, done.after), (MIB + 512, 3 * MIB));
    let mut expected = vec![0x55; (1 << 20) - 512];
    expected.extend([7; 1024]);
    expected.resize(3 << 20, 0);
    assert!(read(&path, 0, 3 << 20) == expected);
    let report = check(&path).unwrap();
    assert!(
        report.problems.is_empty() && report.closed_cleanly,
        "{report:?}"
    );
    resize(&path, 5 * MIB).unwrap();
    expected.resize(5 << 20, 0);
    assert!(read(&path, 0, 5 << 20) == expected);
}

#[test]
fn a_size_that_it_has_changes_nothing() {
    let (_folder, path) = folder_with_image(&of_size(MIB));
    let before = fs::read(&path).unwrap();
    resize(&path, MIB).unwrap();
    assert!(fs::read(&path).unwrap() == before);
}

#[test]
fn impossible_sizes_are_refused_with_numbers_and_advice() {
    let (_folder, path) = folder_with_image(&CreateOptions {
        headroom: Some(Headroom::UpTo(2 * 128 * MIB)),
        ..of_size(2 * MIB)
    });
    assert_eq!(
        refusal(&path, MIB),
        "IMAGE: cannot be made smaller, from 2097152 to 1048576 bytes: what its guest put at the end would be lost; \
         shrink the guest's file system and partitions, create a smaller image, and copy the disk into it"
    );
    assert_eq!(
        refusal(&path, 256 * MIB + 512),
        "IMAGE: cannot grow to 268435968 bytes: its bitmap has room for a disk of 268435456 bytes; create a larger \
         overlay on it instead: cowback create NEW --base IMAGE --size 268435968"
    );
    assert!(
        refusal(&path, 3 * MIB + 1)
            .starts_with("IMAGE: cannot be resized: virtual size 3145729 is not")
    );
    resize(&path, 256 * MIB).unwrap();
}

#[test]
fn nothing_grows_over_what_it_would_show() {
    let (_folder, path) = folder_with_image(&of_size(MIB));
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[1], 8192 + 5000).unwrap();
    assert_eq!(
        refusal(&path, 2 * MIB),
        "IMAGE: cannot grow before it is repaired: the bitmap's headroom has a bit set at byte 13192 of the file; \
         cowback check --repair IMAGE"
    );
    repair(&path).unwrap();
    resize(&path, 2 * MIB).unwrap();
}

#[test]
fn an_image_grows_as_far_as_its_device() {
    let folder = TempDir::new().unwrap();
    let backing = folder.path().join("backing");
    let file = fs::File::create(&backing).unwrap();
    file.set_len(16 * MIB).unwrap();
    let Some(device) = LoopDevice::attach(&backing, &[]) else {
        return;
    };
    create(&device.path, &of_size(10 * MIB)).unwrap();
    write(&device.path, 9 * MIB, &[9; 4096]);
    resize(&device.path, 15 * MIB).unwrap();
    let message = resize(&device.path, 20 * MIB).unwrap_err().to_string();
    assert!(
        message.ends_with(
            "the image would take 22020096 bytes (1048576 of them in front of its data), but the device has 16777216; \
             the largest disk for which it has room is one of 15728640 bytes"
        ),
        "{message}"
    );
    file.set_len(21 * MIB).unwrap();
    device.follow_size();
    resize(&device.path, 20 * MIB).unwrap();
    assert_eq!(read(&device.path, 9 * MIB, 4096), [9; 4096]);
    assert_eq!(read(&device.path, 20 * MIB - 4096, 4096), [0; 4096]);
    assert!(check(&device.path).unwrap().problems.is_empty());
}

/// From 1 GiB to 64 TiB, and a block at the very end.
fn the_largest_disk_works_in(folder: &Path) {
    let path = folder.join("vm.cow");
    let options = CreateOptions {
        headroom: Some(Headroom::UpTo(VIRTUAL_SIZE_MAX)),
        ..of_size(1 << 30)
    };
    create(&path, &options).unwrap();
    resize(&path, VIRTUAL_SIZE_MAX).unwrap();
    write(&path, VIRTUAL_SIZE_MAX - 512, &[9; 512]);
    let mut expected = vec![0; 8192];
    expected[8192 - 512..].fill(9);
    assert_eq!(read(&path, VIRTUAL_SIZE_MAX - 8192, 8192), expected);
    let report = check(&path).unwrap();
    assert!(report.problems.is_empty(), "{report:?}");
    assert_eq!(report.allocated_blocks, 1);
}

#[test]
fn a_disk_of_64_tib_works_on_file_systems_that_have_such_files() {
    if Path::new("/dev/shm").is_dir() {
        the_largest_disk_works_in(tempfile::tempdir_in("/dev/shm").unwrap().path());
    }
    if let Some(xfs) = FileSystem::mount("xfs", 512 * MIB) {
        the_largest_disk_works_in(&xfs.path());
    }
}

#[test]
fn a_file_system_without_such_files_says_so() {
    let Some(ext4) = FileSystem::mount("ext4", 64 * MIB) else {
        return;
    };
    let path = ext4.path().join("vm.cow");
    let message = create(&path, &of_size(VIRTUAL_SIZE_MAX))
        .unwrap_err()
        .to_string();
    assert!(
        message.ends_with(
            "vm.cow: its file would have to be 70370892709888 bytes long, which is more than its file system allows; \
             use another file system (XFS), a block device, or a smaller disk"
        ),
        "{message}"
    );
    assert!(!path.exists());
    let options = CreateOptions {
        headroom: Some(Headroom::UpTo(VIRTUAL_SIZE_MAX)),
        ..of_size(MIB)
    };
    create(&path, &options).unwrap();
    let message = resize(&path, VIRTUAL_SIZE_MAX).unwrap_err().to_string();
    assert!(
        message.contains("more than its file system allows"),
        "{message}"
    );
    assert!(check(&path).unwrap().problems.is_empty());
}

/// The state between the two steps that a crash can leave: the file is longer and the header is the old one.
#[test]
fn an_interrupted_growth_is_an_image_that_can_grow() {
    let (_folder, path) = folder_with_image(&of_size(MIB));
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut slot = [0; 4096];
    file.read_exact_at(&mut slot, 0).unwrap();
    let header = Header::decode(&slot).unwrap();
    file.set_len(header.layout.file_len() + MIB).unwrap();
    let in_use = Header {
        sequence: header.sequence + 1,
        state: State::InUse {
            owner: uuid::Uuid::nil(),
        },
        ..header
    };
    file.write_all_at(&in_use.encode()[..], 4096).unwrap();
    assert!(check(&path).unwrap().problems.is_empty());
    resize(&path, 2 * MIB).unwrap();
    assert!(check(&path).unwrap().closed_cleanly);
}
