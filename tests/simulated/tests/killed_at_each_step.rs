//! The daemon dies at each of its steps in turn: each store to the journal and to the bits, each response that was published
//! and not notified, each operation that was carried out and not noticed. So does the next one, at steps of its own.

use std::time::{Duration, Instant};

use simulated::{PATIENCE, Rig, base_content, options};
use simxen::{Frontend, FrontendOptions, Request, RequestId};

/// Sectors that the requests of a round are about.
const SECTORS: usize = 256;

/// What a guest does in each round: something of every kind, none of which touches what another one does.
struct Guest {
    frontend: Frontend,
    content: Vec<u8>,
    round: u8,
    under_way: Vec<(RequestId, Option<Vec<u8>>)>,
}

impl Guest {
    fn fill(&mut self, start: usize, len: usize, with: u8) -> Vec<u8> {
        self.content[start * 512..(start + len) * 512].fill(with);
        vec![with; len * 512]
    }

    fn begin(&mut self, request: &Request<'_>, expected: Option<Vec<u8>>) {
        let id = self.frontend.submit(request).unwrap();
        self.under_way.push((id, expected));
    }

    fn begin_round(&mut self) {
        self.round = self.round % 250 + 1;
        let round = self.round;
        // Each round begins with blocks that no round before it has written, until there are none.
        let fresh = SECTORS + usize::from(round) * 24;
        for (sector, len, with) in [(fresh, 8, round), (fresh + 11, 3, round), (0, 20, round)] {
            let data = self.fill(sector, len, with);
            let sector = sector as u64;
            self.begin(
                &Request::Write {
                    sector,
                    data: &data,
                },
                None,
            );
        }
        self.begin(&Request::Flush, None);
        let data = self.fill(fresh + 16, 8, round);
        let barrier = Request::WriteBarrier {
            sector: fresh as u64 + 16,
            data: &data,
        };
        self.begin(&barrier, None);
        self.fill(64, 16, 0);
        let discard = Request::Discard {
            sector: 64,
            sectors: 16,
            secure: false,
        };
        self.begin(&discard, None);
        let expected = self.content[100 * 512..200 * 512].to_vec();
        let read = Request::Read {
            sector: 100,
            bytes: 100 * 512,
        };
        self.begin(&read, Some(expected));
    }

    /// Waits until all of the round is answered, or the daemon is dead. Says which: whether all is answered.
    fn wait(&mut self, rig: &mut Rig) -> bool {
        let begun = Instant::now();
        loop {
            let is_running = rig.daemon.is_running();
            for completion in self.frontend.poll_completions().unwrap() {
                let at = self
                    .under_way
                    .iter()
                    .position(|(id, _)| *id == completion.id);
                let (_, expected) = self.under_way.swap_remove(at.expect("answered once"));
                assert_eq!(completion.status, 0);
                assert!(expected.is_none() || completion.data == expected);
            }
            if self.under_way.is_empty() {
                return true;
            }
            if !is_running {
                return false;
            }
            assert!(begun.elapsed() < PATIENCE, "neither dead nor done");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn check(&mut self) {
        for start in [0, SECTORS + usize::from(self.round) * 24] {
            let found = self.frontend.read(start as u64, 256 * 512).unwrap();
            let wanted = &self.content[start * 512..(start + 256) * 512];
            assert!(
                found == wanted,
                "round {}: sectors from {start}",
                self.round
            );
        }
    }
}

fn kill_at_each_step(way: FrontendOptions) {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let mut guest = Guest {
        frontend: Frontend::connect(&disk, way).unwrap(),
        content: base_content(),
        round: 0,
        under_way: Vec::new(),
    };
    let mut kills = 0;
    for step in 1.. {
        rig.restart_to_die_at(Some(step));
        guest.begin_round();
        if guest.wait(&mut rig) {
            break;
        }
        // The next one dies as well, at another of its steps each time.
        rig.restart_to_die_at(Some(step * 7 % 40 + 1));
        kills += 1 + u64::from(!guest.wait(&mut rig));
        rig.restart_to_die_at(None);
        assert!(guest.wait(&mut rig), "a daemon that lives answers");
        guest.check();
    }
    println!("{kills} kills");
    assert!(kills > 60, "only {kills} kills: are there no steps?");
    rig.restart_to_die_at(None);
    guest.check();
    rig.detach(&disk, guest.frontend);
    rig.assert_clean("vm.cow");
}

#[test]
fn a_guest_notices_nothing_whichever_step_the_daemon_dies_at() {
    kill_at_each_step(options());
}

#[test]
fn nor_does_one_whose_data_is_copied() {
    kill_at_each_step(FrontendOptions {
        persistent: false,
        ..options()
    });
}
