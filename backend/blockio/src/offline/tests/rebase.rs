//! Another base, and the same disk.

use super::*;
use crate::testing::Mounted;

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
