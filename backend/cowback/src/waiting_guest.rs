//! Images whose guest waits for a daemon that was killed.
//!
//! While no daemon runs nobody holds the image's lock, but its guest lives, and what the guest was told is written may be in
//! the run state only. Whoever changes the image then takes the disk away from the guest.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use blockio::image;

use crate::error::CommandError;

/// Name of the daemon's control socket in its runtime directory.
const SOCKET: &str = "control.sock";

/// Where a cowbackd keeps what the next one needs.
#[derive(clap::Args)]
pub(crate) struct RuntimeDirArg {
    /// The daemon's runtime directory
    #[arg(
        long,
        global = true,
        default_value = "/run/cowback",
        value_name = "DIR"
    )]
    runtime_dir: PathBuf,
}

impl RuntimeDirArg {
    /// Where the daemon listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.runtime_dir.join(SOCKET)
    }

    /// Whether a daemon has left anything of its guests, whichever.
    pub(crate) fn has_left_guests(&self) -> bool {
        let left = std::fs::read_dir(self.runtime_dir.join("disks"));
        left.is_ok_and(|mut entries| entries.next().is_some())
    }

    /// To be called before an image is changed.
    ///
    /// # Errors
    /// The image belongs to a guest that waits.
    pub(crate) fn refuse_if_guest_waits(&self, image: &Path) -> Result<(), CommandError> {
        // What is wrong with an image that cannot be looked at is said by who opens it.
        let Ok(Some(owner)) = image::owner(image) else {
            return Ok(());
        };
        let run_state = self.runtime_dir.join("disks").join(owner.to_string());
        // A daemon that runs has it locked.
        let daemon_runs = || UnixStream::connect(self.socket()).is_ok();
        if !run_state.exists() || daemon_runs() {
            return Ok(());
        }
        Err(CommandError::GuestWaits {
            image: image.to_owned(),
            run_state,
        })
    }
}
