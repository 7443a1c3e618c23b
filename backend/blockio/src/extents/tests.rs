//! Extents of real chains on real file systems.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dscow::engine::OnNoSpace;
use tempfile::TempDir;

use super::*;
use crate::image::{CreateOptions, Image, ImageAccess, create};
use crate::testing::directories;

const MIB: u64 = 1 << 20;

/// A raw base of 4 MiB with data in its first MiB only, and two images over it.
fn chain(folder: &TempDir) -> PathBuf {
    let path = |name: &str| folder.path().join(name);
    let base = fs::File::create(path("base.img")).unwrap();
    base.set_len(4 * MIB).unwrap();
    base.write_all_at(&[1; 1 << 20], 0).unwrap();
    for (name, below) in [("mid.cow", "base.img"), ("top.cow", "mid.cow")] {
        let options = CreateOptions {
            base: Some(path(below)),
            ..CreateOptions::default()
        };
        create(&path(name), &options).unwrap();
    }
    path("top.cow")
}

/// Depth (-1 if nobody), start in KiB, length in KiB, zero.
fn extents(path: &Path, range: DiskRange) -> Vec<(isize, u64, u64, bool)> {
    let (engine, files) = Image::open(path, ImageAccess::ReadOnly)
        .unwrap()
        .into_engine(OnNoSpace::Report);
    DiskMap::of_engine(&engine, &files)
        .extents(range)
        .map(|extent| {
            let DiskExtent { range, zero, .. } = extent.as_ref().unwrap();
            let depth = extent.as_ref().unwrap().depth();
            let depth = depth.map_or(-1, |depth| isize::try_from(depth).unwrap());
            (depth, range.start.0 >> 10, range.len >> 10, *zero)
        })
        .collect()
}

/// Marks blocks as allocated in an image that was never written, and puts data into some of them.
fn allocate(path: &Path, allocated: &[u64], with_data: &[u64]) {
    let image = Image::open(path, ImageAccess::ReadOnly).unwrap();
    let mut header = image.header().clone();
    let layout = header.layout;
    let mut bitmap = dscow::bitmap::Bitmap::empty(&layout).unwrap();
    for block in allocated {
        bitmap.set(dscow::units::BlockIndex(*block));
    }
    let bitmap_crc = bitmap.crc();
    header.state = dscow::header::State::Clean { bitmap_crc };
    drop(image);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bitmap.used_bytes(), layout.bitmap_offset().0)
        .unwrap();
    for block in with_data {
        file.write_all_at(&[7; 4096], layout.data_offset().0 + block * 4096)
            .unwrap();
    }
    file.write_all_at(&header.encode()[..], 0).unwrap();
}

#[test]
fn each_extent_names_its_holder_and_whether_it_is_a_hole() {
    for folder in directories() {
        let top = chain(&folder);
        // The parent's generation stays, so the child still opens.
        allocate(&folder.path().join("mid.cow"), &[1, 2, 512], &[1, 2]);
        allocate(&top, &[2, 3, 4, 1023], &[2, 4]);
        assert_eq!(
            extents(&top, DiskRange::new(0, 4 * MIB)),
            [
                (2, 0, 4, false),
                (1, 4, 4, false),
                (0, 8, 4, false),
                (0, 12, 4, true),
                (0, 16, 4, false),
                (2, 20, 1004, false),
                (2, 1024, 1024, true),
                (1, 2048, 4, true),
                (2, 2052, 2040, true),
                (0, 4092, 4, true),
            ]
        );
    }
}

#[test]
fn a_range_is_cut_where_it_was_asked_to_be() {
    let folder = TempDir::new().unwrap();
    let top = chain(&folder);
    assert_eq!(
        extents(&top, DiskRange::new(MIB - 1024, 2048)),
        [(2, 1023, 1, false), (2, 1024, 1, true)]
    );
}

#[test]
fn past_the_end_of_the_base_nobody_holds_anything() {
    let folder = TempDir::new().unwrap();
    let base = folder.path().join("base.img");
    fs::write(&base, vec![1; 1 << 20]).unwrap();
    let path = folder.path().join("long.cow");
    let options = CreateOptions {
        base: Some(base),
        size: Some(2 * MIB),
        ..CreateOptions::default()
    };
    create(&path, &options).unwrap();
    assert_eq!(
        extents(&path, DiskRange::new(0, 2 * MIB)),
        [(1, 0, 1024, false), (-1, 1024, 1024, true)]
    );
}

#[test]
fn a_raw_file_is_its_own_holder() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("raw.img");
    let file = fs::File::create(&path).unwrap();
    file.set_len(3 * MIB).unwrap();
    file.write_all_at(&[1; 1 << 20], MIB).unwrap();
    let file = BlockFile::open(
        &path,
        crate::file::Access::ReadOnly,
        crate::file::Caching::Buffered,
    );
    let file = Arc::new(file.unwrap());
    let found: Vec<_> = DiskMap::of_raw(&file)
        .extents(DiskRange::new(0, 3 * MIB))
        .map(|extent| extent.map(|e| (e.range.start.0 / MIB, e.range.len / MIB, e.zero)))
        .collect::<io::Result<_>>()
        .unwrap();
    assert_eq!(found, [(0, 1, true), (1, 1, false), (2, 1, true)]);
}
