//! The sockets by which QEMU reaches the disks that it emulates: an HVM guest sees its disk by way of QEMU until its own driver
//! takes over. Both are served from the same engine, so both see one disk.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nbd_server::{ListenError, Socket};
use xenstore_glue::{DeviceClass, DeviceId};

/// The folder of the sockets in the runtime directory.
const FOLDER: &str = "nbd";

/// Where the sockets are.
pub(crate) struct Sockets {
    folder: PathBuf,
}

impl Sockets {
    /// Makes the folder, for root only.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn make(runtime_dir: &Path) -> io::Result<Self> {
        let folder = runtime_dir.join(FOLDER);
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self { folder }),
        }
    }

    /// The path of a device's socket. `None` if the toolstack gives QEMU no socket for such a device: only for those of the
    /// class that has no backend in any kernel does it know one.
    pub(crate) fn path(&self, device: DeviceId) -> Option<PathBuf> {
        let DeviceId {
            class,
            domid,
            devid,
        } = device;
        let name = || format!("{}-{domid}-{devid}.sock", class.name());
        (class == DeviceClass::Vbd3).then(|| self.folder.join(name()))
    }

    /// Listens for QEMU, for a device that has a socket.
    ///
    /// # Errors
    /// Names the socket and the cause.
    pub(crate) fn listen(&self, device: DeviceId) -> Result<Option<Socket>, ListenError> {
        self.path(device)
            .map(|path| Socket::listen(&path))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_class_without_a_kernel_driver_has_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let sockets = Sockets::make(folder.path()).unwrap();
        let path = |device: &str| sockets.path(device.parse().unwrap());
        let expected = folder.path().join("nbd/vbd3-7-51712.sock");
        assert_eq!(path("backend/vbd3/7/51712"), Some(expected.clone()));
        assert_eq!(path("backend/vbd/7/51712"), None);
        // The folder may be there already.
        let again = Sockets::make(folder.path()).unwrap();
        let device = "backend/vbd3/7/51712".parse().unwrap();
        let listening = again.listen(device).unwrap();
        assert!(expected.exists());
        drop(listening);
        assert!(!expected.exists());
    }
}
