//! What a file holds, and what changes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

use blockio::file::{Access, BlockFile, Caching};
use powerfail::states::Kept;

const SECTOR: u64 = 512;

/// A change of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Writes bytes.
    Write { offset: u64, data: Vec<u8> },
    /// Makes a range zeros.
    Zero { offset: u64, len: u64 },
    /// Sets its length.
    SetLen(u64),
    /// Sets its time of modification, as everything above does.
    Modified(SystemTime),
}

/// What a file holds, in sectors that are not all zeros.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Content {
    len: u64,
    sectors: BTreeMap<u64, Vec<u8>>,
    pub(crate) modified: SystemTime,
}

impl Content {
    pub(crate) fn of(path: &Path) -> Self {
        let file = BlockFile::open(path, Access::ReadOnly, Caching::Buffered).unwrap();
        let mut content = Self {
            len: file.size().unwrap(),
            sectors: BTreeMap::new(),
            modified: path.metadata().unwrap().modified().unwrap(),
        };
        let whole = 0..content.len;
        file.visit_data(whole, |at, bytes| {
            content.write(at, bytes);
            ControlFlow::Continue(())
        })
        .unwrap();
        content
    }

    /// Gives a file this content.
    pub(crate) fn put(&self, path: &Path) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(0).unwrap();
        file.set_len(self.len).unwrap();
        for (sector, bytes) in &self.sectors {
            let at = sector * SECTOR;
            let len = (self.len - at).min(SECTOR);
            file.write_all_at(&bytes[..usize::try_from(len).unwrap()], at)
                .unwrap();
        }
        file.set_modified(self.modified).unwrap();
    }

    /// Does as much of a change as is kept of it.
    pub(crate) fn apply(&mut self, effect: &Effect, kept: Kept) {
        match effect {
            Effect::Write { offset, data } => {
                let part = part(data.len(), kept);
                self.write(offset + part.start as u64, &data[part]);
            }
            _ if kept == Kept::Nothing => {}
            Effect::Zero { offset, len } => self.zero(*offset..offset + len),
            Effect::SetLen(len) => {
                self.zero(*len..self.len);
                self.len = *len;
            }
            Effect::Modified(time) => self.modified = *time,
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset.is_multiple_of(SECTOR), "the sectors of a disk");
        for (sector, bytes) in (offset / SECTOR..).zip(bytes.chunks(512)) {
            let mut whole = self.sectors.remove(&sector).unwrap_or(vec![0; 512]);
            whole[..bytes.len()].copy_from_slice(bytes);
            if whole != [0; 512] {
                self.sectors.insert(sector, whole);
            }
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    fn zero(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let sectors = range.start / SECTOR..range.end.div_ceil(SECTOR);
        self.sectors.retain(|sector, bytes| {
            if !sectors.contains(sector) {
                return true;
            }
            let at = sector * SECTOR;
            let inside = range.start.max(at)..range.end.min(at + SECTOR);
            let index = |at: u64| usize::try_from(at % SECTOR).unwrap();
            let end = inside.end - at;
            bytes[index(inside.start)..usize::try_from(end).unwrap()].fill(0);
            *bytes != [0; 512]
        });
    }
}

/// Which of the bytes of a write are kept.
fn part(len: usize, kept: Kept) -> Range<usize> {
    let at = |sectors: u64| len.min(usize::try_from(sectors * SECTOR).unwrap());
    match kept {
        Kept::All => 0..len,
        Kept::Nothing => 0..0,
        Kept::First(sectors) => 0..at(sectors),
        Kept::After(sectors) => at(sectors)..len,
    }
}

impl Effect {
    /// The sectors of a write.
    pub(crate) fn sectors(&self) -> u64 {
        match self {
            Self::Write { data, .. } => data.len() as u64 / SECTOR,
            _ => 0,
        }
    }
}
