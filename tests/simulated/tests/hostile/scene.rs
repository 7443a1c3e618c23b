//! A host with one worker, a guest that does nothing wrong, and a hostile one beside it.

use std::fs;
use std::time::Instant;

use simulated::{BASE_SIZE, PATIENCE, Rig, base_content, options};
use simxen::{Disk, Domain, Frontend, FrontendOptions};

use crate::attacker::Attacker;

/// Sectors of every disk here, unless a test makes its own.
pub(crate) const SECTORS: u64 = (BASE_SIZE / 512) as u64;

/// Most lines about all of a hostile guest's doings together, in the log that operators see.
const LOG_LINES_MAX: usize = 400;

/// Both ways in which a guest's data gets to the disk: through pages that stay mapped, and by copies.
pub(crate) const BOTH_WAYS: [bool; 2] = [true, false];

/// Everything that a hostile test works with.
pub(crate) struct Scene {
    pub(crate) rig: Rig,
    /// The hostile guest.
    pub(crate) guest: Domain,
    /// Its disk.
    pub(crate) disk: Disk,
    /// The name of its image, relative to the rig's folder.
    image: String,
    pub(crate) bystander: Bystander,
    pid: i32,
}

/// How the hostile guest's disk is made.
#[derive(Default)]
pub(crate) struct Victim<'t> {
    /// The target; an overlay of the base if there is none.
    pub(crate) target: Option<&'t str>,
    /// The image that the target names.
    pub(crate) image: Option<&'t str>,
    pub(crate) read_only: bool,
}

impl Scene {
    pub(crate) fn start() -> Self {
        Self::start_with(
            Rig::start_with(&["--workers", "1", "--queues", "8"]),
            &Victim::default(),
        )
    }

    pub(crate) fn start_with(rig: Rig, victim: &Victim<'_>) -> Self {
        let good = rig.guest(1);
        let (good_disk, frontend) = rig.connect(&good, "xvda", "good.cow");
        let mut bystander = Bystander {
            disk: good_disk,
            frontend,
            expected: base_content(),
            rounds: 0,
        };
        bystander.check();
        let image = victim.image.unwrap_or("bad.cow").to_owned();
        let overlay = rig.overlay_target(&image);
        let spec = rig.spec("xvda", victim.target.unwrap_or(&overlay));
        let spec = if victim.read_only {
            spec.read_only()
        } else {
            spec
        };
        let guest = rig.guest(2);
        let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
        let pid = rig.daemon.pid();
        Self {
            rig,
            guest,
            disk,
            image,
            bystander,
            pid,
        }
    }

    /// Connects as a driver does.
    pub(crate) fn connect(&self, options: FrontendOptions) -> Attacker {
        Attacker::new(Frontend::connect(&self.disk, options).unwrap())
    }

    /// Connects with one ring of one page.
    pub(crate) fn connect_plainly(&self, persistent: bool) -> Attacker {
        self.connect(plain(persistent))
    }

    /// Writes nodes of the frontend.
    pub(crate) fn write_nodes(&self, nodes: &[(&str, &[u8])]) {
        for (name, value) in nodes {
            let node = self.disk.frontend_node(name);
            self.rig.host.xenstore().write(&node, value).unwrap();
        }
    }

    pub(crate) fn set_state(&self, state: &str) {
        self.write_nodes(&[("state", state.as_bytes())]);
    }

    pub(crate) fn wait_for_backend(&self, state: &str) {
        let node = self.disk.backend_node("state");
        let xenstore = self.rig.host.xenstore();
        if let Err(error) = xenstore.wait_for_value(&node, state, PATIENCE) {
            panic!("{error}\n{}", self.rig.daemon.log());
        }
    }

    fn error_node(&self) -> String {
        let path = self.disk.backend_path();
        format!("{}/error", path.replace("/backend/", "/error/backend/"))
    }

    /// Waits until the backend closes the device; gives the reason that it shows.
    pub(crate) fn closed_because(&self) -> String {
        self.wait_for_backend("5");
        let xenstore = self.rig.host.xenstore();
        xenstore.read_text(&self.error_node()).unwrap()
    }

    /// Closes from the guest's side and is ready to connect anew, as a driver that is loaded again.
    pub(crate) fn start_over(&self) {
        self.set_state("6");
        self.wait_for_backend("6");
        self.rig.host.xenstore().rm(&self.error_node()).unwrap();
        self.set_state("1");
        self.wait_for_backend("2");
    }

    /// As [`Self::start_over`], for a frontend that has closed already.
    pub(crate) fn start_over_closed(&self) {
        self.set_state("1");
        self.wait_for_backend("2");
    }

    /// Waits until the image is closed, as it is when the frontend is gone.
    pub(crate) fn wait_for_list_closed(&self) {
        self.wait_for_listed("virtual_size_bytes", serde_json::Value::is_null);
    }

    /// What the daemon says of the hostile guest's disk.
    pub(crate) fn listed(&self, field: &str) -> serde_json::Value {
        let list = self.rig.list();
        let device = self.disk.xenbus_path();
        let devices = list.as_array().unwrap();
        let listed = devices.iter().find(|listed| listed["device"] == device);
        listed.unwrap_or_else(|| panic!("{device} is not in {list}"))[field].clone()
    }

    /// Waits until what the daemon says of the hostile guest's disk is as wanted.
    pub(crate) fn wait_for_listed(&self, field: &str, wanted: impl Fn(&serde_json::Value) -> bool) {
        let begun = Instant::now();
        loop {
            let value = self.listed(field);
            if wanted(&value) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{field} is {value}");
        }
    }

    /// Physical memory of the daemon in bytes.
    pub(crate) fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        let kilobytes: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kilobytes * 1024
    }

    /// The lines about the hostile guest's disk in the log that operators see.
    pub(crate) fn log_lines(&self) -> Vec<String> {
        let log = self.rig.daemon.log();
        let device = self.disk.xenbus_path();
        log.lines()
            .filter(|line| line.contains(device) && !line.contains("DEBUG"))
            .map(str::to_owned)
            .collect()
    }

    /// How many lines about the hostile guest's disk there are when all that the first connection says is there.
    pub(crate) fn log_lines_when_connected(&mut self) -> usize {
        let last = format!(
            "goes to state 4 (Connected) device={}",
            self.disk.xenbus_path()
        );
        self.rig.daemon.wait_for_log(&last, PATIENCE).unwrap();
        self.log_lines().len()
    }

    /// The hostile guest is destroyed. Nothing is left of it, the other one's disk is as it should be, and the daemon is the
    /// same process as at the beginning.
    pub(crate) fn finish(mut self) {
        self.bystander.check_all();
        let toolstack = self.rig.host.toolstack();
        if let Err(error) = toolstack.destroy_domain(&self.guest, [&self.disk]) {
            panic!("{error}\n{}\n{}", self.rig.list(), self.rig.daemon.log());
        }
        self.rig.wait_until_gone(&self.disk);
        self.bystander.check_all();
        let Bystander { disk, frontend, .. } = self.bystander;
        self.rig.detach(&disk, frontend);
        self.rig.assert_clear();
        self.rig.assert_clean("good.cow");
        self.rig.assert_clean(&self.image);
        assert!(self.rig.daemon.is_running());
        assert_eq!(self.rig.daemon.pid(), self.pid);
        let log = self.rig.daemon.log();
        assert!(!log.contains("panicked"), "{log}");
        let lines = log.lines().filter(|line| !line.contains("DEBUG")).count();
        assert!(lines <= LOG_LINES_MAX, "{lines} lines:\n{log}");
    }
}

/// One ring of one page, and indirect requests of any size.
pub(crate) fn plain(persistent: bool) -> FrontendOptions {
    FrontendOptions {
        persistent,
        segments_max: 256,
        ..options()
    }
}

/// A disk of another guest, of which everything is known.
pub(crate) struct Bystander {
    disk: Disk,
    frontend: Frontend,
    expected: Vec<u8>,
    rounds: u64,
}

impl Bystander {
    /// It is served: what it writes is there, and so is what it has written before, and the base.
    pub(crate) fn check(&mut self) {
        self.rounds += 1;
        let fill = u8::try_from(self.rounds % 255).unwrap() + 1;
        let at = self.rounds * 8 % SECTORS;
        self.frontend.write(at, &[fill; 4096]).unwrap();
        let start = usize::try_from(at).unwrap() * 512;
        self.expected[start..start + 4096].fill(fill);
        self.expect(at, 4096);
        self.expect(self.rounds * 131 % (SECTORS - 64), 64 * 512);
    }

    /// One read of a sector shows what it should.
    pub(crate) fn look(&mut self) {
        self.rounds += 1;
        self.expect(self.rounds * 131 % SECTORS, 512);
    }

    /// Every byte is as it should be.
    pub(crate) fn check_all(&mut self) {
        self.check();
        self.frontend.flush().unwrap();
        for start in (0..SECTORS).step_by(256) {
            self.expect(start, 256 * 512);
        }
    }

    fn expect(&mut self, sector: u64, bytes: usize) {
        let found = self.frontend.read(sector, bytes).unwrap();
        let start = usize::try_from(sector).unwrap() * 512;
        assert!(
            found == self.expected[start..start + bytes],
            "sectors from {sector} of the other guest's disk show something else"
        );
    }
}
