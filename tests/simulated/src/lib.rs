//! A host with a daemon, some images and guests, for end-to-end tests.
//!
//! The binaries under test are those that cargo built beside the tests; `make check` builds them first.
#![forbid(unsafe_code)]

pub mod bridge;
pub mod control;
mod held;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use simxen::{
    Daemon, DaemonCommand, Disk, DiskSpec, Domain, Frontend, FrontendOptions, Host, Hotplug,
    HotplugCommand, locate,
};
use tempfile::TempDir;

pub use held::Held;

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Size of the base image in bytes.
pub const BASE_SIZE: usize = 4 << 20;

/// A simulated host on which the daemon runs.
pub struct Rig {
    /// The daemon; killed when dropped, before the host.
    pub daemon: Daemon,
    /// The host.
    pub host: Host,
    folder: TempDir,
}

impl Rig {
    /// Starts a host and a daemon, with a raw base image of [`BASE_SIZE`] bytes.
    ///
    /// # Panics
    /// If anything does not work, as do all functions here.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// As [`Rig::start`], with arguments for the daemon.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(&std::env::temp_dir(), arguments)
    }

    /// As [`Rig::start_with`], with the images in a folder within `place`.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn start_in(place: &Path, arguments: &[&str]) -> Self {
        let folder = TempDir::new_in(place).expect("a temporary folder");
        fs::write(folder.path().join("base.img"), base_content()).expect("the base image");
        let host = Host::start().expect("a simulated host");
        let mut command = DaemonCommand::new(binary("cowbackd"))
            .arg("--runtime-dir")
            .arg(folder.path().join("run"))
            .arg("--shared-memory")
            .arg(folder.path())
            .arg("--log")
            .arg("debug");
        for argument in arguments {
            command = command.arg(argument);
        }
        let mut daemon = host.start_daemon(command).expect("the daemon starts");
        daemon
            .wait_for_log("workers", PATIENCE)
            .expect("the daemon is up");
        Self {
            daemon,
            host,
            folder,
        }
    }

    /// Kills the daemon, if it lives, and starts it anew: to kill itself at a step of its own, counted from 1, or not.
    ///
    /// # Panics
    /// As [`Rig::start`].
    pub fn restart_to_die_at(&mut self, step: Option<u64>) {
        let step = step.map(|step| step.to_string());
        self.daemon.set_variable("COWBACKD_KILL_AT", step);
        self.daemon.restart().expect("the daemon starts");
    }

    /// Kills the daemon, if it lives, starts it anew, and waits until it can be asked.
    ///
    /// # Panics
    /// As [`Rig::start`], or if it takes too long.
    pub fn restart_until_it_answers(&mut self) {
        self.daemon.restart().expect("the daemon starts");
        let begun = Instant::now();
        while UnixStream::connect(self.path("run/control.sock")).is_err() {
            assert!(begun.elapsed() < PATIENCE, "{}", self.daemon.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A file in the folder of the images.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The target that makes `image` an overlay of the base.
    #[must_use]
    pub fn overlay_target(&self, image: &str) -> String {
        let (image, base) = (self.path(image), self.path("base.img"));
        format!("dscow:{}:{}", image.display(), base.display())
    }

    /// A guest.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn guest(&self, domid: u16) -> Domain {
        self.host.new_domain(domid).expect("a new domain")
    }

    /// A disk specification whose hotplug step is `cowback hotplug`.
    #[must_use]
    pub fn spec(&self, vdev: &str, target: &str) -> DiskSpec {
        let hotplug = HotplugCommand::new(locate_hotplug(&self.folder, &self.path("run")));
        DiskSpec::new(vdev, target).hotplug(Hotplug::Command(hotplug))
    }

    /// As [`Rig::connect`], by a toolstack without scripts: faster, where many disks come and go.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn connect_without_script(
        &self,
        guest: &Domain,
        vdev: &str,
        image: &str,
    ) -> (Disk, Frontend) {
        let spec = DiskSpec::new(vdev, &self.overlay_target(image));
        self.connect_as(guest, &spec)
    }

    /// Attaches an overlay of the base and connects a frontend to it.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn connect(&self, guest: &Domain, vdev: &str, image: &str) -> (Disk, Frontend) {
        self.connect_as(guest, &self.spec(vdev, &self.overlay_target(image)))
    }

    fn connect_as(&self, guest: &Domain, spec: &DiskSpec) -> (Disk, Frontend) {
        let toolstack = self.host.toolstack();
        let disk = toolstack.attach(guest, spec).expect("attached");
        let frontend = Frontend::connect(&disk, options()).expect("connected");
        (disk, frontend)
    }

    /// Detaches a disk together with its frontend, as a guest does that agrees to it.
    ///
    /// # Panics
    /// If the backend does not close, or keeps a grant mapped.
    pub fn detach(&self, disk: &Disk, frontend: Frontend) {
        let toolstack = self.host.toolstack();
        toolstack
            .detach_connected(disk, frontend)
            .expect("detached");
    }

    /// Destroys a guest with its disk.
    ///
    /// # Panics
    /// If the backend does not close.
    pub fn destroy(&self, guest: &Domain, disk: &Disk) {
        let toolstack = self.host.toolstack();
        toolstack.destroy_domain(guest, [disk]).expect("destroyed");
    }

    /// Runs the command line against this daemon.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn cowback(&self, arguments: &[&str]) -> Output {
        Command::new(binary("cowback"))
            .args(arguments)
            .output()
            .expect("cowback runs")
    }

    /// The folder of the commands under test.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn commands(&self) -> PathBuf {
        let command = binary("cowback");
        command.parent().expect("it is in a folder").to_owned()
    }

    /// `cowback resize --json`, not started yet; `image` is a path, or a name in the folder of the images.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn resize(&self, image: impl AsRef<Path>, size: &str) -> Command {
        let mut command = Command::new(binary("cowback"));
        command
            .args(["resize", "--json", "--runtime-dir"])
            .arg(self.path("run"))
            .arg(self.folder.path().join(image))
            .arg(size);
        command
    }

    /// `cowback list --json`.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn list(&self) -> serde_json::Value {
        let socket = self.path("run/control.sock");
        let socket = socket.to_str().expect("a plain path");
        let output = self.cowback(&["list", "--json", "--socket", socket]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Runs `cowback check` on an image, which must be clean and cleanly closed.
    ///
    /// # Panics
    /// As [`Rig::start`], and if the image is not clean.
    pub fn assert_clean(&self, image: &str) {
        let path = self.path(image);
        let output = self.cowback(&["check", "--json", path.to_str().expect("a plain path")]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(report["closed_cleanly"], true, "{report}");
    }

    /// Asks until the daemon has forgotten a disk whose nodes are gone.
    ///
    /// # Panics
    /// If it does not.
    pub fn wait_until_gone(&self, disk: &Disk) {
        let begun = Instant::now();
        let device = disk.xenbus_path();
        loop {
            let list = self.list();
            let devices = list.as_array().expect("a list");
            if devices.iter().all(|listed| listed["device"] != device) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "still there: {list}");
        }
    }

    /// Waits until the daemon has nothing mapped or bound.
    ///
    /// # Panics
    /// If it keeps something.
    pub fn assert_clear(&self) {
        self.host
            .wait_until_clear(PATIENCE)
            .expect("everything is given back");
    }
}

/// A frontend with more patience than the default.
#[must_use]
pub fn options() -> FrontendOptions {
    FrontendOptions {
        timeout: PATIENCE,
        ..FrontendOptions::default()
    }
}

/// The content of the base: every sector begins with its own number.
#[must_use]
pub fn base_content() -> Vec<u8> {
    (0..BASE_SIZE / 512)
        .flat_map(|sector| {
            let number = u32::try_from(sector).expect("a small base");
            number.to_le_bytes().repeat(128)
        })
        .collect()
}

/// A sector of the base.
#[must_use]
pub fn base_sector(sector: usize) -> Vec<u8> {
    base_content()[sector * 512..(sector + 1) * 512].to_vec()
}

fn binary(name: &str) -> PathBuf {
    locate::built_file(name, &format!("cargo build -p {name}")).expect("the binary is built")
}

/// A script that calls `cowback hotplug` with the socket of this daemon.
fn locate_hotplug(folder: &TempDir, runtime: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let script = folder.path().join("hotplug");
    if !script.exists() {
        let text = format!(
            "#!/bin/sh\nexec '{}' hotplug \"$1\" \"$2\" --socket '{}/control.sock'\n",
            binary("cowback").display(),
            runtime.display()
        );
        fs::write(&script, text).expect("the script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    script
}
