//! Granted pages, while they are in use.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use simulated::PATIENCE;

use crate::attacker::{ERROR, OKAY, WRITE, part, whole};
use crate::scene::{BOTH_WAYS, Scene};

/// The data of a write changes while it is written: what arrives is one or the other, sector by sector at best, and
/// nowhere else.
#[test]
fn data_that_changes_while_it_is_written() {
    let mut scene = Scene::start();
    for persistent in BOTH_WAYS {
        let mut attacker = scene.connect_plainly(persistent);
        let page = attacker.page(0xaa);
        let domain = attacker.domain();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for fill in [0xbb, 0xaa] {
                        domain.fill_pages(page.page, 1, fill);
                    }
                }
            });
            // Whole blocks, and parts of them, which go through a copy-up.
            for round in 0..100u64 {
                let at = 64 + round * 16;
                for entry in [
                    attacker.transfer(WRITE, at, &[whole(page.grant)]),
                    attacker.transfer(WRITE, at + 10, &[part(page.grant, 2, 4)]),
                ] {
                    assert_eq!(attacker.ask(entry), OKAY);
                }
                if round % 25 == 0 {
                    scene.bystander.check();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let found = attacker.frontend.read(0, 2048 * 512).unwrap();
        for (sector, found) in found.chunks(512).enumerate() {
            let written =
                (64..64 + 1600).contains(&sector) && !matches!(sector % 16, 8 | 9 | 13..=15);
            if written {
                assert!(
                    found.iter().all(|byte| matches!(byte, 0xaa | 0xbb)),
                    "sector {sector}"
                );
            } else {
                let base = u32::try_from(sector).unwrap().to_le_bytes().repeat(128);
                assert_eq!(found, base, "sector {sector}");
            }
        }
        attacker.frontend.close().unwrap();
        scene.start_over_closed();
    }
    scene.finish();
}

/// The descriptors of an indirect request change while they are read, from segments that are right to segments that are
/// not, and back. What counts is a copy: either all of it is right, or the request is refused.
#[test]
fn descriptors_that_change_while_they_are_read() {
    let mut scene = Scene::start();
    for persistent in BOTH_WAYS {
        let mut attacker = scene.connect_plainly(persistent);
        let page = attacker.page(0xcc);
        let domain = attacker.domain();
        let good = [whole(page.grant); 64];
        let descriptors = attacker.descriptors(&good);
        let bytes = |segments: &[simxen::frontend::Segment]| -> Vec<u8> {
            segments.iter().flat_map(|one| one.to_bytes()).collect()
        };
        let good = bytes(&good);
        let mut bad = good.clone();
        for segment in bad.chunks_mut(8).skip(40) {
            segment[4..6].copy_from_slice(&[9, 250]);
        }
        let stop = AtomicBool::new(false);
        let mut seen = [0, 0];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for content in [&bad, &good] {
                        domain.write_memory(descriptors.page, 0, content);
                        std::thread::yield_now();
                    }
                }
            });
            let begun = Instant::now();
            let mut round = 0;
            while round < 1000 || seen.contains(&0) {
                assert!(begun.elapsed() < PATIENCE, "{seen:?}");
                round += 1;
                let entry = attacker.indirect_in(WRITE, 64, 512, &[descriptors.grant]);
                match attacker.ask(entry) {
                    OKAY => seen[0] += 1,
                    ERROR => seen[1] += 1,
                    other => panic!("answered {other}"),
                }
                if round % 250 == 0 {
                    scene.bystander.check();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let found = attacker.frontend.read(0, 2048 * 512).unwrap();
        for (sector, found) in found.chunks(512).enumerate() {
            let base = u32::try_from(sector).unwrap().to_le_bytes().repeat(128);
            let inside = (512..1024).contains(&sector);
            assert_eq!(found == base, !inside, "sector {sector}");
        }
        attacker.frontend.close().unwrap();
        scene.start_over_closed();
        // As it was, for the other way.
        let mut restored = scene.connect_plainly(true);
        restored.frontend.write(512, &vec![0; 512 * 512]).unwrap();
        restored.frontend.close().unwrap();
        scene.start_over_closed();
    }
    scene.finish();
}
