//! What the daemon before this one left of its disks, whichever way it ended.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dscow::header::{Header, State};
use runstate::{Identity, RunState, RunStateError};
use thiserror::Error;
use uuid::Uuid;
use xenstore_glue::DeviceId;

/// The folder of the run states in the runtime directory.
const FOLDER: &str = "disks";

/// Why the daemon cannot take over.
#[derive(Debug, Error)]
pub(crate) enum InheritanceError {
    /// The folder cannot be used.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Folder {
        path: PathBuf,
        action: &'static str,
        cause: io::Error,
    },
    /// A guest depends on a daemon of another version.
    #[error(
        "{0}; nothing is lost while its guest waits: start the cowbackd that left it, or, if the guest of {device} is \
         gone, remove the file",
        device = device_of(.0)
    )]
    OtherVersion(RunStateError),
}

fn device_of(error: &RunStateError) -> &str {
    match error {
        RunStateError::Version { identity, .. } => &identity.device,
        _ => "the device",
    }
}

/// The run states of disks, left and new.
pub(crate) struct Inheritance {
    folder: PathBuf,
    left: Mutex<HashMap<String, RunState>>,
}

impl Inheritance {
    /// Looks at what was left. What is not to be understood is reported and removed, unless a daemon of another version
    /// may understand it.
    pub(crate) fn find(runtime_dir: &Path) -> Result<Self, InheritanceError> {
        let folder = runtime_dir.join(FOLDER);
        let failed = |action| {
            let path = folder.clone();
            move |cause| InheritanceError::Folder {
                path,
                action,
                cause,
            }
        };
        fs::create_dir_all(&folder).map_err(failed("make it"))?;
        let mut left = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(failed("list it"))? {
            let path = entry.map_err(failed("list it"))?.path();
            match RunState::open(&path) {
                Ok(state) => {
                    left.insert(state.identity().device.clone(), state);
                }
                Err(error @ RunStateError::Version { .. }) => {
                    return Err(InheritanceError::OtherVersion(error));
                }
                Err(error) => {
                    tracing::warn!("{error}; it is removed");
                    fs::remove_file(&path).map_err(failed("remove what is in it"))?;
                }
            }
        }
        Ok(Self {
            folder,
            left: Mutex::new(left),
        })
    }

    /// What was left of a device, if anything. The image's header says whether it can be gone on from.
    pub(crate) fn take(&self, device: DeviceId) -> Option<RunState> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.remove(&device.to_string())
    }

    /// A run state for a device. Without one the disk is served all the same, and is lost to its guest if the daemon is
    /// killed.
    pub(crate) fn begin(&self, device: DeviceId, owner: Uuid, bits_len: u64) -> Option<RunState> {
        let identity = Identity {
            owner,
            device: device.to_string(),
            bits_len,
        };
        RunState::create(&self.folder, identity)
            .inspect_err(|error| {
                tracing::error!(%device, "{error}; its guest will lose the disk if the daemon is killed");
            })
            .ok()
    }
}

/// Whether the image is as the process left it that this run state is of.
pub(crate) fn belongs_to(state: &RunState, header: &Header, read_only: bool) -> bool {
    if state.is_broken() {
        return false;
    }
    read_only
        || match header.state {
            State::InUse { owner } => owner == state.identity().owner,
            // That process has closed it itself; who marks it as clean otherwise does not know what is noted here.
            State::Clean { .. } => state.closed_generation() == Some(header.generation),
        }
}
