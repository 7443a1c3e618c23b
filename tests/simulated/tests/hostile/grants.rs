//! Grant references: which pages a request names.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use simulated::{PATIENCE, base_sector};
use simxen::control::wire::GrantEntry;
use simxen::{Access, DOM0, DomId, GrantRef, PageIndex};

use crate::attacker::{Attacker, ERROR, OKAY, READ, WRITE, whole};
use crate::scene::{BOTH_WAYS, SECTORS, Scene};

/// The base is on the disk where nothing was written, and the disk is served.
fn assert_untouched(attacker: &mut Attacker) {
    for sector in [0, 8, 100] {
        let at = usize::try_from(sector).unwrap();
        assert_eq!(
            attacker.frontend.read(sector, 512).unwrap(),
            base_sector(at)
        );
    }
}

#[test]
fn bad_and_foreign_grants() {
    let mut scene = Scene::start();
    for persistent in BOTH_WAYS {
        let mut attacker = scene.connect_plainly(persistent);
        let good = attacker.page(0xee);
        let domain = attacker.domain();
        let entry = |granted_to, page| GrantEntry {
            granted_to,
            read_only: false,
            page,
        };
        let foreign = domain.grant_entry(entry(DomId(1), good.page)).unwrap();
        let nowhere = domain
            .grant_entry(entry(DOM0, PageIndex(u32::MAX)))
            .unwrap();
        let unused = GrantRef(40_000);
        for bad in [
            foreign,
            nowhere,
            unused,
            GrantRef(0),
            GrantRef(65_536),
            GrantRef(u32::MAX),
        ] {
            for operation in [READ, WRITE] {
                for segments in [vec![whole(bad)], vec![whole(good.grant), whole(bad)]] {
                    let entry = attacker.transfer(operation, 0, &segments);
                    assert_eq!(attacker.ask(entry), ERROR, "{operation} with {bad}");
                }
            }
        }
        scene.bystander.check();
        assert_untouched(&mut attacker);
        drop(attacker);
        scene.start_over();
    }
    scene.finish();
}

/// A page that may only be read is not written: a read of the disk into it fails. Frontends that use their grants again have
/// to grant for both; for others a write to the disk is what such a page is for.
#[test]
fn pages_that_may_not_be_written() {
    let mut scene = Scene::start();
    for persistent in BOTH_WAYS {
        let mut attacker = scene.connect_plainly(persistent);
        let page = attacker.page_for(0xee, Access::ReadOnly);
        let entry = attacker.transfer(READ, 0, &[whole(page.grant)]);
        assert_eq!(attacker.ask(entry), ERROR);
        let mut content = [0; 4096];
        attacker.domain().read_memory(page.page, 0, &mut content);
        assert_eq!(content, [0xee; 4096]);
        let entry = attacker.transfer(WRITE, 200, &[whole(page.grant)]);
        assert_eq!(attacker.ask(entry), if persistent { ERROR } else { OKAY });
        scene.bystander.check();
        assert_untouched(&mut attacker);
        drop(attacker);
        scene.start_over();
    }
    scene.finish();
}

#[test]
fn one_page_many_times() {
    let mut scene = Scene::start();
    for persistent in BOTH_WAYS {
        let mut attacker = scene.connect_plainly(persistent);
        let page = attacker.page(0x5a);
        let same = vec![whole(page.grant); 256];
        // The same page for descriptors and data as well: the descriptors are copied before anything is read into it.
        let itself = attacker.descriptors(&[whole(page.grant); 12]);
        let bytes: Vec<u8> = [whole(itself.grant); 12]
            .iter()
            .flat_map(|one| one.to_bytes())
            .collect();
        attacker.domain().write_memory(itself.page, 0, &bytes);
        for _ in 0..8 {
            for entry in [
                attacker.transfer(WRITE, 1024, &same[..11]),
                attacker.indirect(WRITE, 2048, &same),
                attacker.transfer(READ, 1024, &same[..11]),
            ] {
                attacker.send(0, entry);
            }
        }
        scene.bystander.check();
        for _ in 0..24 {
            assert_eq!(attacker.answer().status, OKAY);
        }
        let entry = attacker.indirect_in(READ, 12, 0, &[itself.grant]);
        assert_eq!(attacker.ask(entry), OKAY);
        assert_untouched(&mut attacker);
        let mut last = [0; 512];
        attacker.domain().read_memory(itself.page, 0, &mut last);
        assert_eq!(last.to_vec(), base_sector(88));
        drop(attacker);
        scene.start_over();
    }
    scene.finish();
}

/// Grants come and go while they are being used, by a thread of the guest's own.
#[test]
fn grants_that_are_revoked_meanwhile() {
    let mut scene = Scene::start();
    for persistent in BOTH_WAYS {
        let mut attacker = scene.connect_plainly(persistent);
        let domain = attacker.domain();
        let page = attacker.page(0x77).page;
        let other = attacker.page(0x77).page;
        let grants: Vec<GrantRef> = (0..64)
            .map(|_| domain.grant(page, Access::ReadWrite).unwrap())
            .collect();
        let stop = AtomicBool::new(false);
        let mut seen = [0, 0];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Taken out of the table, and back again as a grant of another page.
                while !stop.load(Ordering::Relaxed) {
                    for grant in &grants {
                        domain.revoke(*grant);
                    }
                    std::thread::yield_now();
                    for _ in &grants {
                        domain.grant(other, Access::ReadWrite).unwrap();
                    }
                    std::thread::yield_now();
                }
            });
            let begun = Instant::now();
            // What is kept mapped needs no grant any more, so it need not fail.
            let is_over = |seen: [u32; 2]| seen[0] > 0 && (persistent || seen[1] > 0);
            let mut round = 0;
            while round < 200 || !is_over(seen) {
                assert!(begun.elapsed() < PATIENCE, "{seen:?}");
                round += 1;
                for index in 0..32 {
                    let at = usize::try_from(round * 7 + index).unwrap() % 53;
                    let segments: Vec<_> =
                        grants[at..at + 11].iter().map(|one| whole(*one)).collect();
                    let entry = attacker.transfer(WRITE, 1024, &segments);
                    attacker.send(0, entry);
                }
                for _ in 0..32 {
                    match attacker.answer().status {
                        OKAY => seen[0] += 1,
                        ERROR => seen[1] += 1,
                        other => panic!("answered {other}"),
                    }
                }
                if round % 50 == 0 {
                    scene.bystander.check();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_untouched(&mut attacker);
        drop(attacker);
        scene.start_over();
    }
    scene.finish();
}

/// A guest that promises to use its grants again, and never does.
#[test]
fn more_grants_than_are_kept() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect_plainly(true);
    let domain = attacker.domain();
    let page = attacker.page(0x42).page;
    let mut most = 0;
    for round in 0..300u64 {
        for _ in 0..8 {
            let segments: Vec<_> = (0..11)
                .map(|_| whole(domain.grant(page, Access::ReadWrite).unwrap()))
                .collect();
            let entry = attacker.transfer(WRITE, 1024 + round % 100, &segments);
            attacker.send(0, entry);
        }
        for _ in 0..8 {
            assert_eq!(attacker.answer().status, OKAY);
        }
        if round % 30 == 0 {
            scene.bystander.check();
            most = most.max(scene.listed("kept_pages").as_u64().unwrap());
            let mapped: usize = scene
                .rig
                .host
                .accounts()
                .iter()
                .map(|one| one.grants_mapped)
                .sum();
            // Those of the other guest, and of the rings, are some dozens.
            assert!(mapped <= 1056 + 200, "{mapped}");
        }
    }
    assert!(most > 500 && most <= 1056, "{most}");
    assert!(attacker.frontend.info().sectors == SECTORS);
    assert_untouched(&mut attacker);
    scene.finish();
}
