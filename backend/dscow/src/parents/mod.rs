//! The images below the one that is open: who holds a byte that the overlay does not.

mod owners;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use self::owners::{Owner, Owners};
use crate::bitmap::Bitmap;
use crate::layout::Layout;
use crate::units::{BlockIndex, DiskOffset, FileOffset};

/// Which file an action is about: 0 is the image itself, 1 its parent, and so on downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayerIndex(pub usize);

impl LayerIndex {
    /// The image itself, the only layer that is ever written.
    pub const TOP: Self = Self(0);
}

/// Most images below an overlay.
pub const PARENTS_MAX: usize = 63;

/// One image below the overlay. It does not change while the overlay is open.
pub enum ParentLayer {
    /// A raw file or device of `size` bytes.
    Raw {
        /// Size in bytes; reads past it give zeros.
        size: u64,
    },
    /// A dscow image.
    Dscow {
        /// Its shape.
        layout: Layout,
        /// Its allocated blocks.
        bitmap: Bitmap,
        /// How many bytes of its own parent show through it.
        parent_limit: u64,
    },
}

/// Parents, nearest first.
#[derive(Default)]
pub struct Parents {
    layers: Vec<ParentLayer>,
    /// Where the first byte of the disk is in the file of each; kept together, since every read asks for one.
    starts: Vec<FileOffset>,
    /// Who holds what, as far as it was asked for; so that the depth of a chain costs once and not at every read.
    owners: RefCell<Owners>,
}

/// A run of bytes that come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Who holds them.
    pub(crate) source: Source,
    /// Length in bytes, at least 1.
    pub(crate) len: u64,
}

/// Where a run of bytes comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// From this position of a layer's file.
    Layer(LayerIndex, FileOffset),
    /// From nowhere: zeros.
    Zero,
}

impl Parents {
    /// Parents, nearest first.
    ///
    /// # Panics
    /// If there are more than [`PARENTS_MAX`].
    pub fn new(layers: Vec<ParentLayer>) -> Self {
        assert!(
            layers.len() <= PARENTS_MAX,
            "chains are at most 64 images deep"
        );
        let owners = RefCell::new(Owners::new(&layers));
        let starts = layers.iter().map(|layer| layer.position_of(0)).collect();
        Self {
            layers,
            starts,
            owners,
        }
    }

    /// How many images there are below the overlay.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Size of the nearest parent's disk in bytes; 0 without one.
    pub fn size(&self) -> u64 {
        self.layers.first().map_or(0, ParentLayer::size)
    }

    /// A run of bytes from `at`, not past `end`, that come from one place. What follows may come from there too.
    pub(crate) fn run_at(&self, at: u64, end: u64) -> Run {
        match self.layers.first() {
            None => Run::zero(end - at),
            Some(ParentLayer::Raw { size }) => raw_run(LayerIndex(1), *size, at, end),
            Some(ParentLayer::Dscow { .. }) => self.owned_run(at, end),
        }
    }

    fn owned_run(&self, at: u64, end: u64) -> Run {
        let (owner, len) = self.owners.borrow_mut().owner_at(&self.layers, at, end);
        match owner {
            Owner::Nobody => Run::zero(len),
            Owner::Layer(index) => {
                let start = self.starts[index.0 - 1];
                Run::from_layer(index, FileOffset(start.0 + at), len)
            }
            Owner::Several => walk(&self.layers, at, at + len),
        }
    }

    /// Whether nobody holds any byte from `at` up to `end`: they read as zeros.
    pub(crate) fn is_zero(&self, at: u64, end: u64) -> bool {
        let mut at = at;
        while at < end {
            let run = self.run_at(at, end);
            if run.source != Source::Zero {
                return false;
            }
            at += run.len;
        }
        true
    }
}

/// The run at `at` by asking one layer after the other.
fn walk(layers: &[ParentLayer], at: u64, end: u64) -> Run {
    let mut end = end;
    for (i, layer) in layers.iter().enumerate() {
        let index = LayerIndex(i + 1);
        match layer {
            ParentLayer::Raw { size } => return raw_run(index, *size, at, end),
            ParentLayer::Dscow {
                layout,
                bitmap,
                parent_limit,
            } => {
                if at >= layout.virtual_size() {
                    // Past the end of this parent: zeros, whatever lies below.
                    break;
                }
                end = end.min(layout.virtual_size());
                let (allocated, until) = allocation_run(layout, bitmap, at, end);
                if allocated {
                    return Run::from_layer(index, layer.position_of(at), until - at);
                }
                end = until;
                if at >= *parent_limit {
                    break;
                }
                end = end.min(*parent_limit);
            }
        }
    }
    Run::zero(end - at)
}

fn raw_run(index: LayerIndex, size: u64, at: u64, end: u64) -> Run {
    if at >= size {
        Run::zero(end - at)
    } else {
        Run::from_layer(index, FileOffset(at), end.min(size) - at)
    }
}

impl ParentLayer {
    fn size(&self) -> u64 {
        match self {
            Self::Raw { size } => *size,
            Self::Dscow { layout, .. } => layout.virtual_size(),
        }
    }

    /// Where in its file the byte at `at` is, if it holds that byte.
    fn position_of(&self, at: u64) -> FileOffset {
        match self {
            Self::Raw { .. } => FileOffset(at),
            Self::Dscow { layout, .. } => layout.data_position(DiskOffset(at)),
        }
    }
}

impl Run {
    pub(crate) fn from_layer(layer: LayerIndex, position: FileOffset, len: u64) -> Self {
        Self {
            source: Source::Layer(layer, position),
            len,
        }
    }

    pub(crate) fn zero(len: u64) -> Self {
        Self {
            source: Source::Zero,
            len,
        }
    }
}

/// Whether the byte at `at` is allocated, and up to where (not past `end`) the same holds.
pub(crate) fn allocation_run(layout: &Layout, bitmap: &Bitmap, at: u64, end: u64) -> (bool, u64) {
    let (first, last) = layout.blocks_touched(at, end);
    let allocated = bitmap.is_set(first);
    if last.0 == first.0 + 1 {
        return (allocated, end);
    }
    let change = bitmap.find(!allocated, BlockIndex(first.0 + 1), last);
    let until = change.map_or(end, |block| layout.block_size().start_of(block).0.min(end));
    (allocated, until)
}
