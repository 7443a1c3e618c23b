//! `cowback` killed before every one of its writes and syncs in turn: each image is valid then and shows what it did, and
//! the same command, given again, ends as if nothing had happened.
//!
//! `strace` kills: it delivers SIGKILL at the n-th call of a kind, for n = 1, 2, ... until the command gets through. Once
//! as it is, where the kernel does the I/O behind `io_uring_enter`, and once with io_uring made to fail, where
//! threads do it by calls of their own.

mod folder;
mod kill;

use crate::folder::Folder;
use crate::kill::Scenario;

const KIB: u64 = 1 << 10;

/// A base of 4 MiB and an overlay over it, with blocks of their own, holes, and blocks of zeros.
fn base_and_overlay(folder: &Folder) {
    folder.raw("base.img", 4096 * KIB, &[(0, 3000, 1), (3500, 100, 2)]);
    folder.overlay(
        "top.cow",
        "base.img",
        &[(100, 200, 3), (1000, 64, 0), (3000, 4, 4), (3600, 8, 5)],
    );
}

/// The same with an image in between, of larger blocks.
fn chain(folder: &Folder) {
    folder.raw("base.img", 4096 * KIB, &[(0, 3000, 1), (3500, 100, 2)]);
    folder.cowback(&[
        "create",
        "mid.cow",
        "--base",
        "base.img",
        "--block-size",
        "64K",
    ]);
    folder.fill("mid.cow", &[(0, 128, 6), (2048, 64, 7)]);
    folder.overlay(
        "top.cow",
        "mid.cow",
        &[(64, 128, 3), (1000, 64, 0), (3000, 4, 4), (3600, 8, 5)],
    );
}

#[test]
fn a_commit_into_a_raw_base() {
    Scenario {
        prepare: base_and_overlay,
        command: &["commit", "--sole-overlay", "top.cow"],
        images: &["top.cow"],
        keeps: &["top.cow"],
        ends_as: &[("base.img", "top.cow")],
    }
    .run();
}

#[test]
fn a_commit_into_an_image() {
    Scenario {
        prepare: chain,
        command: &["commit", "--sole-overlay", "top.cow"],
        images: &["top.cow", "mid.cow"],
        keeps: &["top.cow", "base.img"],
        ends_as: &[("mid.cow", "top.cow")],
    }
    .run();
}

#[test]
fn a_rebase_to_another_base() {
    Scenario {
        prepare: |folder| {
            base_and_overlay(folder);
            folder.raw(
                "new.img",
                4096 * KIB,
                &[(0, 2000, 1), (2000, 500, 9), (3500, 50, 2)],
            );
        },
        command: &["rebase", "--base", "new.img", "top.cow"],
        images: &["top.cow"],
        keeps: &["top.cow", "base.img", "new.img"],
        ends_as: &[],
    }
    .run();
}

#[test]
fn a_rebase_to_no_base() {
    Scenario {
        prepare: chain,
        command: &["rebase", "--no-base", "top.cow"],
        images: &["top.cow", "mid.cow"],
        keeps: &["top.cow", "mid.cow", "base.img"],
        ends_as: &[],
    }
    .run();
}

#[test]
fn a_conversion_to_raw() {
    Scenario {
        prepare: chain,
        command: &["convert", "top.cow", "out.img"],
        images: &["top.cow", "mid.cow"],
        keeps: &["top.cow", "mid.cow", "base.img"],
        ends_as: &[("out.img", "top.cow")],
    }
    .run();
}

#[test]
fn a_conversion_to_an_overlay_of_another_base() {
    Scenario {
        prepare: |folder| {
            chain(folder);
            folder.raw("other.img", 2048 * KIB, &[(0, 2000, 1)]);
        },
        command: &[
            "convert",
            "--format",
            "dscow",
            "--base",
            "other.img",
            "top.cow",
            "out.cow",
        ],
        images: &["top.cow", "mid.cow"],
        keeps: &["top.cow", "mid.cow", "base.img", "other.img"],
        ends_as: &[("out.cow", "top.cow")],
    }
    .run();
}

#[test]
fn a_resize() {
    Scenario {
        prepare: base_and_overlay,
        command: &["resize", "top.cow", "9M"],
        images: &["top.cow"],
        keeps: &["top.cow", "base.img"],
        ends_as: &[],
    }
    .run();
}

/// What is damaged stays so until it is repaired, so the image is not checked before.
#[test]
fn a_repair() {
    Scenario {
        prepare: |folder| {
            base_and_overlay(folder);
            // A header slot, and a bit in the headroom of the bitmap.
            folder.damage("top.cow", 4096 + 100, 1);
            folder.damage("top.cow", 8192 + 100_000, 1);
        },
        command: &["check", "--repair", "top.cow"],
        images: &[],
        keeps: &["top.cow", "base.img"],
        ends_as: &[],
    }
    .run();
}
