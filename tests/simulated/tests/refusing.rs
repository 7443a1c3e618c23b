//! What cannot be served is refused with a reason, and harms nothing else.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use simulated::{PATIENCE, Rig, base_sector, options};
use simxen::{Access, Frontend, FrontendOptions};

/// Attaches what must fail; returns the sentence that the script would put into `hotplug-error`.
fn refused(rig: &Rig, target: &str) -> String {
    let guest = rig.guest(9);
    let toolstack = rig.host.toolstack();
    let disk = toolstack
        .create_nodes(&guest, &rig.spec("xvdz", target))
        .unwrap();
    toolstack.wait_for_backend(&disk).unwrap();
    toolstack.hotplug_add(&disk).unwrap_err();
    let error = disk.backend_node("hotplug-error");
    let sentence = rig.host.xenstore().read_text(&error).unwrap();
    // libxl detaches what it could not attach.
    toolstack.destroy_domain(&guest, [&disk]).unwrap();
    rig.wait_until_gone(&disk);
    sentence
}

#[test]
fn bad_targets_are_named_with_the_cause_and_leave_nothing_behind() {
    let rig = Rig::start();
    let dir = |name: &str| rig.path(name).display().to_string();
    fs::create_dir(rig.path("folder")).unwrap();
    fs::write(rig.path("junk.cow"), vec![0x11; 100_000]).unwrap();
    let files = || {
        let mut names: Vec<_> = fs::read_dir(rig.path(""))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            // What the daemon tells xentop appears a moment after it has started.
            .filter(|name| !name.starts_with("td3-"))
            .collect();
        names.sort();
        names
    };
    // Makes the hotplug script, which lives there too.
    let _ = rig.spec("xvda", "");
    let before = files();
    for (target, cause) in [
        (
            format!("dscow:{}:{}", dir("a.cow"), dir("none.img")),
            "none.img: does not exist",
        ),
        (
            format!("dscow:{}:{}", dir("a.cow"), dir("folder")),
            "folder: is a directory",
        ),
        (dir("junk.cow"), "junk.cow: is not a dscow image"),
        (dir("none.cow"), "none.cow: does not exist"),
        (dir("folder"), "folder: is a directory"),
        (dir("base.img"), "base.img: is not a dscow image"),
        ("vm.cow".to_owned(), "neither an absolute path"),
    ] {
        let sentence = refused(&rig, &target);
        assert!(sentence.contains(cause), "{target}: {sentence}");
        assert_eq!(files(), before, "{target}");
    }
    assert_eq!(rig.list(), serde_json::json!([]));
}

#[test]
fn an_overlay_is_open_for_one_guest_at_a_time() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let sentence = refused(&rig, &rig.overlay_target("vm.cow"));
    assert!(
        sentence.contains("vm.cow: cannot be locked for writing: it is in use"),
        "{sentence}"
    );
    let user = format!(", as xvda of domain 1 ({})", disk.xenbus_path());
    assert!(sentence.contains(&user), "{sentence}");
    assert_eq!(frontend.read(0, 512).unwrap(), base_sector(0));
    rig.detach(&disk, frontend);
}

#[test]
fn a_base_that_changed_is_refused() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    rig.detach(&disk, frontend);
    let mut content = fs::read(rig.path("base.img")).unwrap();
    content[1_000_000] ^= 1;
    fs::write(rig.path("base.img"), content).unwrap();
    let sentence = refused(&rig, &rig.overlay_target("vm.cow"));
    assert!(
        sentence.contains("base.img has changed since"),
        "{sentence}"
    );
}

#[test]
fn an_error_of_the_storage_is_logged_with_its_device_file_and_cause() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    // The base has lost its end, which is not there to be read any more.
    let base = fs::File::options().write(true).open(rig.path("base.img"));
    base.unwrap().set_len(4096).unwrap();
    frontend.read(4096, 4096).unwrap_err();
    // What the daemon writes is read by a thread of the test's, which may come later than the answer.
    rig.daemon
        .wait_for_log("cannot read 4096 bytes", PATIENCE)
        .unwrap();
    let log = rig.daemon.log();
    let mut lines = log.lines().filter(|line| line.contains("ERROR"));
    let line = lines.next().expect("an error is logged");
    for part in [disk.xenbus_path(), "base.img", "cannot read 4096 bytes"] {
        assert!(line.contains(part), "{line}");
    }
    assert_eq!(lines.next(), None);
    rig.detach(&disk, frontend);
}

#[test]
fn a_corrupt_header_is_refused() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    rig.detach(&disk, frontend);
    let mut content = fs::read(rig.path("vm.cow")).unwrap();
    for slot in [0, 4096] {
        content[slot + 100] ^= 1;
    }
    fs::write(rig.path("vm.cow"), content).unwrap();
    let sentence = refused(&rig, rig.path("vm.cow").to_str().unwrap());
    assert!(
        sentence.contains("vm.cow: has a corrupt header"),
        "{sentence}"
    );
}

#[test]
fn a_frontend_that_overruns_its_ring_loses_its_disk_and_nobody_else_does() {
    let rig = Rig::start();
    let (good, bad) = (rig.guest(1), rig.guest(2));
    let (good_disk, mut served) = rig.connect(&good, "xvda", "good.cow");
    let (bad_disk, mut hostile) = rig.connect(&bad, "xvda", "bad.cow");
    let ring = hostile.ring(0);
    ring.set_request_producer(ring.request_producer().wrapping_add(1000));
    ring.channel().notify();
    let xenstore = rig.host.xenstore();
    xenstore
        .wait_for_value(&bad_disk.backend_node("state"), "5", PATIENCE)
        .unwrap();
    let errors = bad_disk.backend_path().replace("backend", "error/backend");
    let reason = xenstore.read_text(&format!("{errors}/error")).unwrap();
    assert!(reason.contains("requests up to 1000"), "{reason}");
    assert_eq!(served.read(0, 512).unwrap(), base_sector(0));
    rig.destroy(&bad, &bad_disk);
    rig.detach(&good_disk, served);
    rig.assert_clear();
}

#[test]
fn a_frontend_that_offers_nonsense_is_told_so() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let disk = rig
        .host
        .toolstack()
        .attach(&guest, &rig.spec("xvda", &rig.overlay_target("vm.cow")))
        .unwrap();
    let xenstore = rig.host.xenstore();
    xenstore
        .write(&disk.frontend_node("ring-ref"), "four")
        .unwrap();
    xenstore
        .write(&disk.frontend_node("event-channel"), "1")
        .unwrap();
    xenstore.write(&disk.frontend_node("state"), "3").unwrap();
    xenstore
        .wait_for_value(&disk.backend_node("state"), "5", PATIENCE)
        .unwrap();
    rig.destroy(&guest, &disk);
    rig.assert_clear();
}

#[test]
fn what_was_not_offered_is_answered_and_the_disk_goes_on() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let disk = rig
        .host
        .toolstack()
        .attach(&guest, &rig.spec("xvda", &rig.overlay_target("vm.cow")))
        .unwrap();
    let mut frontend = Frontend::connect(
        &disk,
        FrontendOptions {
            persistent: false,
            ..options()
        },
    )
    .unwrap();
    let secure_discard = simxen::Request::Discard {
        sector: 0,
        sectors: 8,
        secure: true,
    };
    let id = frontend.submit(&secure_discard).unwrap();
    assert_eq!(frontend.wait(id).unwrap().status, -2);
    // Beyond the end of the disk.
    let id = frontend
        .submit(&simxen::Request::Read {
            sector: 8192,
            bytes: 512,
        })
        .unwrap();
    assert_eq!(frontend.wait(id).unwrap().status, -1);
    assert_eq!(frontend.read(0, 512).unwrap(), base_sector(0));
    rig.detach(&disk, frontend);
}

/// A guest whose every request is refused gets its answers at once, and room for more requests with each. Others are
/// served all the same. (How long such a guest could hold the worker without the limit of a ring of requests depends on
/// how the host schedules the two, so this shows the service and not the limit.)
#[test]
fn others_are_served_beside_a_guest_that_floods_its_ring() {
    let rig = Rig::start_with(&["--workers", "1"]);
    let (good, bad) = (rig.guest(1), rig.guest(2));
    let (good_disk, mut served) = rig.connect(&good, "xvda", "good.cow");
    let (bad_disk, mut hostile) = rig.connect(&bad, "xvda", "bad.cow");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A zeroed slot is a read without segments, which is refused. The answer lands in its slot before it is
            // published; whoever looks there can put the next request on the ring while the worker is still at it.
            let ring = hostile.ring(0);
            let size = ring.entry_count();
            let mut produced = ring.request_producer();
            let mut spins = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let status = &ring.read_entry(produced)[10..12];
                if produced >= size && status != [0xff, 0xff] {
                    spins += 1;
                    if spins.is_multiple_of(1 << 12) {
                        ring.channel().notify();
                    }
                    continue;
                }
                ring.write_entry(produced, &[0; 112]);
                produced += 1;
                ring.set_request_producer(produced);
            }
        });
        for round in 0..50 {
            assert_eq!(
                served.read(round, 512).unwrap(),
                base_sector(usize::try_from(round).unwrap())
            );
        }
        stop.store(true, Ordering::Relaxed);
    });
    rig.destroy(&bad, &bad_disk);
    rig.detach(&good_disk, served);
    rig.assert_clear();
}

#[test]
fn a_frontend_that_fails_to_connect_again_and_again_is_let_try_only_so_often() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let xenstore = rig.host.xenstore();
    let backend = |state: &str| {
        xenstore
            .wait_for_value(&disk.backend_node("state"), state, PATIENCE)
            .unwrap();
    };
    let frontend = |node: &str, value: &str| {
        xenstore.write(&disk.frontend_node(node), value).unwrap();
    };
    let page = guest.allocate_pages(1).unwrap();
    let gref = guest.grant(page, Access::ReadWrite).unwrap();
    frontend("ring-ref", &gref.0.to_string());
    frontend("event-channel", "12345");
    for _ in 0..20 {
        backend("2");
        frontend("state", "3");
        backend("5");
        frontend("state", "6");
        backend("6");
        frontend("state", "1");
    }
    backend("2");
    rig.daemon
        .wait_for_log("failed to connect too often", PATIENCE)
        .unwrap();
    let log = rig.daemon.log();
    let tries = log.matches("event channel 12345").count();
    assert!(tries > 0, "{log}");
    rig.destroy(&guest, &disk);
    rig.assert_clear();
}

#[test]
fn a_device_that_was_detached_before_is_refused_at_once() {
    let rig = Rig::start();
    let (one, two) = (rig.guest(1), rig.guest(2));
    let (disk, frontend) = rig.connect(&one, "xvda", "one.cow");
    rig.detach(&disk, frontend);
    rig.destroy(&one, &disk);
    let (_held, _frontend) = rig.connect(&two, "xvda", "two.cow");
    let spec = rig.spec("xvda", &rig.overlay_target("two.cow"));
    let again = rig.guest(1);
    let error = rig.host.toolstack().attach(&again, &spec).unwrap_err();
    assert!(error.to_string().contains("in use by"), "{error}");
}
