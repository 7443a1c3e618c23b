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

/// Rounds until the daemon has made what it makes once (threads, caches), and its allocator mostly has the memory that it
/// needs for disks to come and go: how far that is fragmented grows more and more slowly.
const WARM_UP: u64 = 100;

/// How much more memory the daemon may use in the end than after the first rounds, in bytes for each round since: a page of
/// a request, or the state of a ring, that is lost each time would be more.
const GROWTH_MAX: u64 = 4096;

/// Some rounds call the daemon from the script. The others are faster.
fn connect(rig: &Rig, guest: &Domain, vdev: &str, image: &str, round: u64) -> (Disk, Frontend) {
    match round % 8 {
        0 => rig.connect(guest, vdev, image),
        _ => rig.connect_without_script(guest, vdev, image),
    }
}

fn assert_no_growth(rig: &Rig, before: usize, rounds: u64) {
    let now = rig.anonymous_memory();
    println!("after {rounds} rounds it uses {now} bytes of memory, and used {before} before");
    let growth = u64::try_from(now.saturating_sub(before)).unwrap();
    assert!(growth <= GROWTH_MAX * rounds, "it uses {growth} bytes more");
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
        // Not up to the sector that is looked at.
        frontend.write(round % 1000 * 8, &[fill; 8192]).unwrap();
        if round % 2 == 0 {
            frontend.flush().unwrap();
        }
        assert_eq!(frontend.read(8191, 512).unwrap(), base_sector(8191));
        rig.detach(&disk, frontend);
        // A disk that does nothing gives its mapped pages back, and would not hold what it held before.
        assert_eq!(first.read(0, 4096).unwrap(), [1; 4096]);
    }
    let (held, memory) = before.expect("it was warm");
    rig.assert_holds(&held, "with all other disks gone");
    assert_no_growth(&rig, memory, comings());
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
    assert_no_growth(&rig, memory, destructions());
    rig.assert_clear();
    rig.assert_clean("vm.cow");
    assert_no_nodes(rig.host.xenstore());
}

fn assert_no_nodes(xenstore: &Xenstore) {
    let left = xenstore.dump("/local/domain/0/backend");
    let of_disks = |(path, _): &&(String, String)| path.ends_with("/state");
    assert_eq!(left.iter().find(of_disks), None);
}
