//! A disk with a volatile cache.
//!
//! A write is in flight from when it is issued, in the cache when it is completed, and durable when a sync is
//! completed that was submitted after that. Until it is durable, a power failure may keep it, lose it, or keep any of
//! its sectors.

use crate::content::ContentId;

/// Names a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WriteId(u32);

/// A write that is not durable.
pub(crate) struct Unsynced {
    id: WriteId,
    pub(crate) sectors: Vec<(usize, ContentId)>,
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
        self.in_flight.push(Unsynced { id, sectors });
        id
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
        self.cached.iter().map(|write| write.id).collect()
    }

    pub(crate) fn make_durable(&mut self, ids: &[WriteId]) {
        for write in self.cached.extract_if(.., |write| ids.contains(&write.id)) {
            for (sector, content) in write.sectors {
                self.durable[sector] = content;
            }
        }
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
