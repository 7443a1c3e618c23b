//! A daemon on the simulated host, with guests that keep their rings full.

mod guest;
mod usage;

use std::path::{Path, PathBuf};
use std::time::Duration;

use simxen::{Daemon, DaemonCommand, DiskSpec, Domain, Frontend, FrontendOptions, Host, Hotplug};

pub use guest::Guest;
pub use usage::{Usage, worker_cpu, worker_thread};

use crate::error::{BenchError, Result};

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// Memory of a guest in pages: enough for its rings and data, and nothing until it is touched.
const GUEST_PAGES: u32 = 4096;

/// What is below the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Files, as in production: the daemon is `cowbackd` itself.
    Files,
    /// Nothing: every operation of the executor is done at once ([`crate::null`]). All else is the same.
    Null,
}

/// A simulated host with a daemon that has one worker.
pub struct Rig {
    daemon: Daemon,
    host: Host,
    runtime: PathBuf,
}

impl Rig {
    /// Starts a host and a daemon, whose runtime directory is in `folder`.
    ///
    /// # Errors
    /// If something is not built, or does not start.
    pub fn start(storage: Storage, folder: &Path) -> Result<Self> {
        let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
        let runtime = folder.join("run");
        // What a daemon of an earlier measurement has left, which was killed.
        if runtime.exists() {
            std::fs::remove_dir_all(&runtime)
                .map_err(BenchError::io(format!("remove {}", runtime.display())))?;
        }
        let command = match storage {
            Storage::Files => DaemonCommand::new(program.with_file_name("cowbackd")),
            Storage::Null => DaemonCommand::new(program).arg("null-daemon"),
        };
        let command = command
            .arg("--workers")
            .arg("1")
            .arg("--runtime-dir")
            .arg(&runtime);
        let host = Host::start()?;
        let mut daemon = host.start_daemon(command)?;
        daemon.wait_for_log("workers", PATIENCE)?;
        Ok(Self {
            daemon,
            host,
            runtime,
        })
    }

    /// The daemon's process.
    pub fn pid(&self) -> i32 {
        self.daemon.pid()
    }

    /// The daemon's runtime directory.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// A guest without disks.
    ///
    /// # Errors
    /// If its memory cannot be made.
    pub fn domain(&self, id: u16) -> Result<Domain> {
        Ok(self.host.new_domain_with_pages(id, GUEST_PAGES)?)
    }

    fn not_served(&self, cause: &simxen::Error) -> BenchError {
        BenchError::Process {
            pid: self.pid(),
            problem: format!("{cause}; its log:\n{}", self.daemon.log()),
        }
    }

    /// Attaches an image to a guest, whose ring has `1 << ring_order` pages.
    ///
    /// # Errors
    /// If the daemon does not take it.
    pub fn attach(&self, domain: &Domain, image: &Path, ring_order: u32) -> Result<Guest> {
        // Without a script's process, which would be the most of what attaching takes.
        let hotplug = Hotplug::Pretend {
            physical_device_path: String::new(),
        };
        let spec = DiskSpec::new("xvda", &image.to_string_lossy()).hotplug(hotplug);
        let options = FrontendOptions {
            ring_order,
            timeout: PATIENCE,
            ..FrontendOptions::default()
        };
        let attached = self.host.toolstack().attach(domain, &spec);
        attached
            .and_then(|disk| Frontend::connect(&disk, options))
            .map_err(|cause| self.not_served(&cause))
            .and_then(Guest::new)
    }
}
