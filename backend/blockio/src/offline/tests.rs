//! Whole disks on real files, compared with what they must show.

mod commit;
mod convert;
mod diff;
mod everything;
mod rebase;

use std::fs;
use std::path::{Path, PathBuf};

use dscow::engine::Token;
use dscow::units::{BlockSize, DiskRange};
use tempfile::TempDir;

use super::session::Session;
use super::*;
use crate::buffer::AlignedBuf;
use crate::image::{CreateOptions, Image, ImageAccess, ImageError, ParentFormat, check, create};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const DETECT: ParentFormat = ParentFormat::Detect;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A raw file with these ranges (start, length, byte) of data and the rest holes.
    fn raw(&self, name: &str, size: u64, data: &[(u64, usize, u8)]) -> PathBuf {
        use std::os::unix::fs::FileExt;
        let path = self.path(name);
        let file = fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        for (start, len, byte) in data {
            file.write_all_at(&vec![*byte; *len], *start).unwrap();
        }
        path
    }

    fn overlay(&self, name: &str, base: &Path, size: Option<u64>, block_size: u64) -> PathBuf {
        let path = self.path(name);
        let options = CreateOptions {
            base: Some(base.to_owned()),
            size,
            block_size: BlockSize::from_bytes(block_size).unwrap(),
            ..CreateOptions::default()
        };
        create(&path, &options).unwrap();
        path
    }
}

/// Writes ranges (start, length, byte) to an image, and closes it.
fn write(path: &Path, data: &[(u64, usize, u8)]) {
    let image = Image::open(path, ImageAccess::Writable).unwrap();
    let mut session = Session::new().unwrap();
    let member = session.join(Volume::of_image(image)).unwrap();
    for (start, len, byte) in data {
        let buffer = AlignedBuf::from_slice(&vec![*byte; *len]).into_buffer();
        let range = DiskRange::new(*start, *len as u64);
        session.write(member, Token(1), range, &buffer);
        assert!(session.wait().unwrap().remove(0).result.is_ok());
    }
    session.close(member).unwrap();
}

/// Makes the disk of an image larger.
fn grow(path: &Path, size: u64) {
    let image = Image::open(path, ImageAccess::Writable).unwrap();
    let mut session = Session::new().unwrap();
    let member = session.join(Volume::of_image(image)).unwrap();
    session.grow(member, size).unwrap();
    session.close(member).unwrap();
}

/// All that a disk shows.
fn content(path: &Path) -> Vec<u8> {
    let mut session = Session::new().unwrap();
    let member = session.join(Volume::open(path, DETECT).unwrap()).unwrap();
    let size = session.size(member);
    let buffer = AlignedBuf::zeroed(usize::try_from(size).unwrap()).into_buffer();
    session.read(member, Token(1), DiskRange::new(0, size), &buffer);
    assert!(session.wait().unwrap().remove(0).result.is_ok());
    buffer.to_vec()
}

fn allocated(path: &Path) -> u64 {
    let report = check(path).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.closed_cleanly);
    report.allocated_blocks
}

fn message(error: &ImageError, folder: &Folder) -> String {
    let folder = folder.0.path().to_str().unwrap();
    error.to_string().replace(folder, "DIR")
}

fn differences(one: &Path, other: &Path, comparison: Comparison) -> Vec<(u64, u64, bool)> {
    let mut found = Vec::new();
    diff(
        (one, DETECT),
        (other, DETECT),
        comparison,
        &mut Silent,
        &mut |difference| {
            let Difference { range, zero } = difference;
            found.push((range.start.0 / KIB, range.len / KIB, zero));
            Ok(())
        },
    )
    .unwrap();
    found
}

fn to_raw(source: &Path, target: &Path) -> Converted {
    let raw = Target::Raw { force: false };
    convert((source, DETECT), target, &raw, true, &mut Silent).unwrap()
}

fn to_dscow(source: &Path, target: &Path, base: Option<&Path>, block_size: u64) -> Converted {
    let options = CreateOptions {
        base: base.map(Path::to_owned),
        block_size: BlockSize::from_bytes(block_size).unwrap(),
        ..CreateOptions::default()
    };
    let target_kind = Target::Dscow(options);
    convert((source, DETECT), target, &target_kind, true, &mut Silent).unwrap()
}

/// An overlay that is smaller than its base hides the rest of it, also when it has grown.
fn grown_over_a_larger_base(folder: &Folder, name: &str, base: &Path) -> PathBuf {
    let top = folder.overlay(name, base, Some(MIB + 512), 4096);
    grow(&top, 3 * MIB);
    write(&top, &[(2 * MIB, 4096, 7)]);
    let mut expected = vec![1; 3 << 20];
    expected[(1 << 20) + 512..].fill(0);
    expected[2 << 20..(2 << 20) + 4096].fill(7);
    assert_eq!(content(&top), expected);
    top
}
