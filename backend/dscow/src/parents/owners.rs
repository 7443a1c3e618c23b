//! Who holds what below the overlay, remembered.
//!
//! Asking one layer after the other costs more the deeper a chain is. So the answer is worked out for a whole stretch
//! of the disk at once, when a read first comes there, and kept: a byte for each granule, the smallest block of the
//! chain. What is kept is bounded; a stretch that was forgotten is worked out again.

use rustc_hash::FxHashMap;

use super::{LayerIndex, ParentLayer, allocation_run};
use crate::units::BlockSize;

/// Granules in a stretch.
const STRETCH_GRANULES: u64 = 4096;

/// Stretches kept at most: 16 MiB of memory for each disk, for 64 GiB of it at the smallest block size.
const STRETCHES_MAX: usize = 4096;

/// Nobody holds it: zeros.
const NOBODY: u8 = 0;
/// Different bytes of the granule are held by different layers, because the disk of one of them ends inside it.
const SEVERAL: u8 = u8::MAX;

/// Who holds a run of granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Nobody,
    Layer(LayerIndex),
    /// Not one and the same: to be asked layer by layer.
    Several,
}

/// The remembered owners of a chain whose nearest parent is a dscow image.
#[derive(Default)]
pub(super) struct Owners {
    granule: BlockSize,
    /// The owners of the granules of each stretch, by its number.
    stretches: FxHashMap<u64, Box<[u8]>>,
}

impl Owners {
    pub(super) fn new(layers: &[ParentLayer]) -> Self {
        let granule = layers.iter().filter_map(ParentLayer::block_size).min();
        Self {
            granule: granule.unwrap_or_default(),
            stretches: FxHashMap::default(),
        }
    }

    /// Who holds the byte at `at`, and how many bytes from there on, not past `end`.
    pub(super) fn owner_at(&mut self, layers: &[ParentLayer], at: u64, end: u64) -> (Owner, u64) {
        let shift = self.granule.shift();
        let first = at >> shift;
        let last = self.granule.blocks_for(end);
        let stretch = self.stretch(layers, first / STRETCH_GRANULES);
        let from = in_stretch(first);
        // Most reads want no more.
        if last == first + 1 && stretch[from] != SEVERAL {
            return (Owner::of(stretch[from]), end - at);
        }
        let to = in_stretch(last.min((first / STRETCH_GRANULES + 1) * STRETCH_GRANULES) - 1) + 1;
        let owner = stretch[from];
        let same = match owner {
            SEVERAL => 1,
            _ => stretch[from..to]
                .iter()
                .take_while(|o| **o == owner)
                .count(),
        };
        let until = end.min((first + same as u64) << shift);
        (Owner::of(owner), until - at)
    }

    /// How many stretches are remembered.
    #[cfg(test)]
    pub(super) fn stretches(&self) -> usize {
        self.stretches.len()
    }

    fn stretch(&mut self, layers: &[ParentLayer], number: u64) -> &[u8] {
        if self.stretches.len() >= STRETCHES_MAX && !self.stretches.contains_key(&number) {
            self.stretches.clear();
        }
        let granule = self.granule;
        self.stretches
            .entry(number)
            .or_insert_with(|| resolve(layers, granule, number))
    }
}

/// Works out a stretch: the layers are painted over each other, the lowest first.
fn resolve(layers: &[ParentLayer], granule: BlockSize, number: u64) -> Box<[u8]> {
    let start = (number * STRETCH_GRANULES) << granule.shift();
    let end = start + (STRETCH_GRANULES << granule.shift());
    let mut owners = vec![NOBODY; in_memory(STRETCH_GRANULES)];
    let mut paint = Paint {
        owners: &mut owners,
        granule,
        start,
        end,
    };
    for (i, layer) in layers.iter().enumerate().rev() {
        let owner = u8::try_from(i + 1).expect("at most PARENTS_MAX layers");
        match layer {
            ParentLayer::Raw { size } => {
                paint.range(0, *size, owner);
                paint.range(*size, u64::MAX, NOBODY);
            }
            ParentLayer::Dscow {
                layout,
                bitmap,
                parent_limit,
            } => {
                // What this layer hides of those below: all past its end, and past the limit of its parent.
                paint.range(layout.virtual_size().min(*parent_limit), u64::MAX, NOBODY);
                let stop = end.min(layout.virtual_size());
                let mut at = start;
                while at < stop {
                    let (allocated, until) = allocation_run(layout, bitmap, at, stop);
                    if allocated {
                        paint.range(at, until, owner);
                    }
                    at = until;
                }
            }
        }
    }
    owners.into()
}

struct Paint<'a> {
    owners: &'a mut [u8],
    granule: BlockSize,
    /// First byte of the disk that the stretch covers.
    start: u64,
    /// The byte after the last.
    end: u64,
}

impl Paint<'_> {
    /// Gives the bytes `from..to` of the disk to `owner`; granules that are only covered in part to several, unless
    /// they have that owner already.
    fn range(&mut self, from: u64, to: u64, owner: u8) {
        let (from, to) = (from.max(self.start), to.min(self.end));
        if from >= to {
            return;
        }
        let bytes = self.granule.bytes();
        let whole_from = from.next_multiple_of(bytes);
        let whole_to = to - to % bytes;
        if from < whole_from {
            self.part(from, owner);
        }
        if whole_from < whole_to {
            let (first, last) = (self.index(whole_from), self.index(whole_to - 1));
            self.owners[first..=last].fill(owner);
        }
        if whole_to < to && whole_to >= whole_from {
            self.part(whole_to, owner);
        }
    }

    fn part(&mut self, at: u64, owner: u8) {
        let index = self.index(at);
        if self.owners[index] != owner {
            self.owners[index] = SEVERAL;
        }
    }

    fn index(&self, at: u64) -> usize {
        in_memory((at - self.start) >> self.granule.shift())
    }
}

impl Owner {
    fn of(owner: u8) -> Self {
        match owner {
            NOBODY => Self::Nobody,
            SEVERAL => Self::Several,
            layer => Self::Layer(LayerIndex(layer.into())),
        }
    }
}

impl ParentLayer {
    fn block_size(&self) -> Option<BlockSize> {
        match self {
            Self::Raw { .. } => None,
            Self::Dscow { layout, .. } => Some(layout.block_size()),
        }
    }
}

fn in_stretch(granule: u64) -> usize {
    in_memory(granule % STRETCH_GRANULES)
}

fn in_memory(granules: u64) -> usize {
    usize::try_from(granules).expect("a stretch is held in memory")
}
