//! Plays libxl and its hotplug script: the life of a disk as seen from outside of the guest and the backend. The nodes
//! and the order are those of `libxl_disk.c`, `libxl_device.c` and `libxl_linux.c` of Xen.

mod disk;
mod hotplug;
mod vdev;

use std::time::Duration;

pub use disk::{BackendKind, Disk, DiskSpec};
pub use hotplug::{Hotplug, HotplugCommand};
pub use vdev::device_number;

use crate::error::{Error, Result};
use crate::frontend::Frontend;
use crate::host::Host;
use crate::hypervisor::Domain;
use hotplug::Action;

/// How long libxl waits for the backend to change its state (`LIBXL_INIT_TIMEOUT`).
const STATE_TIMEOUT: Duration = Duration::from_secs(10);

/// The toolstack of a host.
#[derive(Clone, Copy, Debug)]
pub struct Toolstack<'h> {
    host: &'h Host,
}

impl<'h> Toolstack<'h> {
    pub(crate) fn new(host: &'h Host) -> Self {
        Self { host }
    }

    /// Attaches a disk to a domain: makes the nodes, waits for the backend to be in state 2, runs the hotplug step. The
    /// frontend comes afterwards: [`Frontend::connect`].
    ///
    /// # Errors
    /// [`Error::Timeout`] if the backend does not answer, [`Error::Hotplug`] if the script fails.
    pub fn attach(&self, domain: &Domain, spec: &DiskSpec) -> Result<Disk> {
        let disk = self.create_nodes(domain, spec)?;
        self.wait_for_backend(&disk)?;
        self.hotplug_add(&disk)?;
        Ok(disk)
    }

    /// The first step of [`Self::attach`]: the nodes, in one transaction.
    ///
    /// # Errors
    /// [`Error::BadVdev`] for a name that is not understood.
    pub fn create_nodes(&self, domain: &Domain, spec: &DiskSpec) -> Result<Disk> {
        let disk = Disk::new(self.host.xenstore().clone(), domain.clone(), spec.clone())?;
        disk.write_nodes()?;
        Ok(disk)
    }

    /// The second step of [`Self::attach`]: waits for the backend to be in state 2.
    ///
    /// # Errors
    /// [`Error::Timeout`] after the 10 seconds that libxl waits.
    pub fn wait_for_backend(&self, disk: &Disk) -> Result<()> {
        let state = disk.backend_node("state");
        disk.xenstore().wait_for_value(&state, "2", STATE_TIMEOUT)
    }

    /// The third step of [`Self::attach`]: the hotplug script with `add`.
    ///
    /// # Errors
    /// [`Error::Hotplug`] if it fails; `hotplug-error` is then set, as a real script leaves it.
    pub fn hotplug_add(&self, disk: &Disk) -> Result<()> {
        hotplug::run(self.host, disk, Action::Add)
    }

    /// Detaches a disk whose frontend is not there, or is driven by another thread: [`Self::begin_detach`] and
    /// [`Self::finish_detach`].
    ///
    /// # Errors
    /// [`Error::Timeout`] if the backend does not close.
    pub fn detach(&self, disk: &Disk) -> Result<()> {
        self.begin_detach(disk)?;
        self.finish_detach(disk)
    }

    /// Detaches a disk with its frontend, which answers the request to close as a guest's driver does.
    ///
    /// # Errors
    /// [`Error::Timeout`] if the backend does not close, [`Error::GrantStillMapped`] if it closes with grants mapped.
    pub fn detach_connected(&self, disk: &Disk, frontend: Frontend) -> Result<()> {
        self.begin_detach(disk)?;
        frontend.close_as_asked()?;
        self.finish_detach(disk)
    }

    /// Asks the backend to close: `online` 0 and `state` 5, as `xl block-detach` does.
    ///
    /// # Errors
    /// None for a well-formed disk; the type is that of the store's operations.
    pub fn begin_detach(&self, disk: &Disk) -> Result<()> {
        loop {
            let transaction = disk.xenstore().transaction();
            transaction.write(&disk.backend_node("online"), "0")?;
            // libxl leaves a backend that is closed already as it is.
            let state = transaction.read(&disk.backend_node("state"));
            if state.as_deref() != Some(b"6") {
                transaction.write(&disk.backend_node("state"), "5")?;
            }
            if transaction.commit()? {
                return Ok(());
            }
        }
    }

    /// Waits for the backend to be in state 6, runs the hotplug script with `remove`, and deletes the nodes.
    ///
    /// # Errors
    /// [`Error::Timeout`] if the backend does not close; the nodes then stay, where libxl would go on by force.
    pub fn finish_detach(&self, disk: &Disk) -> Result<()> {
        let state = disk.backend_node("state");
        disk.xenstore().wait_for_value(&state, "6", STATE_TIMEOUT)?;
        hotplug::run(self.host, disk, Action::Remove)?;
        self.delete_nodes(disk)
    }

    /// Deletes all nodes of a disk, whatever its state.
    ///
    /// # Errors
    /// None for a well-formed disk; the type is that of the store's operations.
    pub fn delete_nodes(&self, disk: &Disk) -> Result<()> {
        disk.delete_nodes()
    }

    /// Destroys a domain and its disks, as `xl destroy` does: each frontend's nodes go first, then each backend is
    /// asked to close and its nodes go; at last the domain itself, with its grants and channels, and `@releaseDomain`
    /// fires.
    ///
    /// # Errors
    /// As [`Self::finish_detach`].
    pub fn destroy_domain<'d>(
        &self,
        domain: &Domain,
        disks: impl IntoIterator<Item = &'d Disk>,
    ) -> Result<()> {
        for disk in disks {
            disk.xenstore().rm(disk.frontend_path())?;
            // libxl goes through the devices that are in xenstore, so one that was detached before is not among them.
            if disk.xenstore().read(&disk.backend_node("state")).is_some() {
                self.detach(disk)?;
            }
        }
        self.host.vanish_domain(domain)
    }
}

/// A convenience for errors of this module.
fn hotplug_error(action: Action, disk: &Disk, detail: String) -> Error {
    Error::Hotplug {
        action: action.name(),
        path: disk.backend_path().to_owned(),
        detail,
    }
}
