//! Disks come and go, and guests are destroyed in the middle of their work: nothing of them is left.

use simulated::{Rig, base_sector};
use simxen::{Disk, Domain, Frontend, Request, Xenstore};

/// How often a disk is attached and detached; `COMINGS` in the environment says otherwise.
fn comings() -> u64 {
    std::env::var("COMINGS").map_or(200, |comings| comings.parse().expect("a number"))
}

/// How often a guest is destroyed: half as often.
fn destructions() -> u64 {
    comings() / 2
}

/// Rounds until the daemon has made what it makes once: threads, caches, memory of allocators.
const WARM_UP: u64 = 20;

/// How much more memory the daemon may use in the end than after the first rounds, in bytes. A request's page that is lost
/// in each round would be more.
const GROWTH_MAX: usize = 1 << 20;

/// Some rounds call the daemon from the script. The others are faster.
fn connect(rig: &Rig, guest: &Domain, vdev: &str, image: &str, round: u64) -> (Disk, Frontend) {
    match round % 8 {
        0 => rig.connect(guest, vdev, image),
        _ => rig.connect_without_script(guest, vdev, image),
    }
}

fn assert_no_growth(rig: &Rig, before: usize) {
    let now = rig.anonymous_memory();
    assert!(
        now <= before + GROWTH_MAX,
        "it uses {now} bytes of memory, and used {before} before"
    );
}

#[test]
fn nothing_is_left_of_disks_that_came_and_went() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (_first, mut first) = rig.connect(&guest, "xvda", "first.cow");
    first.write(0, &[1; 4096]).unwrap();
    let mut before = None;
    for round in 0..WARM_UP + comings() {
        if round == WARM_UP {
            before = Some((rig.held(), rig.anonymous_memory()));
        }
        let image = format!("{}.cow", round % 3);
        let (disk, mut frontend) = connect(&rig, &guest, "xvdb", &image, round);
        let fill = u8::try_from(round % 251).unwrap();
        frontend.write(round % 1024 * 8, &[fill; 8192]).unwrap();
        if round % 2 == 0 {
            frontend.flush().unwrap();
        }
        assert_eq!(frontend.read(8191, 512).unwrap(), base_sector(8191));
        rig.detach(&disk, frontend);
    }
    let (held, memory) = before.expect("it was warm");
    rig.assert_holds(&held, "with all other disks gone");
    assert_no_growth(&rig, memory);
    // The disk that stayed was not disturbed.
    assert_eq!(first.read(0, 4096).unwrap(), [1; 4096]);
    for image in 0..3 {
        rig.assert_clean(&format!("{image}.cow"));
    }
}

#[test]
fn nothing_is_left_of_guests_that_were_destroyed_at_work() {
    let rig = Rig::start();
    let mut before = None;
    for round in 0..WARM_UP + destructions() {
        if round == WARM_UP {
            before = Some((rig.held(), rig.anonymous_memory()));
        }
        let guest = rig.guest(1);
        let (disk, mut frontend) = connect(&rig, &guest, "xvda", "vm.cow", round);
        let data = vec![u8::try_from(round % 251).unwrap(); 16 << 10];
        // A ring that is full, with nobody to take the answers.
        while frontend.ring(0).free_entries() > 0 {
            let sector = round * 31 % 4096 + u64::from(frontend.ring(0).free_entries()) * 32;
            let request = Request::Write {
                sector,
                data: &data,
            };
            frontend.submit(&request).unwrap();
        }
        rig.destroy(&guest, &disk);
    }
    let (held, memory) = before.expect("it was warm");
    rig.assert_holds(&held, "with all guests gone");
    assert_no_growth(&rig, memory);
    rig.assert_clear();
    rig.assert_clean("vm.cow");
    assert_no_nodes(rig.host.xenstore());
}

fn assert_no_nodes(xenstore: &Xenstore) {
    let left = xenstore.dump("/local/domain/0/backend");
    let of_disks = |(path, _): &&(String, String)| path.ends_with("/state");
    assert_eq!(left.iter().find(of_disks), None);
}
