//! The daemon is killed again and again, at moments of nobody's choice, under a guest that knows what every sector has
//! to hold.

use std::path::Path;
use std::time::Duration;

use simulated::{PATIENCE, Rig, base_content, options};
use simxen::{Frontend, FrontendOptions, Request};

/// How often the daemon is killed; `KILLS` in the environment says otherwise.
fn kills() -> u64 {
    std::env::var("KILLS").map_or(60, |kills| kills.parse().expect("a number"))
}

/// The same numbers each time, so that a failure is seen again.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What the disk has to hold.
struct Oracle {
    content: Vec<u8>,
    /// Of the last sector written: no two writes have the same content.
    stamp: u64,
}

impl Oracle {
    fn range(&self, start: u64, len: u64) -> &[u8] {
        let at = |sector| usize::try_from(sector * 512).expect("a small disk");
        &self.content[at(start)..at(start + len)]
    }

    /// Changes sectors; gives their new content.
    fn write(&mut self, start: u64, len: u64) -> Vec<u8> {
        let mut data = Vec::new();
        for _ in 0..len {
            self.stamp += 1;
            data.extend(self.stamp.to_le_bytes().repeat(64));
        }
        let at = usize::try_from(start * 512).expect("a small disk");
        self.content[at..at + data.len()].copy_from_slice(&data);
        data
    }
}

impl Oracle {
    /// Discards sectors: of those, the ones in whole blocks become zeros.
    fn discard(&mut self, start: u64, len: u64) -> Request<'static> {
        let at = |sector| usize::try_from(sector * 512).expect("a small disk");
        let (first, end) = (start.next_multiple_of(8), (start + len) / 8 * 8);
        if first < end {
            self.content[at(first)..at(end)].fill(0);
        }
        Request::Discard {
            sector: start,
            sectors: len,
            secure: false,
        }
    }
}

/// Sectors of the disk.
const SECTORS: u64 = 2048;

#[test]
fn a_guest_notices_nothing_however_often_the_daemon_is_killed() {
    kill_again_and_again(&std::env::temp_dir(), options());
}

/// In memory the daemon does itself what it has a thread of the kernel do elsewhere.
#[test]
fn nor_does_one_whose_image_is_in_memory() {
    let memory = Path::new("/dev/shm");
    kill_again_and_again(memory, options());
}

#[test]
fn nor_does_one_with_several_queues_whose_data_is_copied() {
    let way = FrontendOptions {
        queues: 3,
        ring_order: 2,
        persistent: false,
        segments_max: 256,
        ..options()
    };
    kill_again_and_again(&std::env::temp_dir(), way);
}

fn kill_again_and_again(place: &Path, way: FrontendOptions) {
    let mut rig = Rig::start_in(place, &["--queues", "4"]);
    let guest = rig.guest(1);
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let mut frontend = Frontend::connect(&disk, way).unwrap();
    let mut random = SplitMix(1);
    let mut oracle = Oracle {
        content: base_content(),
        stamp: 1 << 32,
    };
    for _ in 0..kills() {
        // A ring of requests, none of which touches what another one does, as a guest's block layer sees to it.
        let mut taken = Vec::new();
        let mut under_way = Vec::new();
        for _ in 0..random.below(30) + 1 {
            let longest = if random.below(8) == 0 { 200 } else { 16 };
            let len = 1 + random.below(longest);
            let start = random.below(SECTORS - len);
            let is_free = |(at, until): &(u64, u64)| *until <= start || start + len <= *at;
            if !taken.iter().all(is_free) {
                continue;
            }
            taken.push((start, start + len));
            match random.below(12) {
                0 => {
                    under_way.push((frontend.submit(&Request::Flush).unwrap(), None));
                }
                10 => {
                    let discard = oracle.discard(start, len);
                    under_way.push((frontend.submit(&discard).unwrap(), None));
                }
                // An indirect request carries none.
                11 if len <= 80 => {
                    let data = oracle.write(start, len);
                    let barrier = Request::WriteBarrier {
                        sector: start,
                        data: &data,
                    };
                    under_way.push((frontend.submit(&barrier).unwrap(), None));
                }
                1..4 => {
                    let bytes = usize::try_from(len * 512).expect("small");
                    let read = Request::Read {
                        sector: start,
                        bytes,
                    };
                    let expected = oracle.range(start, len).to_vec();
                    under_way.push((frontend.submit(&read).unwrap(), Some(expected)));
                }
                _ => {
                    let data = oracle.write(start, len);
                    let write = Request::Write {
                        sector: start,
                        data: &data,
                    };
                    under_way.push((frontend.submit(&write).unwrap(), None));
                }
            }
        }
        // Long enough for some of them to be answered, short enough for some not to be.
        std::thread::sleep(Duration::from_micros(random.below(3000)));
        rig.daemon.kill().unwrap();
        rig.daemon.restart().unwrap();
        // Some are killed again while they take over.
        if random.below(3) == 0 {
            std::thread::sleep(Duration::from_micros(random.below(40_000)));
            rig.daemon.kill().unwrap();
            rig.daemon.restart().unwrap();
        }
        for (id, expected) in under_way {
            let completion = frontend.wait(id).unwrap();
            assert_eq!(completion.status, 0);
            if let Some(expected) = expected {
                assert!(
                    completion.data == Some(expected),
                    "a read shows something else"
                );
            }
        }
    }
    for start in (0..SECTORS).step_by(64) {
        let found = frontend.read(start, 64 * 512).unwrap();
        assert!(
            found == oracle.range(start, 64),
            "sectors from {start} show something else"
        );
    }
    let xenstore = rig.host.xenstore();
    let state = xenstore.read_text(&disk.backend_node("state"));
    assert_eq!(state.as_deref(), Some("4"));
    rig.detach(&disk, frontend);
    rig.host.wait_until_clear(PATIENCE).unwrap();
    rig.assert_clean("vm.cow");
    // Nothing is left of it.
    let left = std::fs::read_dir(rig.path("run/disks")).unwrap().count();
    assert_eq!(left, 0);
}
