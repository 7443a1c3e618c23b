//! How storage is taken in a file system for blocks that are written for the first time.
//!
//! A file system pays for a write into a hole: it looks for storage, notes it in its journal, and notes once more
//! that it holds data when that is there. Taken block by block this is most of the cost of a small write. The
//! strategies differ in how much is taken at once, and what is taken and not used is lost space. See docs/engine.md for
//! the figures.
//!
//! Here are the decisions; [`crate::disk`] does what they say.

use std::fmt;
use std::str::FromStr;

use dscow::units::DiskRange;
use rustc_hash::FxHashMap;
use thiserror::Error;

use crate::file::FileSystem;

#[cfg(test)]
mod tests;

/// How storage is taken in a file system for blocks that are written for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpaceStrategy {
    /// What measures best on the file system: [`SpaceStrategy::Fill`] on ext4 and XFS, [`SpaceStrategy::Sparse`] on
    /// others.
    #[default]
    Auto,
    /// Block by block, as writes come.
    Sparse,
    /// Where the disk is filling up, a small write is made larger by zeros, to the end of its stride in both directions.
    Fill,
    /// The first small write into a stride reserves storage for all of it (`fallocate`).
    Strides,
    /// The file system itself takes storage in strides: XFS's extent-size hint, which is given to a file when it is
    /// created.
    ExtentHint,
}

/// A name that is not a strategy's.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("'{0}' is not a space strategy; there are auto, sparse, fill, strides and extent-hint")]
pub struct UnknownStrategy(String);

impl SpaceStrategy {
    /// Each with the name that people write.
    pub const NAMED: [(Self, &'static str); 5] = [
        (Self::Auto, "auto"),
        (Self::Sparse, "sparse"),
        (Self::Fill, "fill"),
        (Self::Strides, "strides"),
        (Self::ExtentHint, "extent-hint"),
    ];
}

impl FromStr for SpaceStrategy {
    type Err = UnknownStrategy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::NAMED.iter().find(|(_, name)| *name == text);
        found
            .map(|(strategy, _)| *strategy)
            .ok_or_else(|| UnknownStrategy(text.to_owned()))
    }
}

impl fmt::Display for SpaceStrategy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMED.iter().find(|(strategy, _)| strategy == self);
        formatter.write_str(named.map_or("", |(_, name)| name))
    }
}

/// Bytes of a stride, and of the extent-size hint that is given to new files.
pub(crate) const STRIDE: u32 = 64 << 10;

/// Where so much of the surroundings of a write is in use, it is taken that the rest soon will be: one in eight. So what
/// is taken is at most eight times what is used.
const DENSE: u64 = 8;

/// Bytes that are the surroundings.
const SURROUNDINGS: u64 = 1 << 20;

/// What the disk does about a small write that is the first to its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Nothing.
    Plain,
    /// Writes zeros around it, where the disk is filling up.
    Fill,
    /// Reserves the stride.
    Reserve,
    /// Nothing, since the file system takes the stride by itself.
    Leave,
}

impl Method {
    /// The method for a file in that file system.
    pub(crate) fn of(strategy: SpaceStrategy, file_system: FileSystem, has_hint: bool) -> Self {
        match (strategy, file_system) {
            (SpaceStrategy::ExtentHint, _) if has_hint => Self::Leave,
            // What is written there is written elsewhere the next time, or it is not known how storage is taken.
            (_, FileSystem::Other) => Self::Plain,
            (SpaceStrategy::Auto | SpaceStrategy::Fill, _) => Self::Fill,
            (SpaceStrategy::Strides, _) => Self::Reserve,
            (SpaceStrategy::Sparse | SpaceStrategy::ExtentHint, _) => Self::Plain,
        }
    }
}

/// What to do with a change of the image's own data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Perform it.
    Go,
    /// Write it with zeros around it, this range in all.
    Fill(DiskRange),
    /// Write it, and reserve this range.
    Reserve(DiskRange),
    /// Something is under way there that does not go together with it: [`Space::hold`] it.
    Wait,
}

/// What the decisions depend on; the disk knows.
pub(crate) trait Surroundings {
    /// Where the last block ends, in bytes of the disk.
    fn disk_end(&self) -> u64;

    /// How far around `write`, within `bounds`, nothing is written and nobody else writes; `None` if `write` is not the
    /// first to its blocks.
    fn room(&self, write: DiskRange, bounds: DiskRange) -> Option<DiskRange>;

    /// How many bytes of `range` are in use.
    fn used(&self, range: DiskRange) -> u64;
}

/// The decisions for one disk. `H` is what is held back.
pub(crate) struct Space<H> {
    method: Method,
    stride: u64,
    prepared: Blocks,
    busy: Vec<Busy<H>>,
}

/// A range in which zeros are being written, or storage is being given back.
struct Busy<H> {
    range: DiskRange,
    waiting: Vec<H>,
}

impl<H> Space<H> {
    /// The decisions for a disk with blocks of `block_len` bytes, in strides of `stride`.
    pub(crate) fn new(method: Method, stride: u64, block_len: u64) -> Self {
        // A block that is a stride by itself is always taken as a whole.
        let method = if block_len >= stride {
            Method::Plain
        } else {
            method
        };
        Self {
            method,
            stride,
            prepared: Blocks::new(block_len),
            busy: Vec::new(),
        }
    }

    /// Bytes of a stride.
    pub(crate) fn stride(&self) -> u64 {
        self.stride
    }

    /// What to do with a write of `range`.
    pub(crate) fn admit_write(&mut self, range: DiskRange, around: &impl Surroundings) -> Verdict {
        if self.is_busy(range) {
            return Verdict::Wait;
        }
        if self.method == Method::Plain || self.prepared.take(range) {
            return Verdict::Go;
        }
        let stride = part_around(range.start.0, self.stride, around.disk_end());
        let is_small = range.end() <= stride.end() && range.len < stride.len;
        if !is_small {
            return Verdict::Go;
        }
        let Some(room) = around.room(range, stride).filter(|room| *room != range) else {
            return Verdict::Go;
        };
        if self.method == Method::Fill && !is_dense(range, around) {
            return Verdict::Go;
        }
        self.prepare(range, room, stride)
    }

    /// Whether storage was taken for all of `range` before anything was written there.
    pub(crate) fn is_prepared(&self, range: DiskRange) -> bool {
        self.prepared.holds(range)
    }

    fn prepare(&mut self, range: DiskRange, room: DiskRange, stride: DiskRange) -> Verdict {
        match self.method {
            Method::Plain => Verdict::Go,
            Method::Fill => {
                self.prepared.insert(room.start.0, range.start.0);
                self.prepared.insert(range.end(), room.end());
                self.begin(room);
                Verdict::Fill(room)
            }
            Method::Reserve => {
                self.prepared.insert(stride.start.0, stride.end());
                Verdict::Reserve(stride)
            }
            Method::Leave => {
                self.prepared.insert(stride.start.0, stride.end());
                Verdict::Go
            }
        }
    }

    /// What to do with a change of `range` that is not a write.
    pub(crate) fn admit_other(&self, range: DiskRange) -> Verdict {
        if self.is_busy(range) {
            Verdict::Wait
        } else {
            Verdict::Go
        }
    }

    /// Whether a fill or a give-back is under way in a part of `range`.
    fn is_busy(&self, range: DiskRange) -> bool {
        self.busy.iter().any(|busy| overlap(busy.range, range))
    }

    /// Keeps what has to wait for what is under way in `range`.
    ///
    /// # Panics
    /// If nothing is.
    pub(crate) fn hold(&mut self, range: DiskRange, held: H) {
        let busy = self.busy.iter_mut().find(|busy| overlap(busy.range, range));
        busy.expect("it was found to be busy").waiting.push(held);
    }

    fn begin(&mut self, range: DiskRange) {
        let waiting = Vec::new();
        self.busy.push(Busy { range, waiting });
    }

    /// What was under way in `range` is over: returns what waited for it, to be admitted again in this order.
    ///
    /// # Panics
    /// If nothing was.
    pub(crate) fn over(&mut self, range: DiskRange) -> Vec<H> {
        let place = self.busy.iter().position(|busy| busy.range == range);
        let place = place.expect("what is under way ends once");
        self.busy.swap_remove(place).waiting
    }

    /// From now on no more storage is taken than is needed: it has run out, or the file system cannot do it.
    pub(crate) fn take_no_more(&mut self) {
        self.method = Method::Plain;
    }

    /// Whether storage was taken for blocks that have not been written since.
    pub(crate) fn has_loans(&self) -> bool {
        !self.prepared.is_empty()
    }

    /// Ranges that hold all that was taken for blocks which have not been written since, in their order. To be given
    /// back, as far as it is unused. Each is returned once.
    pub(crate) fn take_loans(&mut self, disk_end: u64) -> Vec<DiskRange> {
        self.prepared.take_all(disk_end)
    }

    /// Storage is about to be given back in `range`. Tells whether it may be: it may not while a fill is under way there. Then
    /// it stays a loan, for the next time.
    pub(crate) fn begin_give_back(&mut self, range: DiskRange) -> bool {
        let may = !self.is_busy(range);
        if may {
            self.begin(range);
        } else {
            self.prepared.insert(range.start.0, range.end());
        }
        may
    }
}

fn overlap(a: DiskRange, b: DiskRange) -> bool {
    a.start.0 < b.end() && b.start.0 < a.end()
}

/// The part of the disk around the byte `at`, when it is cut into parts of `len` bytes.
fn part_around(at: u64, len: u64, disk_end: u64) -> DiskRange {
    let start = at / len * len;
    DiskRange::new(start, len.min(disk_end - start))
}

fn is_dense(range: DiskRange, around: &impl Surroundings) -> bool {
    let surroundings = part_around(range.start.0, SURROUNDINGS, around.disk_end());
    around.used(surroundings) * DENSE >= surroundings.len
}

/// A set of blocks, a bit for each.
struct Blocks {
    block_len: u64,
    words: FxHashMap<u64, u64>,
}

impl Blocks {
    fn new(block_len: u64) -> Self {
        let words = FxHashMap::default();
        Self { block_len, words }
    }

    fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Adds the blocks from the byte `start` to the byte `end`.
    fn insert(&mut self, start: u64, end: u64) {
        for (index, mask) in self.masks(start, end) {
            *self.words.entry(index).or_default() |= mask;
        }
    }

    /// Whether all blocks of `range` are in.
    fn holds(&self, range: DiskRange) -> bool {
        let holds = |(index, mask)| {
            self.words
                .get(&index)
                .is_some_and(|word| word & mask == mask)
        };
        !self.words.is_empty() && self.masks(range.start.0, range.end()).all(holds)
    }

    /// Takes out the blocks of `range`. Tells whether all of them were in.
    fn take(&mut self, range: DiskRange) -> bool {
        if self.words.is_empty() {
            return false;
        }
        let mut all = true;
        for (index, mask) in self.masks(range.start.0, range.end()) {
            let Some(word) = self.words.get_mut(&index) else {
                all = false;
                continue;
            };
            all &= *word & mask == mask;
            *word &= !mask;
            if *word == 0 {
                self.words.remove(&index);
            }
        }
        all
    }

    /// Takes out all of them, as ranges of bytes that hold them and others.
    fn take_all(&mut self, disk_end: u64) -> Vec<DiskRange> {
        let len = self.block_len * 64;
        let mut starts: Vec<u64> = self.words.drain().map(|(index, _)| index * len).collect();
        starts.sort_unstable();
        let range = |start| part_around(start, len, disk_end);
        starts.into_iter().map(range).collect()
    }

    /// The words that hold the blocks from the byte `start` to the byte `end`, and their bits in each.
    fn masks(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let (first, end) = (start / self.block_len, end.div_ceil(self.block_len));
        let words = if first < end {
            first / 64..end.div_ceil(64)
        } else {
            0..0
        };
        words.map(move |index| {
            let low = first.saturating_sub(index * 64).min(64);
            let high = (end - index * 64).min(64);
            let bits = u64::MAX >> (64 - (high - low));
            (index, bits << low)
        })
    }
}
