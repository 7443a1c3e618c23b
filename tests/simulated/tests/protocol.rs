//! What is offered works, in every combination in which frontends ask for it.

use simulated::{BASE_SIZE, Rig, base_content, base_sector, options};
use simxen::{Abi, Disk, Domain, Frontend, FrontendOptions, Request};

/// Bytes of the smallest block, which images have if nothing else is asked for.
const BLOCK: usize = 4096;

fn attach(rig: &Rig, image: &str) -> Disk {
    attach_to(rig, &rig.guest(1), image)
}

fn attach_to(rig: &Rig, guest: &Domain, image: &str) -> Disk {
    let spec = rig.spec("xvda", &rig.overlay_target(image));
    rig.host.toolstack().attach(guest, &spec).unwrap()
}

/// Requests of each kind, of which none touches what another one does; then everything is read.
fn exercise(frontend: &mut Frontend) {
    let mut expected = base_content();
    let mut fill = |start: usize, len: usize, with: u8| {
        expected[start * 512..(start + len) * 512].fill(with);
        vec![with; len * 512]
    };
    // Each queue has each kind in turn.
    for round in 0..8usize {
        let at = round * 800;
        let with = u8::try_from(round).unwrap() + 1;
        let small = fill(at + 1, 3, with);
        // More than the segments of a direct request, so that it becomes an indirect one.
        let large = fill(at + 8, 300, with + 100);
        let barrier = fill(at + 400, 20, with + 50);
        fill(at + 504, 64, 0);
        let sector = |offset: usize| u64::try_from(at + offset).unwrap();
        for request in [
            Request::Write {
                sector: sector(1),
                data: &small,
            },
            Request::Write {
                sector: sector(8),
                data: &large,
            },
            Request::WriteBarrier {
                sector: sector(400),
                data: &barrier,
            },
            Request::Flush,
            Request::Discard {
                sector: sector(504),
                sectors: 64,
                secure: false,
            },
        ] {
            frontend.submit(&request).unwrap();
        }
    }
    frontend.complete_all().unwrap();
    for start in (0..BASE_SIZE / 512).step_by(256) {
        let found = frontend.read(start as u64, 256 * 512).unwrap();
        let wanted = &expected[start * 512..(start + 256) * 512];
        assert!(found == wanted, "sectors from {start} show something else");
    }
}

#[test]
fn every_way_to_connect_is_served() {
    let rig = Rig::start_with(&["--queues", "8"]);
    let mut ways = Vec::new();
    for abi in [Abi::X86_64, Abi::X86_32, Abi::Arm] {
        for (ring_order, queues) in [(0, 1), (4, 1), (1, 2), (2, 8), (3, 3)] {
            for persistent in [true, false] {
                ways.push(FrontendOptions {
                    abi,
                    ring_order,
                    queues,
                    persistent,
                    segments_max: 256,
                    numbered_ring_refs: queues == 3,
                    ..options()
                });
            }
        }
    }
    let guest = rig.guest(1);
    for (number, way) in ways.into_iter().enumerate() {
        let image = format!("{number}.cow");
        let disk = attach_to(&rig, &guest, &image);
        let description = format!("{way:?}");
        let mut frontend = Frontend::connect(&disk, way).expect(&description);
        exercise(&mut frontend);
        rig.detach(&disk, frontend);
        rig.wait_until_gone(&disk);
        rig.assert_clear();
        rig.assert_clean(&image);
    }
}

#[test]
fn what_is_offered_is_what_there_is() {
    let rig = Rig::start_with(&["--queues", "5"]);
    let disk = attach(&rig, "vm.cow");
    let frontend = Frontend::connect(&disk, options()).unwrap();
    let info = frontend.info();
    assert!(info.flush && info.barrier && info.persistent);
    assert!(info.discard && !info.discard_secure);
    assert_eq!(info.discard_granularity as usize, BLOCK);
    assert_eq!(info.discard_alignment, 0);
    assert_eq!(info.indirect_segments_max, 256);
    assert_eq!((info.ring_order_max, info.queues_max), (4, 5));
    assert_eq!((info.sector_size, info.physical_sector_size), (512, 4096));
    let xenstore = rig.host.xenstore();
    let pages = xenstore.read_text(&disk.backend_node("max-ring-pages"));
    assert_eq!(pages.as_deref(), Some("16"));
    rig.detach(&disk, frontend);
}

#[test]
fn rings_are_described_the_older_way_too() {
    let rig = Rig::start();
    let disk = attach(&rig, "vm.cow");
    let xenstore = rig.host.xenstore();
    let node = disk.frontend_node("num-ring-pages");
    xenstore.write(&node, "1").unwrap();
    let numbered = FrontendOptions {
        numbered_ring_refs: true,
        segments_max: 256,
        ..options()
    };
    let mut frontend = Frontend::connect(&disk, numbered).unwrap();
    exercise(&mut frontend);
    rig.detach(&disk, frontend);
}

#[test]
fn a_disk_that_may_not_give_storage_back_says_so_and_means_it() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let target = rig.overlay_target("vm.cow");
    for spec in [
        rig.spec("xvda", &target).discard(false),
        rig.spec("xvda", &target).read_only(),
    ] {
        let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
        let mut frontend = Frontend::connect(&disk, options()).unwrap();
        assert!(!frontend.info().discard);
        let discard = Request::Discard {
            sector: 0,
            sectors: 8,
            secure: false,
        };
        let id = frontend.submit(&discard).unwrap();
        assert_eq!(frontend.wait(id).unwrap().status, -2);
        assert_eq!(frontend.read(0, 512).unwrap(), base_sector(0));
        rig.detach(&disk, frontend);
        rig.wait_until_gone(&disk);
    }
}

#[test]
fn discarded_blocks_are_zeros_and_take_no_storage() {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::start();
    let disk = attach(&rig, "vm.cow");
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    let storage = || rig.path("vm.cow").metadata().unwrap().blocks() * 512;
    let data = vec![9; 1 << 20];
    frontend.write(0, &data).unwrap();
    frontend.flush().unwrap();
    let before = storage();
    // Parts of blocks at both ends, which stay as they are.
    frontend.discard(1, 2048 - 2).unwrap();
    frontend.flush().unwrap();
    let mut expected = vec![0; 1 << 20];
    expected[..BLOCK].fill(9);
    expected[(1 << 20) - BLOCK..].fill(9);
    assert!(frontend.read(0, 1 << 20).unwrap() == expected);
    let after = storage();
    assert!(after + (900 << 10) < before, "{before} to {after} bytes");
    rig.detach(&disk, frontend);
}

#[test]
fn disks_of_large_sectors() {
    let rig = Rig::start();
    let image = rig.path("vm.cow");
    let image = image.to_str().unwrap();
    let base = rig.path("base.img");
    let created = rig.cowback(&[
        "create",
        "--sector-size",
        "4096",
        "--base",
        base.to_str().unwrap(),
        image,
    ]);
    assert!(created.status.success(), "{created:?}");
    let guest = rig.guest(1);
    let spec = rig.spec("xvda", image);
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    let info = frontend.info();
    assert_eq!((info.sector_size, info.physical_sector_size), (4096, 4096));
    // The size is in units of 512 bytes all the same, and so are the sectors of requests.
    assert_eq!(info.sectors, (BASE_SIZE / 512) as u64);
    frontend.write(8, &[3; 4096]).unwrap();
    assert_eq!(frontend.read(8, 4096).unwrap(), [3; 4096]);
    for (sector, bytes) in [(1, 4096), (8, 512)] {
        let read = Request::Read { sector, bytes };
        let id = frontend.submit(&read).unwrap();
        assert_eq!(frontend.wait(id).unwrap().status, -1);
    }
    rig.detach(&disk, frontend);
    let resized = rig.cowback(&["resize", image, "8389120"]);
    let message = String::from_utf8_lossy(&resized.stderr).into_owned();
    assert!(message.contains("sectors of 4096 bytes"), "{message}");
    let ragged = rig.path("ragged.cow");
    let ragged = ragged.to_str().unwrap();
    let refused = rig.cowback(&[
        "create",
        "--sector-size",
        "4096",
        "--size",
        "10000384",
        ragged,
    ]);
    assert!(!refused.status.success(), "{refused:?}");
}

#[test]
fn a_barrier_commits() {
    let rig = Rig::start();
    let disk = attach(&rig, "vm.cow");
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    frontend.write(0, &[1; 4096]).unwrap();
    let barrier = Request::WriteBarrier {
        sector: 8,
        data: &[2; 4096],
    };
    let id = frontend.submit(&barrier).unwrap();
    assert_eq!(frontend.wait(id).unwrap().status, 0);
    // What it has made durable is in the image as others see it.
    let report = rig.cowback(&["info", "--json", rig.path("vm.cow").to_str().unwrap()]);
    let info: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(info["allocated_blocks"], 2, "{info}");
    rig.detach(&disk, frontend);
}
