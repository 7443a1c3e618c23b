//! What a loss of power leaves of images that `commit`, `rebase`, `resize` and `create` work on.
//!
//! Each command runs as a process under `strace`, which keeps a log of what it does to each file and when what becomes
//! durable. From that every state follows that a loss of power can leave, and in each the images are opened and compared.
//! Then the same for a process that was killed and the one that goes on after it: what the first has left in the host's
//! cache, the second reads there, although it may never reach the disk.

mod content;
mod scenario;
mod strace;
mod timeline;

use std::fs;
use std::path::Path;

use blockio::image::{Image, ImageAccess, ParentFormat};
use blockio::offline::{Silent, Target, commit, convert, rebase, resize};
use powerfail::offline::Offline;

use crate::scenario::{Folder, KIB, Look, Report, Sabotage, Scenario, is_well, same};

fn once(scenario: &Scenario<'_>) -> Report {
    scenario.once()
}

fn repeated(scenario: &Scenario<'_>) -> Report {
    scenario.repeated()
}

fn assert_nothing_is_wrong(report: &Report, states_min: usize) {
    eprintln!("killed {} times, states: {}", report.kills, report.states);
    let first: Vec<&String> = report.violations.iter().take(5).collect();
    assert!(first.is_empty(), "{}: {first:#?}", report.violations.len());
    assert!(report.states >= states_min, "only {} states", report.states);
}

/// Blocks of 4 KiB, each filled with a byte.
fn blocks(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| [*byte; 4096]).collect()
}

/// An overlay of 16 blocks over a base of 20, of which it has hidden the last 8 since it grew.
fn grown_overlay(folder: &Folder, base: &Path) {
    let top = folder.overlay("top.cow", base, Some(32 * KIB));
    resize(&top, 64 * KIB).unwrap();
    for (block, byte) in [(1, 7), (2, 8), (5, 9), (12, 10)] {
        folder.write(&top, block * 4096, byte);
    }
    let shown = [1, 7, 8, 1, 1, 9, 1, 1, 0, 0, 0, 0, 10, 0, 0, 0];
    fs::write(folder.expected("top"), blocks(&shown)).unwrap();
    // What lies behind the overlay's end stays as it is.
    fs::write(
        folder.expected("base"),
        blocks(&[&shown[..], &[1; 4]].concat()),
    )
    .unwrap();
}

fn check_commit(folder: &Folder, base: &Path, look: Look) -> Result<(), String> {
    let top = folder.path("top.cow");
    let all_is_there = || same(base, &folder.expected("base"));
    same(&top, &folder.expected("top"))?;
    if look.done {
        all_is_there()?;
    }
    if !look.again {
        return Ok(());
    }
    commit(&top, &mut Silent).map_err(|cause| format!("given again: {cause}"))?;
    all_is_there()?;
    same(&top, &folder.expected("top"))?;
    is_well(&top)
}

fn with_commit(
    base_is_image: bool,
    sabotage: Option<Sabotage>,
    run: impl Fn(&Scenario<'_>) -> Report,
) -> Report {
    let folder = Folder::new();
    let mut base = folder.raw("base.img", &blocks(&[1; 20]));
    if base_is_image {
        base = folder.overlay("mid.cow", &base, None);
        folder.write(&base, 3 * 4096, 1);
    }
    grown_overlay(&folder, &base);
    run(&Scenario {
        files: vec![folder.path("top.cow"), base.clone()],
        command: Offline::Commit {
            image: folder.path("top.cow"),
        },
        check: &|look| check_commit(&folder, &base, look),
        sabotage,
    })
}

#[test]
fn a_commit_into_a_raw_base() {
    let report = with_commit(false, None, once);
    assert_nothing_is_wrong(&report, 50);
}

#[test]
fn a_commit_into_an_image() {
    let report = with_commit(true, None, once);
    assert_nothing_is_wrong(&report, 50);
}

#[test]
fn a_commit_that_goes_on_into_a_raw_base() {
    let report = with_commit(false, None, repeated);
    assert_nothing_is_wrong(&report, 100);
}

#[test]
fn a_commit_that_goes_on_into_an_image() {
    let report = with_commit(true, None, repeated);
    assert_nothing_is_wrong(&report, 100);
}

/// As if the one that goes on took the mark that it read in the overlay for durable.
#[test]
fn a_mark_that_is_in_the_cache_only_is_noticed() {
    let sabotage: Sabotage = |timeline, start| timeline.forget_syncs(0, start);
    let report = with_commit(false, Some(sabotage), repeated);
    let is_known = |problem: &&String| problem.contains("has changed since");
    assert!(report.violations.iter().any(|problem| is_known(&problem)));
}

/// As if the base were made durable without its time of modification.
#[test]
fn a_time_that_is_not_durable_is_noticed() {
    let sabotage: Sabotage = |timeline, _| timeline.forget_times();
    let report = with_commit(false, Some(sabotage), once);
    let is_known = |problem: &&String| problem.contains("it was modified");
    assert!(
        report.violations.iter().any(|problem| is_known(&problem)),
        "{:#?}",
        report.violations.first()
    );
}

fn with_rebase(run: impl Fn(&Scenario<'_>) -> Report) -> Report {
    let folder = Folder::new();
    let old = folder.raw("old.img", &blocks(&[1; 20]));
    let mut other = [1; 20];
    other[3..6].fill(2);
    other[10] = 3;
    let new = folder.raw("new.img", &blocks(&other));
    grown_overlay(&folder, &old);
    let top = folder.path("top.cow");
    let command = Offline::Rebase {
        image: top.clone(),
        base: new.clone(),
    };
    run(&Scenario {
        files: vec![top.clone(), old, new.clone()],
        command,
        check: &|look| {
            same(&top, &folder.expected("top"))?;
            let image = Image::open(&top, ImageAccess::ReadOnly).unwrap();
            if look.done && image.below()[0].path() != new {
                return Err("it has its old base".to_owned());
            }
            drop(image);
            if !look.again {
                return Ok(());
            }
            rebase(&top, Some((&new, ParentFormat::Detect)), &mut Silent)
                .map_err(|cause| format!("given again: {cause}"))?;
            same(&top, &folder.expected("top"))?;
            is_well(&top)
        },
        sabotage: None,
    })
}

#[test]
fn a_rebase() {
    assert_nothing_is_wrong(&with_rebase(once), 30);
}

#[test]
fn a_rebase_that_is_given_again() {
    assert_nothing_is_wrong(&with_rebase(repeated), 100);
}

fn with_resize(sabotage: Option<Sabotage>, run: impl Fn(&Scenario<'_>) -> Report) -> Report {
    let folder = Folder::new();
    let base = folder.raw("base.img", &blocks(&[1; 20]));
    let (before, after) = (32 * KIB + 512, 64 * KIB);
    let top = folder.overlay("top.cow", &base, Some(before));
    folder.write(&top, 4096, 7);
    let mut shown = vec![0; usize::try_from(after).unwrap()];
    shown[..32 * 1024 + 512].fill(1);
    shown[4096..8192].fill(7);
    fs::write(folder.expected("top"), shown).unwrap();
    let command = Offline::Resize {
        image: top.clone(),
        size: after,
    };
    run(&Scenario {
        files: vec![top.clone()],
        command,
        check: &|look| {
            same(&top, &folder.expected("top"))?;
            let image = Image::open(&top, ImageAccess::ReadOnly).unwrap();
            let size = image.header().layout.virtual_size();
            drop(image);
            if size != after && (look.done || size != before) {
                return Err(format!("it has {size} bytes"));
            }
            if !look.again {
                return Ok(());
            }
            resize(&top, after).map_err(|cause| format!("given again: {cause}"))?;
            same(&top, &folder.expected("top"))?;
            is_well(&top)
        },
        sabotage,
    })
}

#[test]
fn a_resize() {
    assert_nothing_is_wrong(&with_resize(None, once), 20);
}

#[test]
fn a_resize_that_is_given_again() {
    assert_nothing_is_wrong(&with_resize(None, repeated), 100);
}

/// A base is written by somebody who is killed, and then an overlay of it is made: that shows for ever what the base
/// showed then.
fn creation(base_is_image: bool) -> Report {
    let folder = Folder::new();
    let mut base = folder.raw("base.img", &blocks(&[1; 20]));
    if base_is_image {
        base = folder.overlay("mid.cow", &base, None);
    }
    let top = folder.path("top.cow");
    let scenario = Scenario {
        files: vec![base.clone()],
        command: Offline::Create {
            image: top.clone(),
            base: base.clone(),
        },
        // Until it is reported as created, nobody has written to it.
        check: &|look| match look.done {
            true => same(&top, &folder.expected("base")),
            false => Ok(()),
        },
        sabotage: None,
    };
    let writer = Offline::Write {
        disk: base.clone(),
        offset: 5 * 4096,
        byte: 2,
    };
    scenario.after(&writer, &|| {
        let _ = fs::remove_file(&top);
        let shown = folder.expected("base");
        let _ = fs::remove_file(&shown);
        let detect = ParentFormat::Detect;
        let raw = Target::Raw { force: false };
        convert((&base, detect), &shown, &raw, false, &mut Silent).unwrap();
    })
}

#[test]
fn an_overlay_of_a_raw_base_that_was_just_written() {
    assert_nothing_is_wrong(&creation(false), 1);
}

#[test]
fn an_overlay_of_an_image_that_was_just_written() {
    assert_nothing_is_wrong(&creation(true), 5);
}
