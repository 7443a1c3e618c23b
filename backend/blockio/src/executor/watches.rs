//! The descriptors that an executor watches.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustc_hash::FxHashMap;

use super::Event;

/// Identifies a watch for ever: never reused, so that a late report of an ended watch is told apart.
pub(super) type WatchId = u64;

/// What a descriptor is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    Readable,
    Writable,
}

pub(super) struct Watch {
    pub(super) key: u64,
    pub(super) interest: Interest,
    /// Our duplicate: the caller may close its own, and another file may then get that number.
    pub(super) descriptor: OwnedFd,
}

impl Watch {
    /// What is reported when it fires.
    pub(super) fn event(&self) -> Event {
        let key = self.key;
        match self.interest {
            Interest::Readable => Event::Readable { key },
            Interest::Writable => Event::Writable { key },
        }
    }
}

/// All watches, found by their id on the way back and by the caller's key on the way in.
#[derive(Default)]
pub(super) struct Watches {
    by_id: FxHashMap<WatchId, Watch>,
    ids: FxHashMap<u64, WatchId>,
    last_id: WatchId,
}

impl Watches {
    pub(super) fn insert(
        &mut self,
        key: u64,
        descriptor: BorrowedFd<'_>,
        interest: Interest,
    ) -> io::Result<WatchId> {
        if self.ids.contains_key(&key) {
            let message = format!("a descriptor is already watched under key {key}");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        // std duplicates with close-on-exec.
        let descriptor = descriptor.try_clone_to_owned()?;
        self.last_id += 1;
        self.ids.insert(key, self.last_id);
        let watch = Watch {
            key,
            interest,
            descriptor,
        };
        self.by_id.insert(self.last_id, watch);
        Ok(self.last_id)
    }

    pub(super) fn remove(&mut self, key: u64) -> Option<(WatchId, Watch)> {
        let id = self.ids.remove(&key)?;
        Some((id, self.by_id.remove(&id)?))
    }

    pub(super) fn get(&self, id: WatchId) -> Option<&Watch> {
        self.by_id.get(&id)
    }

    pub(super) fn clear(&mut self) {
        self.by_id.clear();
        self.ids.clear();
    }
}
