//! Two hosts that share the storage of their images, and locks on it: whose image it is passes explicitly, and whole.

use simulated::{PATIENCE, Rig};
use simxen::{Disk, Domain, Frontend};

/// Attaches an image of the first host to a guest of either.
fn attach(rig: &Rig, domain: &Domain, target: &str) -> simxen::Result<Disk> {
    let spec = rig.spec("xvda", target);
    rig.host.toolstack().attach(domain, &spec)
}

fn refuses(rig: &Rig, domain: &Domain, target: &str) {
    let error = attach(rig, domain, target).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
}

/// The domain in which one host receives the guest that is domain 1 of the other.
fn received(there: &Rig, here: &Rig) -> Domain {
    let domain = there.guest(2);
    let vm = here
        .host
        .xenstore()
        .read_text("/local/domain/1/vm")
        .unwrap();
    let xenstore = there.host.xenstore();
    xenstore.write("/local/domain/2/vm", vm).unwrap();
    let name = "guest-1--incoming";
    xenstore.write("/local/domain/2/name", name).unwrap();
    domain
}

fn connect(disk: &Disk) -> Frontend {
    Frontend::connect(disk, simulated::options()).unwrap()
}

#[test]
fn the_other_host_gets_an_image_when_it_was_let_go_of_and_sees_every_bit() {
    let (here, there) = (Rig::start(), Rig::start());
    let target = here.overlay_target("vm.cow");
    let disk = attach(&here, &here.guest(1), &target).unwrap();
    let mut frontend = connect(&disk);
    frontend.write(0, &[1; 65536]).unwrap();
    refuses(&there, &there.guest(1), &target);
    refuses(&there, &received(&there, &here), &target);
    frontend.write(1024, &[2; 4096]).unwrap();
    // As when the guest is saved.
    here.detach(&disk, frontend);
    let moved = attach(&there, &there.guest(3), &target).unwrap();
    let mut frontend = connect(&moved);
    assert_eq!(frontend.read(0, 65536).unwrap(), [1; 65536]);
    assert_eq!(frontend.read(1024, 4096).unwrap(), [2; 4096]);
    refuses(&here, &here.guest(2), &target);
    there.detach(&moved, frontend);
    here.assert_clean("vm.cow");
}

#[test]
fn a_guest_is_not_led_on_over_what_another_host_wrote_while_its_daemon_was_dead() {
    let (mut here, there) = (Rig::start(), Rig::start());
    let target = here.overlay_target("vm.cow");
    let disk = attach(&here, &here.guest(1), &target).unwrap();
    let mut frontend = connect(&disk);
    frontend.write(0, &[1; 4096]).unwrap();
    here.daemon.kill().unwrap();
    let stolen = attach(&there, &there.guest(1), &target).unwrap();
    let mut thief = connect(&stolen);
    // Where a block is already: no bit tells of it.
    thief.write(0, &[2; 4096]).unwrap();
    there.detach(&stolen, thief);
    here.daemon.restart().unwrap();
    here.daemon
        .wait_for_log("left nothing to go on from", PATIENCE)
        .unwrap();
}
