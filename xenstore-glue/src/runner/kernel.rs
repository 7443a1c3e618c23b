//! Keeping the kernel's blkback off our devices in `backend/vbd`.

use std::io;
use std::path::Path;

use crate::types::{DeviceClass, DeviceId};

/// Unbinds blkback from the device if it is bound, which leaves the device's nodes alone
/// (`allow_rebind` in its driver).
///
/// Blkback is loaded on demand and may bind at any time until it has probed the device, so this is
/// done before each step that it could spoil.
pub(super) async fn unbind_blkback(sysfs_root: &Path, device: DeviceId) -> io::Result<()> {
    if device.class != DeviceClass::Vbd {
        return Ok(());
    }
    let driver = sysfs_root.join("bus/xen-backend/drivers/vbd");
    let name = device.bus_name();
    if !driver.join(&name).exists() {
        return Ok(());
    }
    // The write returns when the driver has let go.
    tokio::task::spawn_blocking(move || std::fs::write(driver.join("unbind"), name))
        .await
        .unwrap_or_else(|panic| Err(io::Error::other(panic)))
}
