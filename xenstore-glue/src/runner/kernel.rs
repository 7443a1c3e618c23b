//! Keeping the kernel's blkback off our devices in `backend/vbd`.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::types::{DeviceClass, DeviceId};

/// A driver that has just been loaded takes devices first, and only then has a node `unbind` (Linux's `bus_add_driver`). All
/// devices wait for this.
const REGISTERED_WITHIN: Duration = Duration::from_millis(100);

const RETRY_AFTER: Duration = Duration::from_millis(5);

/// Whether blkback is bound to the device. Its module is loaded on demand and may come at any time; it then writes features and a
/// state of its own into the device's directory.
pub(super) fn is_blkback_bound(sysfs_root: &Path, device: DeviceId) -> bool {
    device.class == DeviceClass::Vbd && driver(sysfs_root).join(device.bus_name()).exists()
}

/// Unbinds blkback from the device if it is bound, which leaves the device's nodes as they are, unless its state is 5
/// (`allow_rebind` in its driver). Done before each step that it could spoil.
pub(super) async fn unbind_blkback(sysfs_root: &Path, device: DeviceId) -> io::Result<()> {
    let deadline = Instant::now() + REGISTERED_WITHIN;
    while is_blkback_bound(sysfs_root, device) {
        match unbind(driver(sysfs_root), device.bus_name()).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound && Instant::now() < deadline => {
                tokio::time::sleep(RETRY_AFTER).await;
            }
            outcome => return outcome,
        }
    }
    Ok(())
}

async fn unbind(driver: PathBuf, name: String) -> io::Result<()> {
    let tell = move || {
        let mut node = File::options().write(true).open(driver.join("unbind"))?;
        // Returns when the driver has let go.
        node.write_all(name.as_bytes())
    };
    tokio::task::spawn_blocking(tell)
        .await
        .unwrap_or_else(|panic| Err(io::Error::other(panic)))
}

fn driver(sysfs_root: &Path) -> PathBuf {
    sysfs_root.join("bus/xen-backend/drivers/vbd")
}
