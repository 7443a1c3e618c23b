//! Whose an image is that a device does not get.

use std::path::Path;

use blockio::file::{FileIdentity, OpenProblem};
use blockio::image::ImageError;
use blockio::lock::LockError;
use xenstore_glue::DeviceId;

use super::Devices;
use crate::images::OpenImageError;

impl Devices {
    /// Why a device gets no image; if that is since another device of this daemon has it, by which disk.
    pub(super) fn with_user(&self, error: &OpenImageError, device: DeviceId) -> String {
        let users = used_file(error).and_then(|path| self.users_of(path, device));
        users.map_or_else(|| error.to_string(), |users| format!("{error}, as {users}"))
    }

    /// The disks, in words, whose image this file is or was last, other than that of `device`.
    fn users_of(&self, path: &Path, device: DeviceId) -> Option<String> {
        let file = FileIdentity::at(path)?;
        let devices = self.devices();
        let users = devices
            .iter()
            .filter(|(user, known)| **user != device && known.file == Some(file));
        let users: Vec<_> = users
            .map(|(user, known)| format!("{} of domain {} ({user})", known.vdev, user.domid))
            .collect();
        (!users.is_empty()).then(|| users.join(" or "))
    }
}

/// The file of an image that this daemon has open already, as far as can be known, if the error is that.
fn used_file(error: &OpenImageError) -> Option<&Path> {
    match error {
        OpenImageError::Image(ImageError::Locked(LockError::Held { path, holder, .. })) => {
            (holder.pid == Some(std::process::id())).then_some(path)
        }
        OpenImageError::Image(ImageError::Open(error)) => {
            matches!(error.problem, OpenProblem::Claimed).then_some(&error.path)
        }
        _ => None,
    }
}
