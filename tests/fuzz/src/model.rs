//! What a plain disk may show: the reference that everything else is compared with.
//!
//! Each sector keeps the changes that were made to it. A read may return what any change has put there that was not
//! finished before another one began, which in turn was finished before the read began. A change that failed may
//! or may not have been made, sector by sector. After the process is gone and the image was opened anew, only those
//! changes are sure that a flush covers; those after it may be there or not.

use crate::stamp::{self, SECTOR, in_bytes};

/// Counts the steps of a run.
pub(crate) type Time = u64;

/// Names a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangeId(usize);

/// Sectors from the first up to and without the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sectors {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

#[derive(Clone, Copy, Debug)]
struct Change {
    /// `None` puts zeros there.
    stamp: Option<u64>,
    begin: Time,
    end: Option<Time>,
    /// It has surely been made. Not so before its end, nor if it failed.
    made: bool,
    /// A flush has covered it, and has not failed.
    durable: bool,
}

/// A disk, and all that it may show.
pub(crate) struct Model {
    /// What it showed when the changes began.
    initial: Vec<u8>,
    /// The changes of each sector, in the order in which they began.
    sectors: Vec<Vec<ChangeId>>,
    changes: Vec<Change>,
}

impl Model {
    pub(crate) fn new(initial: Vec<u8>) -> Self {
        Self {
            sectors: vec![Vec::new(); initial.len() / SECTOR],
            initial,
            changes: Vec::new(),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        self.sectors.len() as u64
    }

    /// The disk has grown; what is new is zero.
    pub(crate) fn grow(&mut self, sectors: u64) {
        self.initial.resize(in_bytes(sectors), 0);
        self.sectors.resize(self.initial.len() / SECTOR, Vec::new());
    }

    /// A change begins.
    pub(crate) fn begin(&mut self, range: Sectors, stamp: Option<u64>, now: Time) -> ChangeId {
        let id = ChangeId(self.changes.len());
        self.changes.push(Change {
            stamp,
            begin: now,
            end: None,
            made: false,
            durable: false,
        });
        for sector in range.start..range.end {
            self.sectors[place(sector)].push(id);
        }
        id
    }

    /// A change has ended.
    pub(crate) fn end(&mut self, id: ChangeId, made: bool, now: Time) {
        let change = &mut self.changes[id.0];
        change.end = Some(now);
        change.made = made;
    }

    /// A flush that began at `begin` has ended well: what was answered before is durable.
    pub(crate) fn flushed(&mut self, begin: Time) {
        for change in &mut self.changes {
            change.durable |= change.made && change.end.is_some_and(|end| end < begin);
        }
    }

    /// The same for a barrier, which covers everything that began before it.
    pub(crate) fn barrier(&mut self, begin: Time) {
        for change in &mut self.changes {
            change.durable |= change.made && change.begin <= begin;
        }
    }

    /// Checks what a read has returned that began at `begin` and ends now.
    ///
    /// # Panics
    /// If it may not.
    pub(crate) fn check_read(&self, first: u64, content: &[u8], begin: Time) {
        let counts = |change: &Change| change.made && change.end.is_some_and(|end| end < begin);
        self.check("a read", first, content, counts);
    }

    /// Checks what the disk shows after it was opened anew, without having been closed well before.
    ///
    /// # Panics
    /// If it may not.
    pub(crate) fn check_reopened(&self, content: &[u8]) {
        self.check("the reopened disk", 0, content, |change| change.durable);
    }

    /// Every sector must hold something that was not superseded by a change that `counts`.
    fn check(&self, what: &str, first: u64, content: &[u8], counts: impl Fn(&Change) -> bool) {
        for (place, found) in (first..).zip(content.chunks(SECTOR)) {
            if !self.may_hold(place, found, &counts) {
                let held = self.history(place);
                panic!("sector {place} of {what} holds {}; {held}", describe(found));
            }
        }
    }

    fn may_hold(&self, sector: u64, found: &[u8], counts: &impl Fn(&Change) -> bool) -> bool {
        let changes = || {
            let ids = self.sectors[place(sector)].iter();
            ids.map(|id| &self.changes[id.0])
        };
        let superseded = |end: Option<Time>| {
            let after = |change: &Change| end.is_some_and(|end| change.begin > end);
            changes().any(|change| counts(change) && after(change))
        };
        let held_by = |change: &Change| found == change.content(sector);
        let initial = &self.initial[in_bytes(sector)..in_bytes(sector + 1)];
        changes().any(|change| held_by(change) && !superseded(change.end))
            || (found == initial && !superseded(Some(0)))
    }

    fn history(&self, sector: u64) -> String {
        let initial = &self.initial[in_bytes(sector)..in_bytes(sector + 1)];
        let mut text = format!("at first it held {}", describe(initial));
        for id in &self.sectors[place(sector)] {
            text += &format!(", then {:?}", self.changes[id.0]);
        }
        text
    }

    /// All is settled, and this is what the disk shows: the changes are forgotten.
    pub(crate) fn restart(&mut self, content: Vec<u8>) {
        *self = Self::new(content);
    }
}

impl Change {
    fn content(&self, sector: u64) -> [u8; SECTOR] {
        self.stamp
            .map_or([0; SECTOR], |stamp| stamp::sector(stamp, sector))
    }
}

fn place(sector: u64) -> usize {
    usize::try_from(sector).expect("disks of cases are small")
}

fn describe(sector: &[u8]) -> String {
    let word = u64::from_le_bytes(*sector.first_chunk().expect("a sector"));
    match (word >> 32, word & u64::from(u32::MAX)) {
        (0, 0) if sector.iter().all(|byte| *byte == 0) => "zeros".to_owned(),
        _ if !sector.chunks(8).all(|other| other == word.to_le_bytes()) => {
            format!("a mixture that begins {:02x?}", &sector[..16])
        }
        (stamp, place) => format!("what {stamp:#x} wrote for sector {place}"),
    }
}
