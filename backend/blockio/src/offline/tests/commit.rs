//! What an overlay holds, moved to its base.

use super::*;
use crate::testing::Mounted;

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
