//! A disk with a volatile cache.
//!
//! A write is in flight from when it is issued, in the cache when it is completed, and durable when a sync is
//! completed that was submitted after that. Until it is durable, a power failure may keep it, lose it, or keep any of
//! its sectors.
//!
//! Of a write that fails some sectors are there, or none. A sync that fails loses what it was to make durable: reads still see
//! it, a power failure may keep it, but no later sync makes it durable. Nor does one that is under way at the same
//! time, since a failure is told only once.

use crate::content::ContentId;
use crate::fault::Failure;

/// Names a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteId(u32);

/// A write that is not durable.
pub(crate) struct Unsynced {
    id: WriteId,
    pub(crate) sectors: Vec<(usize, ContentId)>,
    /// A sync of it failed.
    lost: bool,
}

/// The disk.
pub(crate) struct Disk {
    durable: Vec<ContentId>,
    /// What reads see: what is durable, and the cache over it.
    view: Vec<ContentId>,
    /// In the order in which they were completed.
    cached: Vec<Unsynced>,
    in_flight: Vec<Unsynced>,
    next_id: u32,
}

impl Disk {
    pub(crate) fn new(sectors: Vec<ContentId>) -> Self {
        Self {
            view: sectors.clone(),
            durable: sectors,
            cached: Vec::new(),
            in_flight: Vec::new(),
            next_id: 0,
        }
    }

    pub(crate) fn issue(&mut self, sectors: Vec<(usize, ContentId)>) -> WriteId {
        let id = WriteId(self.next_id);
        self.next_id += 1;
        let lost = false;
        self.in_flight.push(Unsynced { id, sectors, lost });
        id
    }

    /// The write ends badly: every second of its sectors is there, or none.
    pub(crate) fn fail(&mut self, id: WriteId, failure: Failure) {
        let write = self.in_flight.iter_mut().find(|write| write.id == id);
        let sectors = &mut write.expect("it is in flight").sectors;
        *sectors = match failure {
            Failure::Error | Failure::NoSpace => sectors.iter().copied().step_by(2).collect(),
            Failure::Refused => Vec::new(),
        };
        self.complete(id);
    }

    /// All that is in flight ends well.
    pub(crate) fn settle(&mut self) {
        while let Some(write) = self.in_flight.first() {
            self.complete(write.id);
        }
    }

    pub(crate) fn complete(&mut self, id: WriteId) {
        let at = self.in_flight.iter().position(|write| write.id == id);
        let write = self.in_flight.remove(at.expect("it is in flight"));
        for (sector, content) in &write.sectors {
            self.view[*sector] = *content;
        }
        self.cached.push(write);
    }

    /// What a sync that is submitted now will make durable.
    pub(crate) fn cached(&self) -> Vec<WriteId> {
        let kept = self.cached.iter().filter(|write| !write.lost);
        kept.map(|write| write.id).collect()
    }

    pub(crate) fn lose(&mut self, ids: &[WriteId]) {
        for write in self.cached.iter_mut().filter(|w| ids.contains(&w.id)) {
            write.lost = true;
        }
    }

    pub(crate) fn make_durable(&mut self, ids: &[WriteId]) {
        let mut left: Vec<Unsynced> = Vec::new();
        for write in std::mem::take(&mut self.cached) {
            if write.lost || !ids.contains(&write.id) {
                left.push(write);
                continue;
            }
            for (sector, content) in write.sectors {
                self.durable[sector] = content;
                // What was written there before and was lost does not come back.
                for older in &mut left {
                    older.sectors.retain(|(s, _)| *s != sector);
                }
            }
        }
        left.retain(|write| !write.sectors.is_empty());
        self.cached = left;
    }

    /// What reads see and no sync will make durable.
    pub(crate) fn lost(&self) -> impl Iterator<Item = usize> {
        let lost = self.cached.iter().filter(|write| write.lost);
        lost.flat_map(|write| write.sectors.iter().map(|(sector, _)| *sector))
    }

    pub(crate) fn durable(&self) -> &[ContentId] {
        &self.durable
    }

    pub(crate) fn view(&self) -> &[ContentId] {
        &self.view
    }

    /// What is not durable, in the order in which it takes effect.
    pub(crate) fn unsynced(&self) -> impl Iterator<Item = &Unsynced> {
        self.cached.iter().chain(&self.in_flight)
    }
}
