//! A guest moves to another domain of the host, as `xl migrate` to the same host does: the new domain's disk is made while the
//! old domain is suspended and still there.

use simulated::{PATIENCE, Rig};
use simxen::{Disk, DiskSpec, Domain, Frontend, Request};

/// The domain in which a guest is being received that is in domain 1 so far.
fn incoming(rig: &Rig, domid: u16) -> Domain {
    let domain = rig.guest(domid);
    let xenstore = rig.host.xenstore();
    let vm = xenstore.read_text("/local/domain/1/vm").unwrap();
    let home = format!("/local/domain/{domid}");
    xenstore.write(&format!("{home}/vm"), vm).unwrap();
    let name = "guest-1--incoming";
    xenstore.write(&format!("{home}/name"), name).unwrap();
    domain
}

fn attach(rig: &Rig, domain: &Domain) -> Disk {
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    rig.host.toolstack().attach(domain, &spec).unwrap()
}

fn connect(disk: &Disk) -> Frontend {
    Frontend::connect(disk, simulated::options()).unwrap()
}

/// Waits until the daemon serves the frontend of a disk again.
fn wait_until_served(rig: &Rig, domid: u16) {
    let begun = std::time::Instant::now();
    loop {
        let list = rig.list();
        let mut disks = list.as_array().unwrap().iter();
        if disks.any(|disk| disk["domid"] == domid && disk["connected"] == true) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{list}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn the_new_domain_sees_every_bit_that_the_old_one_wrote() {
    for killed in [false, true] {
        let mut rig = Rig::start();
        let old = rig.guest(1);
        let (first, mut frontend) = rig.connect(&old, "xvda", "vm.cow");
        frontend.write(0, &[1; 65536]).unwrap();
        // Under way when the domain is suspended; a driver asks for it again where it goes on.
        let id = frontend
            .submit(&Request::Write {
                sector: 1024,
                data: &[2; 4096],
            })
            .unwrap();
        let new = incoming(&rig, 2);
        let second = attach(&rig, &new);
        // It was not lost, and is not carried out later either.
        assert_eq!(frontend.wait(id).unwrap().status, 0);
        if killed {
            rig.daemon.restart().unwrap();
        }
        let mut moved = connect(&second);
        assert_eq!(moved.read(0, 65536).unwrap(), [1; 65536]);
        assert_eq!(moved.read(1024, 4096).unwrap(), [2; 4096]);
        moved.write(0, &[3; 4096]).unwrap();
        if killed {
            rig.daemon.restart().unwrap();
            assert_eq!(moved.read(0, 4096).unwrap(), [3; 4096]);
        }
        rig.destroy(&old, &first);
        assert_eq!(moved.read(0, 4096).unwrap(), [3; 4096]);
        rig.detach(&second, moved);
        rig.assert_clean("vm.cow");
        for folder in ["run/lent", "run/disks"] {
            let left = std::fs::read_dir(rig.path(folder)).unwrap().count();
            assert_eq!(left, 0, "something is left in {folder}");
        }
    }
}

#[test]
fn a_guest_whose_move_fails_goes_on_where_it_was() {
    for killed in [false, true] {
        let mut rig = Rig::start();
        let old = rig.guest(1);
        let (first, mut frontend) = rig.connect(&old, "xvda", "vm.cow");
        frontend.write(0, &[1; 65536]).unwrap();
        for domid in [2, 3] {
            let new = incoming(&rig, domid);
            let second = attach(&rig, &new);
            if killed {
                rig.daemon.restart().unwrap();
            }
            rig.destroy(&new, &second);
            wait_until_served(&rig, 1);
            assert_eq!(frontend.read(0, 65536).unwrap(), [1; 65536]);
            frontend.write(8, &[4; 4096]).unwrap();
            frontend.write(8, &[1; 4096]).unwrap();
        }
        rig.detach(&first, frontend);
        rig.assert_clean("vm.cow");
    }
}

#[test]
fn a_guest_whose_image_was_changed_elsewhere_is_not_led_on() {
    let mut rig = Rig::start();
    let old = rig.guest(1);
    let (_first, mut frontend) = rig.connect(&old, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    let new = incoming(&rig, 2);
    let second = attach(&rig, &new);
    let mut moved = connect(&second);
    moved.write(0, &[2; 4096]).unwrap();
    rig.detach(&second, moved);
    rig.host.toolstack().delete_nodes(&second).ok();
    rig.daemon
        .wait_for_log("left nothing to go on from", PATIENCE)
        .unwrap();
}

#[test]
fn two_guests_never_have_one_image() {
    let rig = Rig::start();
    let one = rig.guest(1);
    let (_first, mut frontend) = rig.connect(&one, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    let refuses = |domain: &Domain| {
        let spec: DiskSpec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
        let error = rig.host.toolstack().attach(domain, &spec).unwrap_err();
        assert!(error.to_string().contains("in use"), "{error}");
    };
    // Another guest, and one that says that it is being received.
    refuses(&rig.guest(2));
    let other = rig.guest(3);
    let name = "/local/domain/3/name";
    rig.host
        .xenstore()
        .write(name, "guest-1--incoming")
        .unwrap();
    refuses(&other);
    // The same guest, which is not being received.
    let again = incoming(&rig, 4);
    rig.host
        .xenstore()
        .write("/local/domain/4/name", "guest-1")
        .unwrap();
    refuses(&again);
    assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
}

#[test]
fn a_move_that_fails_while_no_daemon_runs_is_noticed_by_the_next() {
    let mut rig = Rig::start();
    let old = rig.guest(1);
    let (first, mut frontend) = rig.connect(&old, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    let new = incoming(&rig, 2);
    let second = attach(&rig, &new);
    rig.daemon.kill().unwrap();
    rig.host.toolstack().delete_nodes(&second).unwrap();
    rig.host.vanish_domain(&new).unwrap();
    rig.restart_until_it_answers();
    wait_until_served(&rig, 1);
    assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
    rig.detach(&first, frontend);
    rig.assert_clean("vm.cow");
}

#[test]
fn a_guest_is_not_led_on_over_what_was_changed_before_a_kill() {
    let mut rig = Rig::start();
    let old = rig.guest(1);
    let (_first, mut frontend) = rig.connect(&old, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    let new = incoming(&rig, 2);
    let second = attach(&rig, &new);
    let mut moved = connect(&second);
    // Where a block is already: no bit tells of it.
    moved.write(0, &[2; 4096]).unwrap();
    rig.daemon.kill().unwrap();
    drop(moved);
    rig.host.toolstack().delete_nodes(&second).unwrap();
    rig.host.vanish_domain(&new).unwrap();
    rig.daemon.restart().unwrap();
    rig.daemon
        .wait_for_log("left nothing to go on from", PATIENCE)
        .unwrap();
}
