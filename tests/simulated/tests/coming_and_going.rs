//! Disks come and go, and guests are destroyed in the middle of their work: nothing of them is left.

use simulated::{Rig, base_sector};
use simxen::{Disk, Domain, Frontend, Request, Xenstore};

/// How often a disk is attached and detached; `COMINGS` in the environment says otherwise.
fn comings() -> u64 {
    std::env::var("COMINGS").map_or(300, |comings| comings.parse().expect("a number"))
}

/// How often a guest is destroyed: half as often.
fn destructions() -> u64 {
    comings() / 2
}

/// Rounds until the daemon has made what it makes once: threads, caches, what its allocator keeps.
const WARM_UP: u64 = 100;

/// In how many parts of the rounds after those memory is looked at. What is lost each time grows in all of them; what a
/// thread needs once, when it is first used, in one.
const PARTS: usize = 3;

/// How much more memory the daemon may use at the end of a part than at its beginning, in bytes for each round: what is lost
/// of a disk each time would be more.
const GROWTH_MAX: u64 = 1024;

/// The same over all rounds, of which one part may have needed much once.
const GROWTH_ONCE_MAX: u64 = 4096;

/// How much memory the daemon used at the beginning and at the end of each part.
#[derive(Default)]
struct Memory(Vec<usize>);

impl Memory {
    /// Looks at it, if a part ends before this round of so many.
    fn look(&mut self, rig: &Rig, round: u64, rounds: u64) {
        let of_part = rounds / PARTS as u64;
        if round >= WARM_UP && (round - WARM_UP).is_multiple_of(of_part) {
            self.0.push(rig.anonymous_memory());
        }
    }

    fn assert_no_growth(&self, rounds: u64) {
        assert_eq!(self.0.len(), PARTS + 1);
        let growths = self
            .0
            .windows(2)
            .map(|ends| ends[1].saturating_sub(ends[0]));
        let least = growths.min().expect("there are parts");
        println!(
            "in {rounds} rounds the daemon used so many bytes: {:?}",
            self.0
        );
        let all = self.0[PARTS].saturating_sub(self.0[0]);
        assert!(
            all as u64 <= GROWTH_ONCE_MAX * rounds,
            "it has grown: {:?}",
            self.0
        );
        let bound = GROWTH_MAX * rounds / PARTS as u64;
        assert!(least as u64 <= bound, "it grows all the time: {:?}", self.0);
    }
}

/// Some rounds call the daemon from the script. The others are faster.
fn connect(rig: &Rig, guest: &Domain, vdev: &str, image: &str, round: u64) -> (Disk, Frontend) {
    match round % 8 {
        0 => rig.connect(guest, vdev, image),
        _ => rig.connect_without_script(guest, vdev, image),
    }
}

#[test]
fn nothing_is_left_of_disks_that_came_and_went() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (_first, mut first) = rig.connect(&guest, "xvda", "first.cow");
    first.write(0, &[1; 4096]).unwrap();
    let (mut held, mut memory) = (None, Memory::default());
    for round in 0..WARM_UP + comings() {
        memory.look(&rig, round, comings());
        if round == WARM_UP {
            held = Some(rig.held());
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
    rig.assert_holds(&held.expect("it was warm"), "with all other disks gone");
    memory.look(&rig, WARM_UP + comings(), comings());
    memory.assert_no_growth(comings());
    // The disk that stayed was not disturbed.
    assert_eq!(first.read(0, 4096).unwrap(), [1; 4096]);
    for image in 0..3 {
        rig.assert_clean(&format!("{image}.cow"));
    }
}

#[test]
fn nothing_is_left_of_guests_that_were_destroyed_at_work() {
    let rig = Rig::start();
    let (mut held, mut memory) = (None, Memory::default());
    for round in 0..WARM_UP + destructions() {
        memory.look(&rig, round, destructions());
        if round == WARM_UP {
            held = Some(rig.held());
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
    rig.assert_holds(&held.expect("it was warm"), "with all guests gone");
    memory.look(&rig, WARM_UP + destructions(), destructions());
    memory.assert_no_growth(destructions());
    rig.assert_clear();
    rig.assert_clean("vm.cow");
    assert_no_nodes(rig.host.xenstore());
}

fn assert_no_nodes(xenstore: &Xenstore) {
    let left = xenstore.dump("/local/domain/0/backend");
    let of_disks = |(path, _): &&(String, String)| path.ends_with("/state");
    assert_eq!(left.iter().find(of_disks), None);
}
