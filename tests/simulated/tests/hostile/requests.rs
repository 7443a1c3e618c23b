//! What is in a request.

use std::fs;

use simulated::{Rig, base_sector, options};
use simxen::{Abi, FrontendOptions};

use crate::attacker::{
    Attacker, BARRIER, ERROR, FLUSH, NOT_SUPPORTED, OKAY, READ, WRITE, part, whole,
};
use crate::scene::{BOTH_WAYS, SECTORS, Scene, Victim};

/// Requests with what they have to be answered.
type Cases = Vec<(String, Vec<u8>, i16)>;

fn case(what: impl Into<String>, entry: Vec<u8>, answer: i16) -> (String, Vec<u8>, i16) {
    (what.into(), entry, answer)
}

/// Every ABI, and both ways of the data: whatever `cases` makes is answered as it should be, is counted if it was refused,
/// and changes nothing.
fn refuse(cases: impl Fn(&Attacker) -> Cases) {
    let mut scene = Scene::start();
    for abi in [Abi::X86_64, Abi::X86_32, Abi::Arm] {
        for persistent in BOTH_WAYS {
            let mut attacker = scene.connect(FrontendOptions {
                abi,
                persistent,
                segments_max: 256,
                ..options()
            });
            for (what, entry, answer) in cases(&attacker) {
                assert_eq!(attacker.ask(entry), answer, "{what}, {abi:?}");
            }
            scene.bystander.check();
            for sector in (0..SECTORS).step_by(256) {
                let found = attacker.frontend.read(sector, 256 * 512).unwrap();
                let first = usize::try_from(sector).unwrap();
                for (at, found) in found.chunks(512).enumerate() {
                    assert_eq!(found, base_sector_of(first + at), "sector {}", first + at);
                }
            }
            attacker.frontend.close().unwrap();
            scene.start_over_closed();
        }
    }
    let lines = scene.log_lines();
    for line in lines
        .iter()
        .filter(|line| line.contains("refused a request"))
    {
        let (_, kind) = line.split_once("of the guest: ").unwrap();
        let same = lines.iter().filter(|line| line.ends_with(kind));
        assert_eq!(same.count(), 1, "{kind}");
    }
    scene.finish();
}

/// As [`base_sector`], without making all of the base for each.
fn base_sector_of(sector: usize) -> Vec<u8> {
    u32::try_from(sector).unwrap().to_le_bytes().repeat(128)
}

#[test]
fn segments_out_of_their_page_or_reversed() {
    refuse(|attacker| {
        let good = attacker.page(0xee).grant;
        let mut cases = Vec::new();
        for (first, last) in [
            (1, 0),
            (7, 0),
            (0, 8),
            (7, 8),
            (8, 8),
            (0, 255),
            (255, 255),
            (255, 0),
        ] {
            let bad = part(good, first, last);
            for operation in [READ, WRITE, BARRIER, FLUSH] {
                let what = format!("operation {operation} of sectors {first} to {last}");
                cases.push(case(
                    what,
                    attacker.transfer(operation, 0, &[whole(good), bad]),
                    ERROR,
                ));
            }
            for operation in [READ, WRITE] {
                let mut segments = vec![whole(good); 200];
                segments[199] = bad;
                let what = format!("indirect {operation} of sectors {first} to {last}");
                cases.push(case(
                    what,
                    attacker.indirect(operation, 0, &segments),
                    ERROR,
                ));
            }
        }
        cases
    });
}

#[test]
fn counts_of_none_and_too_many() {
    refuse(|attacker| {
        let good = whole(attacker.page(0xee).grant);
        let pages = [attacker.descriptors(&[good; 512]).grant; 8];
        let mut cases = Vec::new();
        for operation in [READ, WRITE] {
            cases.push(case("none", attacker.transfer(operation, 0, &[]), ERROR));
            for count in [0, 257, 512, 4096, u16::MAX] {
                let entry = attacker.indirect_in(operation, count, 0, &pages);
                cases.push(case(format!("indirect of {count}"), entry, ERROR));
            }
        }
        for operation in [READ, WRITE, BARRIER, FLUSH] {
            for count in [12, 13, 128, 255] {
                let entry = attacker.transfer(operation, 0, &vec![good; count]);
                cases.push(case(
                    format!("operation {operation} of {count}"),
                    entry,
                    ERROR,
                ));
            }
        }
        for count in [0, 1 << 40] {
            let entry = attacker.discard(0, 0, count);
            cases.push(case(format!("discard of {count}"), entry, ERROR));
        }
        cases
    });
}

#[test]
fn ranges_beyond_the_disk_and_beyond_all_numbers() {
    refuse(|attacker| {
        let good = whole(attacker.page(0xee).grant);
        let mut cases = Vec::new();
        for sector in [
            SECTORS - 15,
            SECTORS - 1,
            SECTORS,
            SECTORS + 1,
            1 << 32,
            1 << 55,
            (1 << 55) - 8,
            i64::MAX.unsigned_abs(),
            u64::MAX - 16,
            u64::MAX - 15,
            u64::MAX - 7,
            u64::MAX,
        ] {
            for operation in [READ, WRITE, BARRIER, FLUSH] {
                let what = format!("operation {operation} at {sector}");
                cases.push(case(
                    what,
                    attacker.transfer(operation, sector, &[good; 2]),
                    ERROR,
                ));
            }
            for operation in [READ, WRITE] {
                let what = format!("indirect {operation} at {sector}");
                cases.push(case(
                    what,
                    attacker.indirect(operation, sector, &[good; 12]),
                    ERROR,
                ));
            }
            for count in
                [16, u64::MAX - sector, u64::MAX - sector + 1, u64::MAX].map(|count| count.max(16))
            {
                let what = format!("discard of {count} at {sector}");
                cases.push(case(what, attacker.discard(0, sector, count), ERROR));
            }
        }
        cases
    });
}

#[test]
fn operations_that_there_are_not() {
    refuse(|attacker| {
        let good = attacker.page(0xee).grant;
        let mut cases = Vec::new();
        for operation in (0..=u8::MAX).filter(|code| !matches!(code, 0..=3 | 5 | 6)) {
            let entry = attacker.transfer(operation, 0, &[whole(good)]);
            cases.push(case(format!("operation {operation}"), entry, NOT_SUPPORTED));
        }
        for flag in [1, 3, 0x81, 0xff] {
            let what = format!("discard with flags {flag:#x}");
            cases.push(case(what, attacker.discard(flag, 0, 8), NOT_SUPPORTED));
        }
        cases
    });
}

#[test]
fn indirect_pages_that_are_bad_or_nested() {
    refuse(|attacker| {
        let good = attacker.page(0xee).grant;
        let descriptors = attacker.descriptors(&[whole(good); 512]).grant;
        let mut cases = Vec::new();
        for operation in [BARRIER, FLUSH, 4, 5, 6, 7, 255] {
            let entry = attacker.indirect_in(operation, 12, 0, &[descriptors]);
            cases.push(case(format!("{operation} inside"), entry, ERROR));
        }
        for bad in [0, 7, 40_000, 65_535, 65_536, u32::MAX] {
            let bad = simxen::GrantRef(bad);
            for operation in [READ, WRITE] {
                let entry = attacker.indirect_in(operation, 256, 0, &[bad]);
                cases.push(case(format!("descriptors in {bad}"), entry, ERROR));
                let mut segments = vec![whole(good); 256];
                segments[128].grant = bad;
                let entry = attacker.indirect(operation, 0, &segments);
                cases.push(case(format!("a segment in {bad}"), entry, ERROR));
            }
        }
        // Pages that no segment is in are not looked at.
        let mut pages = [simxen::GrantRef(u32::MAX); 8];
        pages[0] = descriptors;
        cases.push(case(
            "unused pages",
            attacker.indirect_in(READ, 12, 0, &pages),
            OKAY,
        ));
        cases
    });
}

/// A read-only disk stays as it is, to the byte of its file.
#[test]
fn changes_of_a_read_only_disk() {
    let rig = Rig::start_with(&["--workers", "1"]);
    let image = rig.path("bad.cow");
    let made = rig.cowback(&[
        "create",
        "--base",
        rig.path("base.img").to_str().unwrap(),
        image.to_str().unwrap(),
    ]);
    assert!(made.status.success(), "{made:?}");
    let before = fs::read(&image).unwrap();
    let victim = Victim {
        read_only: true,
        ..Victim::default()
    };
    let mut scene = Scene::start_with(rig, &victim);
    for persistent in BOTH_WAYS {
        let mut attacker = scene.connect_plainly(persistent);
        let good = attacker.page(0xee).grant;
        for (what, entry, answer) in [
            case("write", attacker.transfer(WRITE, 0, &[whole(good)]), ERROR),
            case(
                "barrier",
                attacker.transfer(BARRIER, 0, &[whole(good)]),
                ERROR,
            ),
            case(
                "flush with data",
                attacker.transfer(FLUSH, 0, &[whole(good)]),
                ERROR,
            ),
            case(
                "indirect write",
                attacker.indirect(WRITE, 0, &[whole(good); 256]),
                ERROR,
            ),
            case("discard", attacker.discard(0, 0, SECTORS), NOT_SUPPORTED),
            case(
                "secure discard",
                attacker.discard(1, 0, SECTORS),
                NOT_SUPPORTED,
            ),
            case(
                "barrier without data",
                attacker.transfer(BARRIER, 0, &[]),
                OKAY,
            ),
            case("flush", attacker.transfer(FLUSH, 0, &[]), OKAY),
        ] {
            assert_eq!(attacker.ask(entry), answer, "{what}");
        }
        assert_eq!(attacker.frontend.read(0, 512).unwrap(), base_sector(0));
        scene.bystander.check();
        attacker.frontend.close().unwrap();
        scene.start_over_closed();
    }
    assert!(fs::read(scene.rig.path("bad.cow")).unwrap() == before);
    scene.finish();
}

/// The whole disk, in all ways and again and again, while others are served.
#[test]
fn huge_discards() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect_plainly(true);
    attacker.frontend.write(0, &[1; 1 << 20]).unwrap();
    for round in 0..10 {
        for _ in 0..31 {
            let entry = attacker.discard(0, 0, SECTORS);
            attacker.send(0, entry);
        }
        if round % 3 == 0 {
            scene.bystander.check();
        }
        for _ in 0..31 {
            assert_eq!(attacker.answer().status, OKAY);
        }
    }
    for sector in (0..SECTORS).step_by(256) {
        let found = attacker.frontend.read(sector, 256 * 512).unwrap();
        assert!(found.iter().all(|byte| *byte == 0), "sectors from {sector}");
    }
    scene.finish();
}

/// A disk of the largest size: what is discarded is looked at in steps, and others are served in between.
#[test]
fn discards_of_a_disk_without_end() {
    let rig = Rig::start_with(&["--workers", "1"]);
    let image = rig.path("bad.cow");
    let image = image.to_str().unwrap().to_owned();
    let made = rig.cowback(&["create", "--size", "1T", "--block-size", "64K", &image]);
    assert!(made.status.success(), "{made:?}");
    let victim = Victim {
        target: Some(&image),
        ..Victim::default()
    };
    let mut scene = Scene::start_with(rig, &victim);
    let mut attacker = scene.connect_plainly(true);
    let sectors = attacker.frontend.info().sectors;
    attacker.frontend.write(sectors - 8, &[1; 4096]).unwrap();
    for _ in 0..16 {
        let entry = attacker.discard(0, 0, sectors);
        attacker.send(0, entry);
    }
    scene.bystander.check();
    for _ in 0..16 {
        assert_eq!(attacker.answer().status, OKAY);
    }
    assert_eq!(
        attacker.frontend.read(sectors - 8, 4096).unwrap(),
        [0; 4096]
    );
    scene.finish();
}

/// Thousands of mistakes of each kind are a line each.
#[test]
fn a_flood_of_refused_requests_is_counted_and_not_logged() {
    let mut scene = Scene::start();
    let mut sent = 0;
    // Also across connections, of which a guest can make any number.
    for _ in 0..5 {
        let mut attacker = scene.connect_plainly(false);
        for round in 0..100 {
            for _ in 0..8 {
                for entry in [
                    attacker.transfer(READ, 0, &[]),
                    attacker.transfer(99, 0, &[]),
                    attacker.transfer(READ, SECTORS, &[whole(simxen::GrantRef(8))]),
                    attacker.transfer(READ, 0, &[whole(simxen::GrantRef(u32::MAX))]),
                ] {
                    attacker.send(0, entry);
                    sent += 1;
                }
            }
            for _ in 0..32 {
                assert_ne!(attacker.answer().status, OKAY);
            }
            if round % 50 == 0 {
                scene.bystander.check();
            }
        }
        attacker.frontend.close().unwrap();
        scene.start_over_closed();
    }
    let counted = ["rejected", "failed"].map(|field| scene.listed(field).as_u64().unwrap());
    assert_eq!(counted.iter().sum::<u64>(), sent);
    let lines = scene.log_lines();
    for kind in [
        "transfer without segments",
        "unknown operation",
        "range beyond the end",
        "cannot reach the pages",
    ] {
        let count = lines.iter().filter(|line| line.contains(kind)).count();
        assert_eq!(count, 1, "{kind}: {lines:?}");
    }
    scene.finish();
}
