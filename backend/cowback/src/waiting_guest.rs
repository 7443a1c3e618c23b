//! Images whose guest waits for a daemon that was killed or stopped.
//!
//! While no daemon runs nobody holds the image's lock, but its guest lives, and what the guest was told is written may be in
//! the run state only. Whoever changes the image then takes the disk away from the guest.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use blockio::image;
use dscow::header::State;

use crate::client::ClientError;
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

    /// Where a daemon leaves what the next one needs of its guests.
    fn left(&self) -> PathBuf {
        self.runtime_dir.join("disks")
    }

    /// Whether a daemon has left anything of its guests, whichever.
    pub(crate) fn has_left_guests(&self) -> bool {
        let left = std::fs::read_dir(self.left());
        left.is_ok_and(|mut entries| entries.next().is_some())
    }

    /// To be called before an image is changed.
    ///
    /// # Errors
    /// The image belongs to a guest that waits, or may: a daemon that was stopped in order has closed its images, and what it
    /// has left of its guests does not name them.
    pub(crate) fn refuse_if_guest_waits(&self, image: &Path) -> Result<(), CommandError> {
        // What is wrong with an image that cannot be looked at is said by who opens it.
        let Ok(header) = image::header(image) else {
            return Ok(());
        };
        let run_state = match header.state {
            State::Clean { .. } => None,
            State::InUse { owner } => Some(self.left().join(owner.to_string())),
        };
        let waits = run_state
            .as_deref()
            .map_or_else(|| self.has_left_guests(), Path::exists);
        if !waits {
            return Ok(());
        }
        let socket = self.socket();
        // A daemon that runs has it locked.
        let Err(cause) = UnixStream::connect(&socket) else {
            return Ok(());
        };
        let image = image.to_owned();
        Err(match run_state {
            Some(run_state) => CommandError::GuestWaits { image, run_state },
            None => CommandError::GuestsMayWait {
                image,
                cause: ClientError::Connect { socket, cause },
            },
        })
    }
}
