//! Claiming a block device, so that nothing else on the host begins to use it.

use std::fs::File;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{BlockFile, FileIdentity, FileKind, OpenError, OpenProblem};

impl BlockFile {
    /// Claims a block device for as long as this is open: nobody can mount it, make it part of an array or volume
    /// group, or claim it as well. Does nothing for a regular file.
    ///
    /// Locks do not do this: the kernel and its tools know nothing of them, and they belong to a device node, of which
    /// there may be several for one device.
    ///
    /// # Errors
    ///
    /// [`OpenProblem::Claimed`] if the device is mounted or claimed already.
    pub fn claim_device(&mut self) -> Result<(), OpenError> {
        if self.kind() == FileKind::Regular {
            return Ok(());
        }
        // A descriptor of its own: `O_EXCL` counts only at the moment of opening, and by then it was not known
        // whether this is a device.
        let flags = OFlags::RDONLY | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let claim =
            rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|errno| match errno {
                Errno::BUSY => OpenError::new(&self.path, OpenProblem::Claimed),
                other => OpenError::of_open(&self.path, other),
            })?;
        let claim = File::from(claim);
        let metadata = claim
            .metadata()
            .map_err(|cause| OpenError::other(&self.path, cause))?;
        if FileIdentity::of(&metadata) != Some(self.identity) {
            return Err(OpenError::new(&self.path, OpenProblem::Replaced));
        }
        self.claim = Some(claim);
        Ok(())
    }
}
