//! The files registered with an executor.

use std::sync::Arc;

use slab::Slab;

use crate::file::BlockFile;

/// Names a file registered with one executor. Not to be used with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileSlot {
    index: usize,
    /// Distinguishes this registration from earlier and later ones in the same place.
    registration: u64,
}

/// A registered file.
struct Registered {
    file: Arc<BlockFile>,
    registration: u64,
    /// Tasks that have begun and not finished.
    users: usize,
    /// Unregistered while in use: goes with its last user.
    leaving: bool,
}

/// All registered files. Places are reused; registrations are not.
#[derive(Default)]
pub(super) struct Files {
    entries: Slab<Registered>,
    registrations: u64,
}

impl Files {
    pub(super) fn insert(&mut self, file: Arc<BlockFile>) -> FileSlot {
        self.registrations += 1;
        let registration = self.registrations;
        let entry = Registered {
            file,
            registration,
            users: 0,
            leaving: false,
        };
        FileSlot {
            index: self.entries.insert(entry),
            registration,
        }
    }

    /// Begins a use of the file: returns its place, for [`Files::get`] and [`Files::end_use`].
    pub(super) fn begin_use(&mut self, slot: FileSlot) -> Option<usize> {
        let entry = self.entries.get_mut(slot.index)?;
        if entry.registration != slot.registration || entry.leaving {
            return None;
        }
        entry.users += 1;
        Some(slot.index)
    }

    /// Ends a use. Returns the place if the file has left with it, so that the kernel's table can forget it too.
    pub(super) fn end_use(&mut self, index: usize) -> Option<usize> {
        let entry = &mut self.entries[index];
        entry.users -= 1;
        (entry.leaving && entry.users == 0).then(|| {
            self.entries.remove(index);
            index
        })
    }

    /// Ends a registration. Returns the place if the file has left at once.
    pub(super) fn remove(&mut self, slot: FileSlot) -> Option<usize> {
        let entry = self.entries.get_mut(slot.index)?;
        if entry.registration != slot.registration {
            return None;
        }
        if entry.users > 0 {
            entry.leaving = true;
            return None;
        }
        self.entries.remove(slot.index);
        Some(slot.index)
    }

    /// A file in use.
    pub(super) fn get(&self, index: usize) -> &BlockFile {
        &self.entries[index].file
    }
}

impl FileSlot {
    pub(super) fn index(self) -> usize {
        self.index
    }
}
