//! A guest that moves to another domain of this host: its images go from the devices of the old domain to those of the new.
//!
//! The toolstack makes the new domain's devices while the old domain is suspended, and destroys the old one only when the new
//! one is ready; if something fails meanwhile, the old one goes on. An image has one user at a time all the same: the old device
//! answers what it has taken and closes the image before the new one opens it, and has it back if the new one goes away.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use blockio::file::FileIdentity;
use xenstore_glue::DeviceId;
use xenstore_glue::runner::{BackendConfig, DeviceMode};

use super::{Devices, on_a_thread};
use crate::disk_target::Target;

/// What `xl` adds to the name of a domain that is being received, and takes away before that runs.
const INCOMING: &str = "--incoming";

impl Devices {
    /// Has the image of a new device let go of by the device by which the same guest had it until now, if it is moving.
    pub(super) async fn borrow(&self, device: DeviceId, config: &BackendConfig) {
        let name = config.domain_name.as_deref().unwrap_or_default();
        let is_new = !self.inner.inheritance.has_left(device);
        if !is_new || !name.ends_with(INCOMING) || config.mode == DeviceMode::ReadOnly {
            return;
        }
        let Ok(target) = Target::parse(&config.params) else {
            return;
        };
        for lender in self
            .users_of_the_same_guest(device, config, target.image)
            .await
        {
            tracing::info!(device = %lender, "its guest moves: {device} gets the image");
            // Noted first: the lender may be asked to open it again as soon as it is closed.
            self.inner.inheritance.note_lent(lender, device);
            if self.inner.handle.lend(lender).await.is_err() {
                return;
            }
        }
    }

    async fn users_of_the_same_guest(
        &self,
        device: DeviceId,
        config: &BackendConfig,
        image: PathBuf,
    ) -> Vec<DeviceId> {
        let file = on_a_thread(move || FileIdentity::at(&image)).await;
        let Some(vm) = config.vm.as_ref().filter(|_| file.is_some()) else {
            return Vec::new();
        };
        let devices = self.devices();
        let users = devices.iter().filter(|(other, known)| {
            **other != device
                && known.file == file
                && !known.read_only
                && known.vm.as_ref() == Some(vm)
        });
        users.map(|(other, _)| *other).collect()
    }

    /// Who has the image of a device now, since its guest is moving there or has moved.
    pub(super) fn borrower(&self, device: DeviceId) -> Option<DeviceId> {
        let borrower = self.inner.inheritance.lent_to(device)?;
        if self.devices().contains_key(&borrower) {
            return Some(borrower);
        }
        if self.inner.looked_through.load(Ordering::Relaxed) {
            // It went away while no daemon ran, or before it was opened.
            self.inner.inheritance.settle(borrower);
            return None;
        }
        self.inner
            .inheritance
            .has_left(borrower)
            .then_some(borrower)
    }
}
