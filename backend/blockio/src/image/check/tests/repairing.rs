//! What each repair does, and that it may be cut off anywhere.

use super::repair::{Step, perform, plan};
use super::*;
use crate::image::open::open_locked;

fn repaired(fixture: &Fixture) -> Vec<Repair> {
    let report = repair(&fixture.path()).unwrap();
    assert!(report.now.problems.is_empty(), "{:?}", report.now.problems);
    assert!(report.now.closed_cleanly);
    report.repaired
}

#[test]
fn nothing_is_done_to_an_image_that_is_well() {
    let fixture = Fixture::new();
    let before = fs::read(fixture.path()).unwrap();
    assert_eq!(repaired(&fixture), []);
    assert!(fs::read(fixture.path()).unwrap() == before);
}

#[test]
fn a_damaged_slot_is_written_anew() {
    for (bit, slot) in [(77 * 8, Slot::A), ((4096 + 77) * 8, Slot::B)] {
        let fixture = Fixture::new();
        let content = fixture.content();
        fixture.flip(bit);
        assert_eq!(repaired(&fixture), [Repair::HeaderSlot(slot)]);
        assert_eq!(fixture.content(), content);
    }
}

#[test]
fn an_image_left_in_use_is_marked_clean_with_its_checksum() {
    let fixture = Fixture::new();
    let content = fixture.content();
    fixture.in_use();
    let generation = fixture.header().generation;
    assert_eq!(repaired(&fixture), [Repair::MarkedClean]);
    assert_eq!(fixture.content(), content);
    assert_eq!(
        fixture.header().generation,
        generation,
        "images over it stay valid"
    );
    assert_eq!(fixture.slot(0).unwrap().state, fixture.clean());
    assert_eq!(fixture.slot(4096).unwrap().state, fixture.clean());
}

#[test]
fn storage_of_blocks_that_are_not_allocated_is_given_back() {
    let fixture = Fixture::new();
    let content = fixture.content();
    let data = fixture.header().layout.data_offset().0;
    fixture
        .file
        .write_all_at(&vec![9; 3 << 20], data + (32 << 20))
        .unwrap();
    let report = check(&fixture.path()).unwrap();
    assert_eq!((report.problems.len(), report.leftover_bytes), (0, 3 << 20));
    let before = fixture.file.metadata().unwrap();
    assert_eq!(repaired(&fixture), [Repair::Freed(3 << 20)]);
    let after = fixture.file.metadata().unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((before.blocks() - after.blocks()) * 512, 3 << 20);
    assert_eq!(fixture.content(), content);
}

#[test]
fn a_file_that_lost_only_holes_is_made_as_long_again() {
    let fixture = Fixture::new();
    // Without the last block, which is at the very end.
    fixture.flip(BITMAP * 8 + BLOCKS - 1);
    fixture.put_in_force(fixture.clean());
    let content = fixture.content();
    let data = fixture.header().layout.data_offset().0;
    fixture.file.set_len(data + 17_001 * 4096).unwrap();
    assert!(matches!(fixture.problems()[..], [Problem::Short { .. }]));
    assert_eq!(repaired(&fixture), [Repair::Extended]);
    assert_eq!(fixture.content(), content);

    fixture.file.set_len(data + 17_000 * 4096 + 2048).unwrap();
    let problems = fixture.problems();
    assert_eq!(
        problems[0].to_string(),
        format!(
            "it is {} bytes long, but its header asks for {}: 1 blocks that are allocated are lost, the first of them \
             block 17000",
            data + 17_000 * 4096 + 2048,
            data + BLOCKS * 4096
        )
    );
}

#[test]
fn a_bitmap_that_was_cut_off_is_believed_only_if_its_checksum_says_so() {
    let fixture = Fixture::new();
    for block in ALLOCATED {
        fixture.flip(BITMAP * 8 + block);
    }
    fixture.put_in_force(fixture.clean());
    fixture.file.set_len(BITMAP + 100).unwrap();
    assert!(matches!(fixture.problems()[..], [Problem::Short { .. }]));
    fixture.in_use();
    let problems = fixture.problems();
    let [
        Problem::Truncated {
            lost: LostBlocks::Bitmap,
            ..
        },
    ] = problems[..]
    else {
        panic!("{problems:?}");
    };
}

#[test]
fn bits_for_blocks_that_do_not_exist_are_cleared_everywhere() {
    // Of 40,000 blocks the last byte is full: an image of another size for the last byte.
    let fixture = Fixture::with_size(39_997 * 4096);
    let content = fixture.content();
    fixture.flip(BITMAP * 8 + 39_998);
    fixture.flip(BITMAP * 8 + 40_005);
    fixture.flip(BITMAP * 8 + 70_000);
    let problems = fixture.problems();
    assert!(
        matches!(
            problems[..],
            [
                Problem::BitsPastEnd { block: 39_998, .. },
                Problem::Headroom { .. }
            ]
        ),
        "{problems:?}"
    );
    assert!(fixture.open().is_err());
    assert_eq!(repaired(&fixture), [Repair::BitsPastEnd, Repair::Headroom]);
    assert_eq!(fixture.content(), content);
}

#[test]
fn what_is_past_the_end_of_the_disk_is_cleared() {
    let fixture = Fixture::new();
    let content = fixture.content();
    let end = fixture.header().layout.file_len();
    fixture.file.write_all_at(&[1], end - 1).unwrap();
    assert!(matches!(fixture.problems()[..], [Problem::PastEnd { .. }]));
    assert_eq!(repaired(&fixture), [Repair::PastEnd]);
    assert_eq!(fixture.content(), content);
}

#[test]
fn a_bitmap_that_nobody_can_trust_is_left_alone_and_everything_with_it() {
    let fixture = Fixture::new();
    fixture.flip(BITMAP * 8 + 5);
    fixture.flip(8 * 77);
    fixture.flip(BITMAP * 8 + 70_000);
    let before = fs::read(fixture.path()).unwrap();
    let report = repair(&fixture.path()).unwrap();
    assert_eq!(report.repaired, []);
    assert_eq!(report.now.problems.len(), 3);
    assert!(fs::read(fixture.path()).unwrap() == before);
}

#[test]
fn an_image_in_use_is_not_repaired() {
    let fixture = Fixture::new();
    let image = Image::open(&fixture.path(), ImageAccess::Writable).unwrap();
    assert!(matches!(
        repair(&fixture.path()),
        Err(ImageError::Locked(_))
    ));
    drop(image);
    repair(&fixture.path()).unwrap();
}

/// Everything at once that can be repaired.
fn broken() -> Fixture {
    let fixture = Fixture::with_size(39_997 * 4096 - 512);
    fixture.in_use();
    fixture.flip(8 * (4096 + 1000));
    fixture.flip(BITMAP * 8 + 39_999);
    fixture.flip(BITMAP * 8 + 70_000);
    let layout = fixture.header().layout;
    fixture
        .file
        .write_all_at(&[1], layout.file_len() - 1)
        .unwrap();
    fixture
        .file
        .write_all_at(&[9; 8192], layout.data_offset().0 + 4096 * 100)
        .unwrap();
    fixture
}

fn steps(fixture: &Fixture) -> Vec<Step> {
    let file = open_locked(&fixture.path(), ImageAccess::ReadOnly, Caching::Buffered).unwrap();
    let plan = plan(&examine(&file).unwrap());
    plan.into_iter().flat_map(|(_, steps)| steps).collect()
}

fn do_steps(fixture: &Fixture, steps: &[Step]) {
    let file = open_locked(&fixture.path(), ImageAccess::Writable, Caching::Buffered).unwrap();
    for step in steps {
        perform(&file, step).unwrap();
    }
}

/// The image examines as repairable, holds what it held, and a second repair ends what the first began.
fn assert_still_good(fixture: &Fixture, allocated: u64, at: &str) {
    let report = check(&fixture.path()).unwrap();
    assert!(
        report.problems.iter().all(Problem::is_repairable),
        "{at}: {:?}",
        report.problems
    );
    assert_eq!(report.allocated_blocks, allocated, "{at}");
    let report = repair(&fixture.path()).unwrap();
    assert!(
        report.now.problems.is_empty(),
        "{at}: {:?}",
        report.now.problems
    );
    assert!(report.now.closed_cleanly, "{at}");
    assert_eq!(report.now.leftover_bytes, 0, "{at}");
}

#[test]
fn a_repair_can_be_cut_off_after_each_step_and_within_a_header() {
    let all = steps(&broken());
    let headers = all
        .iter()
        .filter(|step| matches!(step, Step::WriteHeader(..)))
        .count();
    assert_eq!((all.len(), headers), (14, 5), "{all:?}");
    let sound = broken();
    repair(&sound.path()).unwrap();
    let content = sound.content();
    let allocated = content.len() as u64;
    for done in 0..=all.len() {
        let fixture = broken();
        // The owner in its header is random, so this one's own plan.
        let all = steps(&fixture);
        do_steps(&fixture, &all[..done]);
        assert_still_good(&fixture, allocated, &format!("after {done} steps"));
        assert_eq!(fixture.content(), content);
        let Some(Step::WriteHeader(slot, bytes)) = all.get(done) else {
            continue;
        };
        for torn_at in (0..4096).step_by(512).chain([1, 10, 20, 250]) {
            let fixture = broken();
            do_steps(&fixture, &steps(&fixture)[..done]);
            fixture
                .file
                .write_all_at(&bytes[..torn_at], slot.offset().0)
                .unwrap();
            assert_still_good(
                &fixture,
                allocated,
                &format!("{done} steps and {torn_at} bytes"),
            );
            assert_eq!(fixture.content(), content);
        }
    }
}
