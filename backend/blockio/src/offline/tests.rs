//! Whole disks on real files, compared with what they must show.

use std::fs;
use std::path::{Path, PathBuf};

use dscow::engine::Token;
use dscow::units::{BlockSize, DiskRange};
use proptest::prelude::*;
use tempfile::TempDir;

use super::session::Session;
use super::*;
use crate::buffer::AlignedBuf;
use crate::image::{CreateOptions, Image, ImageAccess, ImageError, ParentFormat, check, create};
use crate::testing::{LoopDevice, Mounted};

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

#[test]
fn a_rebase_copies_what_differs_and_nothing_else() {
    let folder = Folder::new();
    let old = folder.raw("old.img", 4 * MIB, &[(0, 1 << 20, 1), (2 << 20, 8192, 2)]);
    let mut bytes = fs::read(&old).unwrap();
    // Differs in two blocks that the overlay does not hold, one of which is zeros in the old one, and in one it holds.
    bytes[8192] = 99;
    bytes[3 << 20] = 99;
    bytes[(2 << 20) + 5000] = 99;
    let new = folder.path("new.img");
    fs::write(&new, bytes).unwrap();
    let top = folder.overlay("top.cow", &old, None, 4096);
    write(&top, &[(2 << 20, 8192, 7)]);
    let before = content(&top);
    let rebased = rebase(&top, Some((&new, DETECT)), &mut Silent).unwrap();
    assert_eq!(rebased.copied_bytes, 2 * 4096);
    assert_eq!(content(&top), before);
    assert_eq!(allocated(&top), 4);
    let image = Image::open(&top, ImageAccess::ReadOnly).unwrap();
    assert_eq!(image.below()[0].path(), new);
}

#[test]
fn a_rebase_within_a_chain_reads_only_what_is_not_shared() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 64 * MIB, &[(0, 32 << 20, 1)]);
    let mid = folder.overlay("mid.cow", &base, None, 4096);
    write(&mid, &[(MIB, 4096, 2), (5 * MIB, 512, 3)]);
    let top = folder.overlay("top.cow", &mid, None, 64 << 10);
    write(&top, &[(MIB, 4096, 9)]);
    let before = content(&top);
    let rebased = rebase(&top, Some((&base, DETECT)), &mut Silent).unwrap();
    // The block at 1 MiB is held; that at 5 MiB is read and copied, in the overlay's size.
    assert_eq!(
        rebased,
        Rebased {
            compared_bytes: 64 << 10,
            copied_bytes: 64 << 10
        }
    );
    assert_eq!(content(&top), before);
    assert_eq!(allocated(&top), 2);
}

#[test]
fn without_a_base_everything_is_copied_but_zeros() {
    let folder = Folder::new();
    let base = folder.raw(
        "base.img",
        4 * MIB + 512,
        &[(0, 1 << 20, 1), (4 << 20, 512, 4)],
    );
    let top = folder.overlay("top.cow", &base, Some(6 * MIB), 4096);
    write(&top, &[(5 * MIB, 512, 7)]);
    let before = content(&top);
    rebase(&top, None, &mut Silent).unwrap();
    fs::remove_file(&base).unwrap();
    assert_eq!(content(&top), before);
    assert_eq!(allocated(&top), 256 + 2);
}

#[test]
fn a_rebase_that_finds_no_space_leaves_a_clean_image() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 4 << 20, 1)]);
    let place = folder.path("small");
    fs::create_dir(&place).unwrap();
    let Some(_mounted) = Mounted::in_memory("tmpfs", "size=2m", &place) else {
        return;
    };
    let top = folder.overlay("small/top.cow", &base, None, 4096);
    // There is storage for the one page of its bitmap then.
    write(&top, &[(0, 4096, 7)]);
    let before = content(&top);
    let error = rebase(&top, None, &mut Silent).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    // Closed, and no storage is lost: both are checked.
    assert!(allocated(&top) > 1);
    assert!(content(&top) == before);
}

#[test]
fn a_batch_of_ranges_may_end_inside_a_block() {
    const BLOCK: u64 = 8192;
    let folder = Folder::new();
    // A block of data, and then half a block by turns: the 4096th range is a hole that ends inside a block.
    let halves = (1..2100).map(|i| (i * BLOCK + BLOCK / 2, 4096, 2));
    let data: Vec<_> = [(0, 8192, 1)].into_iter().chain(halves).collect();
    let base = folder.raw("base.img", 2100 * BLOCK, &data);
    let top = folder.overlay("top.cow", &base, None, BLOCK);
    let before = content(&top);
    rebase(&top, None, &mut Silent).unwrap();
    assert!(content(&top) == before);
    assert_eq!(allocated(&top), 2100);
}

#[test]
fn an_image_cannot_be_its_own_base() {
    let folder = Folder::new();
    let base = folder.raw("base.img", MIB, &[]);
    let top = folder.overlay("top.cow", &base, None, 4096);
    let upper = folder.overlay("upper.cow", &top, None, 4096);
    for base in [&top, &upper] {
        let error = rebase(&top, Some((base, DETECT)), &mut Silent).unwrap_err();
        assert_eq!(message(&error, &folder), "DIR/top.cow: is its own base");
    }
}

#[test]
fn a_commit_moves_everything_into_a_raw_base() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 4 << 20, 1)]);
    let top = folder.overlay("top.cow", &base, Some(6 * MIB), 4096);
    write(&top, &[(512, 8192, 7), (3 * MIB, 2 << 20, 8)]);
    let before = content(&top);
    let committed = commit(&top, &mut Silent).unwrap();
    assert_eq!(committed.written_bytes, 3 * 4096 + 2 * MIB);
    assert_eq!(fs::read(&base).unwrap(), before);
    assert_eq!(content(&top), before);
    assert_eq!(allocated(&top), 0);
    let image = Image::open(&top, ImageAccess::Writable).unwrap();
    assert!(image.file().allocated_bytes().unwrap() <= 16384);
}

#[test]
fn a_commit_writes_no_zeros_where_storage_cannot_be_given_back() {
    use std::os::unix::fs::MetadataExt;
    let folder = Folder::new();
    let base = folder.raw("base.img", 64 * MIB, &[]);
    let place = folder.path("ramfs");
    fs::create_dir(&place).unwrap();
    let Some(_mounted) = Mounted::in_memory("ramfs", "mode=700", &place) else {
        return;
    };
    let top = folder.overlay("ramfs/top.cow", &base, None, 4096);
    write(&top, &[(0, 4096, 7)]);
    let before = content(&top);
    commit(&top, &mut Silent).unwrap();
    assert_eq!(content(&top), before);
    let taken = fs::metadata(&top).unwrap().blocks() * 512;
    assert!(taken < MIB, "{taken}");
}

#[test]
fn a_commit_into_an_image_keeps_what_lies_below() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 4 << 20, 1)]);
    let bytes_of_base = fs::read(&base).unwrap();
    let mid = folder.overlay("mid.cow", &base, None, 64 << 10);
    write(&mid, &[(MIB, 4096, 2)]);
    let top = folder.overlay("top.cow", &mid, None, 4096);
    write(&top, &[(MIB + 4096, 4096, 3), (2 * MIB, 512, 4)]);
    // An image above does not notice.
    let upper = folder.overlay("upper.cow", &top, None, 4096);
    let before = content(&top);
    commit(&top, &mut Silent).unwrap();
    for path in [&top, &mid, &upper] {
        assert_eq!(content(path), before);
    }
    assert_eq!((allocated(&top), allocated(&mid)), (0, 2));
    assert_eq!(fs::read(&base).unwrap(), bytes_of_base);
}

#[test]
fn a_commit_refuses_to_break_another_image() {
    let folder = Folder::new();
    let base = folder.raw("base.img", MIB, &[]);
    let top = folder.overlay("top.cow", &base, None, 4096);
    let other = folder.overlay("other.cow", &base, None, 4096);
    let error = commit(&top, &mut Silent).unwrap_err();
    let expected = "DIR/base.img: is the base of DIR/other.cow too, ";
    assert!(message(&error, &folder).starts_with(expected), "{error}");
    assert_eq!(content(&other), content(&base));
    let alone = folder.path("alone.cow");
    let options = CreateOptions {
        size: Some(MIB),
        ..CreateOptions::default()
    };
    create(&alone, &options).unwrap();
    let error = commit(&alone, &mut Silent).unwrap_err();
    assert_eq!(message(&error, &folder), "DIR/alone.cow: has no base");
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

#[test]
fn what_an_overlay_hides_of_a_raw_base_is_zeros_after_a_commit() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 4 << 20, 1)]);
    let top = grown_over_a_larger_base(&folder, "top.cow", &base);
    let before = content(&top);
    commit(&top, &mut Silent).unwrap();
    assert_eq!(content(&top), before);
    let base = fs::read(&base).unwrap();
    assert_eq!(base[..3 << 20], before);
    assert_eq!(base[3 << 20..], [1; 1 << 20]);
}

#[test]
fn what_an_overlay_hides_of_an_image_is_zeros_after_a_commit() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 4 << 20, 1)]);
    let mid = folder.overlay("mid.cow", &base, None, 64 << 10);
    let top = grown_over_a_larger_base(&folder, "top.cow", &mid);
    let before = content(&top);
    commit(&top, &mut Silent).unwrap();
    assert_eq!(content(&top), before);
    assert_eq!(content(&mid)[..3 << 20], before);
    assert_eq!(content(&mid)[3 << 20..], [1; 1 << 20]);
}

#[test]
fn a_rebase_keeps_what_is_hidden() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 4 << 20, 1)]);
    let other = folder.raw(
        "other.img",
        4 * MIB,
        &[(0, 1 << 20, 1), (1 << 20, 3 << 20, 2)],
    );
    let top = grown_over_a_larger_base(&folder, "top.cow", &base);
    let before = content(&top);
    let rebased = rebase(&top, Some((&other, DETECT)), &mut Silent).unwrap();
    assert_eq!(content(&top), before);
    // The block of which 512 bytes show.
    assert_eq!(rebased.copied_bytes, 4096);
    rebase(&top, None, &mut Silent).unwrap();
    assert_eq!(content(&top), before);
}

#[test]
fn a_base_that_is_shorter_grows_with_a_commit() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 4 << 20, 1)]);
    // The one in the middle hides the end of the base; growing must not bring it back.
    let mid = folder.overlay("mid.cow", &base, Some(2 * MIB), 4096);
    let top = folder.overlay("top.cow", &mid, Some(5 * MIB), 4096);
    write(&top, &[(4 * MIB, 4096, 7)]);
    let before = content(&top);
    commit(&top, &mut Silent).unwrap();
    assert_eq!(content(&mid), before);
    assert_eq!(content(&top), before);
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

#[test]
fn a_chain_is_flattened_into_a_sparse_raw_file_and_back() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 64 * MIB, &[(0, 1 << 20, 1)]);
    let top = folder.overlay("top.cow", &base, Some(64 * MIB + 512), 4096);
    // Among the data are a block of zeros, and one that is not all zeros.
    write(
        &top,
        &[
            (512 << 10, 8192, 0),
            (64 * MIB, 512, 9),
            (32 * MIB + 512, 512, 5),
        ],
    );
    let before = content(&top);
    let raw = folder.path("flat.img");
    let converted = to_raw(&top, &raw);
    assert_eq!(converted.virtual_size, 64 * MIB + 512);
    assert_eq!(converted.written_bytes, MIB - 8192 + 4096 + 512);
    assert_eq!(fs::read(&raw).unwrap(), before);
    let image = folder.path("flat.cow");
    to_dscow(&raw, &image, None, 64 << 10);
    assert_eq!(content(&image), before);
    // All 16 blocks of the first MiB have data, and two more.
    assert_eq!(allocated(&image), 18);
    let file = Image::open(&raw, ImageAccess::ReadOnly);
    assert!(file.is_err_and(|error| matches!(error, ImageError::NotAnImage(_))));
    use std::os::unix::fs::MetadataExt;
    assert!(fs::metadata(&raw).unwrap().blocks() * 512 < 2 * MIB);
}

#[test]
fn over_a_base_only_what_differs_is_held() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 2 << 20, 1)]);
    let mut bytes = fs::read(&base).unwrap();
    bytes[5000] = 9;
    bytes[1 << 20..(1 << 20) + 4096].fill(0);
    let full = folder.path("full.img");
    fs::write(&full, &bytes).unwrap();
    let thin = folder.path("thin.cow");
    to_dscow(&full, &thin, Some(&base), 4096);
    assert_eq!(content(&thin), bytes);
    assert_eq!(allocated(&thin), 2);
    // A chain is shortened without reading what stays.
    let top = folder.overlay("top.cow", &thin, None, 4096);
    write(&top, &[(3 * MIB, 4096, 3)]);
    let short = folder.path("short.cow");
    let converted = to_dscow(&top, &short, Some(&base), 4096);
    assert_eq!(
        (converted.read_bytes, converted.written_bytes),
        (3 * 4096, 3 * 4096)
    );
    assert_eq!(content(&short), content(&top));
}

#[test]
fn nothing_that_exists_is_replaced_and_nothing_is_left_of_a_failure() {
    let folder = Folder::new();
    let base = folder.raw("base.img", MIB, &[(0, 4096, 1)]);
    let raw = Target::Raw { force: true };
    let error = convert((&base, DETECT), &base, &raw, true, &mut Silent).unwrap_err();
    assert_eq!(message(&error, &folder), "DIR/base.img: exists already");
    let new = folder.path("new.cow");
    let options = CreateOptions {
        base: Some(folder.path("none.img")),
        ..CreateOptions::default()
    };
    let dscow = Target::Dscow(options);
    let error = convert((&base, DETECT), &new, &dscow, true, &mut Silent).unwrap_err();
    assert_eq!(message(&error, &folder), "DIR/none.img: does not exist");
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 1);
}

#[test]
fn a_raw_disk_on_a_device_has_zeros_where_the_source_has_none() {
    // Also where the disk ends inside a sector of the device.
    for sector_size in ["512", "4096"] {
        convert_to_device(&["--sector-size", sector_size]);
    }
}

fn convert_to_device(options: &[&str]) {
    let folder = Folder::new();
    let backing = folder.raw("backing", 4 * MIB, &[(MIB, 3 << 20, 0xee)]);
    let Some(device) = LoopDevice::attach(&backing, options) else {
        return;
    };
    let empty = folder.raw("empty.img", MIB + 512, &[]);
    to_raw(&empty, &device.path);
    let on_device = fs::read(&device.path).unwrap();
    assert!(on_device[..1 << 20 | 512].iter().all(|byte| *byte == 0));
    assert!(on_device[1 << 20 | 512..].iter().all(|byte| *byte == 0xee));
    let source = folder.raw(
        "source.img",
        3 * MIB + 512,
        &[(0, 4096, 1), (2 << 20, 4096, 2)],
    );
    to_raw(&source, &device.path);
    let on_device = fs::read(&device.path).unwrap();
    assert_eq!(on_device[..3 << 20 | 512], fs::read(&source).unwrap());
    assert!(on_device[3 << 20 | 512..].iter().all(|byte| *byte == 0xee));
    let large = folder.raw("large.img", 5 * MIB, &[]);
    let raw = Target::Raw { force: true };
    let error = convert((&large, DETECT), &device.path, &raw, true, &mut Silent).unwrap_err();
    let message = message(&error, &folder);
    assert!(
        message.ends_with(": holds 4194304 bytes, but 5242880 are needed"),
        "{message}"
    );
    let raw = Target::Raw { force: false };
    convert((&source, DETECT), &device.path, &raw, true, &mut Silent).unwrap_err();
}

#[test]
fn differences_are_found_by_holders_and_by_content() {
    let folder = Folder::new();
    let base = folder.raw("base.img", 4 * MIB, &[(0, 1 << 20, 1)]);
    let one = folder.overlay("one.cow", &base, None, 4096);
    let other = folder.overlay("other.cow", &base, None, 4096);
    // The second block is the same as in the base, and the blocks at 8 KiB are the same in both.
    write(
        &one,
        &[
            (0, 8192, 9),
            (4096, 4096, 1),
            (8192, 4096, 5),
            (MIB, 4096, 0),
        ],
    );
    write(&other, &[(8192, 4096, 5), (3 * MIB, 8192, 6)]);
    assert_eq!(
        differences(&one, &base, Comparison::Holders),
        [(0, 12, false), (1024, 4, false)]
    );
    assert_eq!(
        differences(&one, &base, Comparison::Content),
        [(0, 4, false), (8, 4, false)]
    );
    assert_eq!(
        differences(&one, &other, Comparison::Holders),
        [(0, 12, false), (1024, 4, false), (3072, 8, true)]
    );
    assert_eq!(
        differences(&one, &other, Comparison::Content),
        [(0, 4, false), (3072, 8, true)]
    );
    assert_eq!(differences(&base, &base, Comparison::Holders), []);
}

#[test]
fn the_shorter_disk_goes_on_in_zeros() {
    let folder = Folder::new();
    let short = folder.raw("short.img", MIB, &[(0, 4096, 1)]);
    let long = folder.raw("long.img", 3 * MIB, &[(0, 4096, 1), (2 << 20, 4096, 2)]);
    for (one, other, zero) in [(&short, &long, true), (&long, &short, false)] {
        assert_eq!(
            differences(one, other, Comparison::Content),
            [(2048, 4, zero)]
        );
    }
}

/// What is written to an image: start, length, byte; zeros are common.
fn writes() -> impl Strategy<Value = Vec<(u64, usize, u8)>> {
    let write = (0..4000_u64, 1..200_usize, 0..4_u8);
    proptest::collection::vec(
        write.prop_map(|(start, len, byte)| (start * 512, len * 512, byte)),
        0..6,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_an_image_shows_survives_everything(
        low in writes(),
        middle in writes(),
        high in writes(),
        other in writes(),
        shifts in [12..18_u32, 12..18_u32, 12..18_u32],
    ) {
        let folder = Folder::new();
        let base = folder.raw("base.img", 2 * MIB + 1536, &low);
        let size = fs::metadata(&base).unwrap().len().max(2_151_424);
        let base_bytes = content(&base);
        let another = folder.path("another.img");
        fs::write(&another, &base_bytes).unwrap();
        let block = |i: usize| 1 << shifts[i];
        let mid = folder.overlay("mid.cow", &base, Some(size + 512), block(0));
        write(&mid, &middle);
        let top = folder.overlay("top.cow", &mid, Some(size + 1024), block(1));
        write(&top, &high);
        let new = folder.overlay("new.cow", &another, Some(size), block(2));
        write(&new, &other);
        let before = content(&top);

        let thin = folder.path("thin.cow");
        to_dscow(&top, &thin, Some(&new), block(2));
        prop_assert_eq!(&content(&thin), &before);
        let flat = folder.path("flat.img");
        to_raw(&thin, &flat);
        prop_assert_eq!(&content(&flat), &before);

        let mut by_content = vec![false; before.len() / 512];
        let other_bytes = content(&new);
        diff((&top, DETECT), (&new, DETECT), Comparison::Content, &mut Silent, &mut |found| {
            let sectors = found.range.start.0 / 512..found.range.end() / 512;
            for sector in sectors {
                by_content[usize::try_from(sector).unwrap()] = true;
            }
            Ok(())
        }).unwrap();
        for (sector, bytes) in before.chunks(512).enumerate() {
            let there = other_bytes.get(sector * 512..sector * 512 + 512).unwrap_or(&[0; 512]);
            prop_assert!(by_content[sector] || bytes == there, "sector {sector}");
        }

        rebase(&top, Some((&new, DETECT)), &mut Silent).unwrap();
        prop_assert_eq!(&content(&top), &before);
        rebase(&top, Some((&mid, DETECT)), &mut Silent).unwrap();
        prop_assert_eq!(&content(&top), &before);
        rebase(&top, Some((&base, DETECT)), &mut Silent).unwrap();
        prop_assert_eq!(&content(&top), &before);
        fs::remove_file(&mid).unwrap();
        commit(&top, &mut Silent).unwrap();
        prop_assert_eq!(&content(&top), &before);
        prop_assert_eq!(&content(&base), &before);
        prop_assert_eq!(allocated(&top), 0);
    }
}
