//! What the daemon before this one left of its disks, whichever way it ended.

mod loans;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use self::loans::Loan;
use self::loans::Loans;

use dscow::header::{Header, State};
use runstate::{Identity, RunState, RunStateError, path_of};
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
    /// A guest depends on what cannot be used here and now.
    #[error(
        "{0}; nothing is lost while its guest waits: start the cowbackd that left it, or mend the cause, or, if the guest \
         of {device} is gone, remove the file",
        device = device_of(.0)
    )]
    Unusable(RunStateError),
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
    /// Which device each owner was; what has been taken over stays, so that it is found again if its opening fails.
    known: Mutex<HashMap<Uuid, String>>,
    loans: Loans,
}

impl Inheritance {
    /// Looks at what was left. Only what is no run state is removed.
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
        let loans = Loans::in_dir(runtime_dir).map_err(failed("make the one beside it"))?;
        let mut known = HashMap::new();
        for entry in fs::read_dir(&folder).map_err(failed("list it"))? {
            let path = entry.map_err(failed("list it"))?.path();
            // One that was being made has not been used.
            let unfinished = path.extension().is_some_and(|extension| extension == "new");
            match RunState::identify(&path) {
                Ok(identity) if !unfinished => {
                    known.insert(identity.owner, identity.device);
                }
                Ok(_) | Err(RunStateError::Foreign(_)) => {
                    tracing::warn!("{}: removed, since it is no run state", path.display());
                    fs::remove_file(&path).map_err(failed("remove what is in it"))?;
                }
                Err(error) => return Err(InheritanceError::Unusable(error)),
            }
        }
        Ok(Self {
            folder,
            known: Mutex::new(known),
            loans,
        })
    }

    /// Whether something was left of a device.
    pub(crate) fn has_left(&self, device: DeviceId) -> bool {
        let device = device.to_string();
        self.known()
            .iter()
            .any(|(owner, known)| *known == device && self.exists(*owner))
    }

    /// A device is gone. What is left of it all the same, since its image was not closed, stays known.
    pub(crate) fn forget(&self, device: DeviceId) {
        self.forget_lent_rings(device);
        self.loans.forget(device);
        self.settle(device);
        let device = device.to_string();
        self.known()
            .retain(|owner, known| *known != device || self.exists(*owner));
    }

    /// A device is gone that may have borrowed an image. If it was not closed, since no daemon was there to do it, what is left
    /// of it tells whether anything can have been changed.
    pub(crate) fn settle(&self, borrower: DeviceId) {
        for loan in self.loans.to(borrower) {
            for (owner, left) in self.left_of(borrower) {
                if is_untouched(&left) && left.remove().is_ok() {
                    self.known().remove(&owner);
                    loan.returned_unchanged(left.opened_generation());
                } else {
                    loan.forget();
                }
            }
        }
    }

    /// A device is gone that has lent its image for good: nobody goes on with its rings.
    fn forget_lent_rings(&self, lender: DeviceId) {
        let is_lent = self
            .lent_to(lender)
            .is_some_and(|borrower| self.has_left(borrower));
        if !is_lent {
            return;
        }
        for (owner, left) in self.left_of(lender) {
            // What it had is in the image, which is another's now.
            if left.closed_generation().is_some() && left.remove().is_ok() {
                self.known().remove(&owner);
            }
        }
    }

    /// The run states that are left of a device.
    fn left_of(&self, device: DeviceId) -> Vec<(Uuid, RunState)> {
        let name = device.to_string();
        let owner = |(owner, known): (&Uuid, &String)| (*known == name).then_some(*owner);
        let owners: Vec<Uuid> = self.known().iter().filter_map(owner).collect();
        let open = |owner| Some((owner, RunState::open(&path_of(&self.folder, owner)).ok()?));
        owners.into_iter().filter_map(open).collect()
    }

    /// Notes that a device lets another one have its image, and means to have it back.
    pub(crate) fn note_lent(&self, lender: DeviceId, borrower: DeviceId) {
        // Who has lent it the image before is to look for the next one.
        for loan in self.loans.to(lender) {
            loan.pass_on(borrower);
        }
        if let Err(error) = self.loans.note(lender, borrower) {
            tracing::error!(device = %lender, "cannot note that its image is lent: {error}");
        }
    }

    /// Who has a device's image, or had it last.
    pub(crate) fn lent_to(&self, lender: DeviceId) -> Option<DeviceId> {
        Some(self.loans.of(lender)?.borrower)
    }

    /// What a device has borrowed.
    pub(crate) fn loans_to(&self, borrower: DeviceId) -> Vec<Loan> {
        self.loans.to(borrower)
    }

    /// Whether an image is as a daemon left it for the next one to go on with: its guest is being taken over, or will be.
    pub(crate) fn is_awaited(&self, header: &Header) -> bool {
        let owners: Vec<Uuid> = self.known().keys().copied().collect();
        owners.into_iter().any(|owner| {
            let left = RunState::open(&path_of(&self.folder, owner));
            left.is_ok_and(|left| belongs_to(&left, header, false, None))
        })
    }

    fn exists(&self, owner: Uuid) -> bool {
        path_of(&self.folder, owner).exists()
    }

    /// The run state that an image's header belongs to, if there is one, and whether it is of this device: its rings can be gone
    /// on with then. Whatever else there is of the device is of no use any more, and removed.
    ///
    /// # Errors
    /// If it is there and cannot be used now.
    pub(crate) fn of(
        &self,
        device: DeviceId,
        header: &Header,
        read_only: bool,
    ) -> Result<Option<(RunState, bool)>, RunStateError> {
        let name = device.to_string();
        let candidates: Vec<(Uuid, bool)> = self
            .known()
            .iter()
            .map(|(owner, known)| (*owner, *known == name))
            .collect();
        // Who has borrowed it meanwhile may have given it back as it was.
        let note = self.loans.of(device);
        let unchanged = note.and_then(|note| note.unchanged);
        let mut found = None;
        for (owner, is_of_device) in candidates {
            let may_belong = match header.state {
                _ if read_only => is_of_device,
                _ if is_of_device && unchanged == Some(header.generation) => true,
                State::InUse { owner: user } => owner == user,
                State::Clean { .. } => is_of_device,
            };
            if !may_belong && !is_of_device {
                continue;
            }
            let path = path_of(&self.folder, owner);
            if !path.exists() {
                self.known().remove(&owner);
                continue;
            }
            let state = RunState::open(&path)?;
            if may_belong && belongs_to(&state, header, read_only, unchanged) {
                found = Some(state);
            } else {
                tracing::warn!(
                    "{}: removed, since the image of {name} is not as it tells",
                    path.display()
                );
                self.known().remove(&owner);
                state.remove()?;
            }
        }
        let Some(mut state) = found else {
            return Ok(None);
        };
        let is_own = state.identity().device == name;
        if !is_own {
            state.give_to(&name);
            self.known().insert(state.identity().owner, name);
        }
        Ok(Some((state, is_own)))
    }

    /// A run state for a device. Without one the disk is served all the same, and is lost to its guest if the daemon is
    /// killed.
    pub(crate) fn begin(&self, device: DeviceId, owner: Uuid, bits_len: u64) -> Option<RunState> {
        let identity = Identity {
            owner,
            device: device.to_string(),
            bits_len,
        };
        self.known().insert(owner, identity.device.clone());
        RunState::create(&self.folder, identity)
            .inspect_err(|error| {
                tracing::error!(%device, "{error}; its guest will lose the disk if the daemon is killed");
            })
            .ok()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Uuid, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing can have been changed in the image that this run state is of.
fn is_untouched(state: &RunState) -> bool {
    let has_bits = |pieces: Vec<(u64, Vec<u8>)>| {
        let mut bytes = pieces.into_iter().flat_map(|(_, bytes)| bytes);
        bytes.any(|byte| byte != 0)
    };
    let bits = state.allocated().map(has_bits);
    !state.was_ever_connected() && !state.is_broken() && bits.is_ok_and(|has_bits| !has_bits)
}

/// Whether the image is as the process left it that this run state is of: in the generation in which that has closed it, or in
/// one in which nothing was changed since.
fn belongs_to(state: &RunState, header: &Header, read_only: bool, unchanged: Option<u64>) -> bool {
    let fits = state.identity().bits_len == header.layout.bitmap_reserved_len();
    fits && match header.state {
        // Nothing of it is in the image.
        _ if read_only => true,
        State::InUse { owner } if owner == state.identity().owner => true,
        // That process has closed it itself; who marks it as clean otherwise does not know what is noted here.
        State::Clean { .. } if state.closed_generation() == Some(header.generation) => true,
        _ => state.closed_generation().is_some() && unchanged == Some(header.generation),
    }
}
