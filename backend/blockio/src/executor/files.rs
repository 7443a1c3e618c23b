//! The files registered with an executor.

use std::sync::Arc;

use slab::Slab;

use super::in_place::{InPlace, Kind, Measure};
use super::task::{HandedOver, Task};
use crate::file::{Access, BlockFile};

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
    in_place: InPlace,
}

/// All registered files. Places are reused; registrations are not.
#[derive(Default)]
pub(super) struct Files {
    entries: Slab<Registered>,
    registrations: u64,
    /// How many of them may be written.
    writable: usize,
}

impl Files {
    pub(super) fn insert(&mut self, file: Arc<BlockFile>) -> FileSlot {
        self.registrations += 1;
        self.writable += usize::from(is_writable(&file));
        let registration = self.registrations;
        let entry = Registered {
            in_place: InPlace::new(file.answers_at_once()),
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
        (entry.leaving && entry.users == 0).then(|| self.forget(index))
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
        Some(self.forget(slot.index))
    }

    fn forget(&mut self, index: usize) -> usize {
        let entry = self.entries.remove(index);
        self.writable -= usize::from(is_writable(&entry.file));
        index
    }

    /// Whether an operation that has begun to use the file is to be done in place; if so, what it is, for
    /// [`Files::was_done_in_place`].
    pub(super) fn in_place(&mut self, index: usize, task: &Task) -> Option<Kind> {
        let entry = &mut self.entries[index];
        let kind = match task.handed_over()? {
            HandedOver::Write => entry.in_place.write(),
            HandedOver::Sync => entry.in_place.sync(),
            HandedOver::Fallocate => {
                entry.in_place.changes_storage();
                return None;
            }
        };
        let alone = entry.users == 1;
        entry.in_place.admits(kind, alone).then_some(kind)
    }

    /// An operation is about to be done in place.
    pub(super) fn measure(&self, kind: Kind) -> Measure {
        Measure::begin(kind, self.writable == 1)
    }

    /// An operation was done in place, and held the worker up or did not.
    pub(super) fn was_done_in_place(&mut self, index: usize, kind: Kind, held_up: bool) {
        self.entries[index].in_place.was_done(kind, held_up);
    }

    /// A file in use.
    pub(super) fn get(&self, index: usize) -> &BlockFile {
        &self.entries[index].file
    }
}

fn is_writable(file: &BlockFile) -> bool {
    file.access() == Access::ReadWrite
}

impl FileSlot {
    pub(super) fn index(self) -> usize {
        self.index
    }
}
