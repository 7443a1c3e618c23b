//! Frontends close and come back, or come back without having closed, any number of times.

use simulated::{PATIENCE, Rig, options};
use simxen::{Abi, BackendAccount, Disk, Domain, Frontend, FrontendOptions};

/// How often each of them comes back.
const ROUNDS: u8 = 50;

/// Another way to connect for each round: rings, queues, grants, ABI.
fn way(round: u8) -> FrontendOptions {
    let kinds = [
        (0, 1, true, Abi::X86_64),
        (2, 1, false, Abi::X86_64),
        (0, 4, true, Abi::X86_64),
        (0, 1, false, Abi::X86_32),
        (4, 2, true, Abi::X86_64),
        (1, 3, false, Abi::X86_64),
        (3, 1, true, Abi::X86_32),
    ];
    let (ring_order, queues, persistent, abi) = kinds[usize::from(round) % kinds.len()];
    FrontendOptions {
        ring_order,
        queues,
        persistent,
        abi,
        ..options()
    }
}

/// What an earlier driver has written and the next one may not write is removed, as by a driver that knows of it.
fn forget_rings(rig: &Rig, disk: &Disk) {
    let xenstore = rig.host.xenstore();
    for name in ["multi-queue-num-queues", "ring-page-order"] {
        xenstore.rm(&disk.frontend_node(name)).unwrap();
    }
}

fn set_state(rig: &Rig, disk: &Disk, state: &str) {
    let node = disk.frontend_node("state");
    rig.host.xenstore().write(&node, state).unwrap();
}

fn wait_for_state(rig: &Rig, disk: &Disk, state: &str) {
    let node = disk.backend_node("state");
    rig.host
        .xenstore()
        .wait_for_value(&node, state, PATIENCE)
        .unwrap();
}

/// What every frontend does: it finds what the one before it wrote, and writes something else.
fn use_disk(frontend: &mut Frontend, round: u8) {
    for place in 0..6u64 {
        let sector = place * 1000;
        if round > 0 {
            assert_eq!(frontend.read(sector, 4096).unwrap(), [round; 4096]);
        }
        frontend.write(sector, &[round + 1; 4096]).unwrap();
    }
    frontend.flush().unwrap();
}

/// What the daemon holds; it is the only backend.
fn held(rig: &Rig) -> (usize, usize) {
    let count = |part: fn(&BackendAccount) -> usize| rig.host.accounts().iter().map(part).sum();
    (
        count(|account| account.grants_mapped),
        count(|account| account.channels_bound),
    )
}

/// What the daemon has open, without the numbers by which sockets and the like differ.
fn descriptors(rig: &Rig) -> Vec<String> {
    let folder = format!("/proc/{}/fd", rig.daemon.pid());
    let mut kinds: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        // One that is closed meanwhile is not counted.
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| {
            target
                .to_str()
                .unwrap()
                .replace(|c: char| c.is_ascii_digit(), "")
        })
        .collect();
    kinds.sort();
    kinds
}

/// A host with a guest, whose daemon has made what it makes once, for the first disk of the guest, and what it has open then.
fn begin() -> (Rig, Domain, Vec<String>) {
    let rig = Rig::start_with(&["--queues", "4"]);
    let guest = rig.guest(1);
    let (disk, frontend) = rig.connect(&guest, "xvda", "first.cow");
    rig.detach(&disk, frontend);
    rig.wait_until_gone(&disk);
    rig.assert_clear();
    let open = descriptors(&rig);
    (rig, guest, open)
}

fn finish(rig: &Rig, disk: &Disk, frontend: Frontend, open_before: &[String]) {
    rig.detach(disk, frontend);
    rig.assert_clear();
    rig.wait_until_gone(disk);
    rig.assert_clean("vm.cow");
    // Of no kind more than before, when the connection of `list` is gone.
    let begun = std::time::Instant::now();
    loop {
        let mut open = descriptors(rig);
        for kind in open_before {
            if let Some(at) = open.iter().position(|open| open == kind) {
                open.remove(at);
            }
        }
        if open.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "still open: {open:?}");
        std::thread::yield_now();
    }
}

#[test]
fn a_frontend_that_closes_comes_back_in_every_shape() {
    let (rig, guest, open) = begin();
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for round in 0..ROUNDS {
        use_disk(&mut frontend, round);
        frontend.close().unwrap();
        assert_eq!(held(&rig), (0, 0), "round {round}");
        forget_rings(&rig, &disk);
        frontend = Frontend::connect(&disk, way(round)).unwrap();
    }
    use_disk(&mut frontend, ROUNDS);
    finish(&rig, &disk, frontend, &open);
}

/// A crash kernel in a PV guest, or any driver that knows nothing of the one before it, begins in state 1. The rings of the
/// old one, with requests on them, are given back before the new one is connected.
#[test]
fn a_frontend_that_begins_anew_without_closing_is_connected_anew() {
    let (rig, guest, open) = begin();
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for round in 0..ROUNDS {
        use_disk(&mut frontend, round);
        drop(frontend);
        forget_rings(&rig, &disk);
        frontend = Frontend::connect(&disk, way(round)).unwrap();
        // Nothing of the old one is left beside the rings of the new one.
        let way = way(round);
        let pages = usize::try_from(way.queues << way.ring_order).unwrap();
        let channels = usize::try_from(way.queues).unwrap();
        assert_eq!(held(&rig), (pages, channels), "round {round}");
    }
    use_disk(&mut frontend, ROUNDS);
    finish(&rig, &disk, frontend, &open);
}

/// It goes from 4 straight to 3, or is seen in 4 only, with other rings each time.
#[test]
fn a_frontend_that_goes_straight_to_other_rings_is_connected_to_them() {
    let (rig, guest, open) = begin();
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for round in 0..ROUNDS {
        use_disk(&mut frontend, round);
        drop(frontend);
        forget_rings(&rig, &disk);
        frontend = Frontend::connect_at_once(&disk, way(round)).unwrap();
    }
    use_disk(&mut frontend, ROUNDS);
    finish(&rig, &disk, frontend, &open);
}

/// The kernel of a guest after kexec, or its crash kernel: before any driver is there it brings the backend from state 4
/// through 5 and 6 to 2, and waits for each of them for five seconds (Linux's `xenbus_reset_frontend`).
#[test]
fn a_kernel_after_kexec_takes_the_backend_back_to_its_beginning() {
    let (rig, guest, open) = begin();
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for round in 0..ROUNDS {
        use_disk(&mut frontend, round);
        drop(frontend);
        for (own, backend) in [("5", "5"), ("6", "6"), ("1", "2")] {
            set_state(&rig, &disk, own);
            wait_for_state(&rig, &disk, backend);
        }
        assert_eq!(held(&rig), (0, 0), "round {round}");
        forget_rings(&rig, &disk);
        frontend = Frontend::connect(&disk, way(round)).unwrap();
    }
    use_disk(&mut frontend, ROUNDS);
    finish(&rig, &disk, frontend, &open);
}

/// The drivers of Windows close the device once when they first meet it, before they have ever connected.
#[test]
fn a_frontend_may_close_before_it_connects() {
    let (rig, guest, open) = begin();
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    for round in 0..ROUNDS {
        for (own, backend) in [("5", "5"), ("6", "6"), ("1", "2")] {
            set_state(&rig, &disk, own);
            wait_for_state(&rig, &disk, backend);
        }
        // It is as new.
        let mut frontend = Frontend::connect(&disk, options()).unwrap();
        use_disk(&mut frontend, round);
        frontend.close().unwrap();
        assert_eq!(held(&rig), (0, 0), "round {round}");
        set_state(&rig, &disk, "1");
        wait_for_state(&rig, &disk, "2");
    }
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    use_disk(&mut frontend, ROUNDS);
    finish(&rig, &disk, frontend, &open);
}
