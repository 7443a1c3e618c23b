//! Where two disks differ.

use super::*;

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
