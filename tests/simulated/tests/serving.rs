//! Guests use their disks.

use std::os::unix::fs::MetadataExt;

use simulated::{BASE_SIZE, PATIENCE, Rig, base_content, base_sector, options};
use simxen::{BackendKind, DiskSpec, Frontend, Hotplug, Request};

#[test]
fn a_guest_reads_the_base_and_what_it_wrote() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    assert_eq!(frontend.info().sectors, (BASE_SIZE / 512) as u64);
    assert_eq!(frontend.read(0, BASE_SIZE).unwrap(), base_content());
    frontend.write(3, &[7; 512]).unwrap();
    frontend.write(800, &vec![8; 300 * 512]).unwrap();
    frontend.flush().unwrap();
    let mut expected = base_content();
    expected[3 * 512..4 * 512].fill(7);
    expected[800 * 512..1100 * 512].fill(8);
    assert_eq!(frontend.read(0, BASE_SIZE).unwrap(), expected);
    rig.detach(&disk, frontend);
    rig.assert_clear();
    rig.assert_clean("vm.cow");
    assert_eq!(std::fs::read(rig.path("base.img")).unwrap(), base_content());

    // Attached again, also by the other way of specifying disks, everything is there.
    let spec = rig
        .spec("xvdb", rig.path("vm.cow").to_str().unwrap())
        .backend_kind(BackendKind::Vbd);
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    assert_eq!(frontend.read(0, BASE_SIZE).unwrap(), expected);
    rig.detach(&disk, frontend);
}

#[test]
fn guests_share_a_base_and_nothing_else() {
    let rig = Rig::start();
    let (one, two) = (rig.guest(1), rig.guest(2));
    let (first, mut fe1) = rig.connect(&one, "xvda", "one.cow");
    let (second, mut fe2) = rig.connect(&two, "xvda", "two.cow");
    fe1.write(0, &[1; 4096]).unwrap();
    fe2.write(8, &[2; 4096]).unwrap();
    assert_eq!(fe1.read(8, 512).unwrap(), base_sector(8));
    assert_eq!(fe2.read(0, 512).unwrap(), base_sector(0));
    let storage = std::fs::metadata(rig.path("one.cow")).unwrap().blocks() * 512;
    assert!(storage <= 64 << 10, "one.cow takes {storage} bytes");
    rig.detach(&first, fe1);
    rig.detach(&second, fe2);
    rig.assert_clear();
}

#[test]
fn a_frontend_without_persistent_grants_gets_its_pages_back() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let transient = simxen::FrontendOptions {
        persistent: false,
        ..options()
    };
    let mut frontend = Frontend::connect(&disk, transient).unwrap();
    for round in 0..20 {
        frontend.write(round * 8, &[5; 8192]).unwrap();
        assert_eq!(frontend.read(round * 8, 8192).unwrap(), [5; 8192]);
    }
    rig.detach(&disk, frontend);
    rig.assert_clear();
}

#[test]
fn a_full_ring_of_requests_is_answered() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for round in 0..40u64 {
        for i in 0..32u64 {
            let fill = u8::try_from((round + i) % 251).unwrap();
            let data = vec![fill; 512 * (1 + usize::try_from(i % 5).unwrap())];
            let sector = (round * 37 + i * 11) % 8000;
            let request = Request::Write {
                sector,
                data: &data,
            };
            frontend.submit(&request).unwrap();
        }
        frontend.submit(&Request::Flush).unwrap();
    }
    frontend.complete_all().unwrap();
    rig.detach(&disk, frontend);
    rig.assert_clean("vm.cow");
}

#[test]
fn a_read_only_disk_refuses_writes_and_leaves_the_image_alone() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    rig.detach(&disk, frontend);
    let before = std::fs::read(rig.path("vm.cow")).unwrap();
    let spec = rig
        .spec("xvda", rig.path("vm.cow").to_str().unwrap())
        .read_only();
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    assert_eq!(frontend.info().info, 4);
    assert!(frontend.write(0, &[1; 512]).is_err());
    assert_eq!(frontend.read(0, 512).unwrap(), base_sector(0));
    rig.detach(&disk, frontend);
    assert!(std::fs::read(rig.path("vm.cow")).unwrap() == before);
}

#[test]
fn a_frontend_may_close_and_come_back() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for round in 0..5u8 {
        frontend.write(u64::from(round), &[round; 512]).unwrap();
        frontend.close().unwrap();
        rig.assert_clear();
        frontend = Frontend::connect(&disk, options()).unwrap();
        assert_eq!(frontend.read(u64::from(round), 512).unwrap(), [round; 512]);
    }
    rig.detach(&disk, frontend);
}

#[test]
fn a_guest_destroyed_under_load_leaves_nothing_and_can_be_created_again() {
    let rig = Rig::start();
    for domid in 1..=5 {
        let guest = rig.guest(domid);
        let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
        for i in 0..30u64 {
            let data = [u8::try_from(domid).unwrap(); 4096];
            let request = Request::Write {
                sector: i * 8,
                data: &data,
            };
            frontend.submit(&request).unwrap();
        }
        rig.destroy(&guest, &disk);
        rig.assert_clear();
        rig.assert_clean("vm.cow");
        rig.wait_until_gone(&disk);
    }
    assert_eq!(rig.list(), serde_json::json!([]));
}

#[test]
fn disks_of_other_scripts_are_not_touched() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let spec = DiskSpec::new("xvdb", "/images/other.img").script("/etc/xen/scripts/block-tap");
    let other = rig.host.toolstack().create_nodes(&guest, &spec).unwrap();
    // By the time that our own disk is served, the other one has been looked at.
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let xenstore = rig.host.xenstore();
    assert_eq!(
        xenstore.read_text(&other.backend_node("state")).as_deref(),
        Some("1")
    );
    rig.detach(&disk, frontend);
}

#[test]
fn xenstore_tells_the_life_of_a_disk() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    let toolstack = rig.host.toolstack();
    let disk = toolstack.create_nodes(&guest, &spec).unwrap();
    toolstack.wait_for_backend(&disk).unwrap();
    let xenstore = rig.host.xenstore();
    let node = |name: &str| xenstore.read_text(&disk.backend_node(name));
    assert_eq!(node("feature-flush-cache").as_deref(), Some("1"));
    assert_eq!(node("feature-persistent").as_deref(), Some("1"));
    assert_eq!(node("sectors"), None);
    toolstack.hotplug_add(&disk).unwrap();
    assert_eq!(node("hotplug-status").as_deref(), Some("connected"));
    let frontend = Frontend::connect(&disk, options()).unwrap();
    assert_eq!(node("state").as_deref(), Some("4"));
    assert_eq!(node("sectors").as_deref(), Some("8192"));
    assert_eq!(node("sector-size").as_deref(), Some("512"));
    assert_eq!(node("info").as_deref(), Some("0"));
    let list = rig.list();
    assert_eq!(list[0]["device"], "backend/vbd3/1/51712");
    assert_eq!(list[0]["vdev"], "xvda");
    assert_eq!(list[0]["state"], "Connected");
    assert_eq!(list[0]["virtual_size_bytes"], BASE_SIZE);
    toolstack.begin_detach(&disk).unwrap();
    frontend.close_as_asked().unwrap();
    xenstore
        .wait_for_value(&disk.backend_node("state"), "6", PATIENCE)
        .unwrap();
    toolstack.finish_detach(&disk).unwrap();
    rig.wait_until_gone(&disk);
    assert_eq!(rig.list(), serde_json::json!([]));
}

#[test]
fn a_disk_that_was_connected_without_asking_the_daemon_is_served() {
    // As after a restart of the daemon between the script and the frontend.
    let rig = Rig::start();
    let guest = rig.guest(1);
    let target = rig.overlay_target("vm.cow");
    let spec = DiskSpec::new("xvda", &target).hotplug(Hotplug::Pretend {
        physical_device_path: "vm.cow".to_owned(),
    });
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    assert_eq!(frontend.read(9, 512).unwrap(), base_sector(9));
    rig.detach(&disk, frontend);
}
