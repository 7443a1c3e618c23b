//! The images below the one that is open: who holds a byte that the overlay does not.

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
    },
}

/// Parents, nearest first.
#[derive(Default)]
pub struct Parents(Vec<ParentLayer>);

/// A run of bytes that come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
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
    pub fn new(layers: Vec<ParentLayer>) -> Self {
        Self(layers)
    }

    /// How many images there are below the overlay.
    pub fn depth(&self) -> usize {
        self.0.len()
    }

    /// The longest run of bytes from `at`, not past `end`, that come from one place.
    pub(crate) fn run_at(&self, at: u64, end: u64) -> Run {
        let mut end = end;
        for (i, layer) in self.0.iter().enumerate() {
            let index = LayerIndex(i + 1);
            let size = layer.size();
            if at >= size {
                // Past the end of this parent: zeros, whatever lies below.
                break;
            }
            end = end.min(size);
            match layer {
                ParentLayer::Raw { .. } => return Run::from_layer(index, FileOffset(at), end - at),
                ParentLayer::Dscow { layout, bitmap } => {
                    let (allocated, until) = allocation_run(layout, bitmap, at, end);
                    if allocated {
                        let position = layout.data_position(DiskOffset(at));
                        return Run::from_layer(index, position, until - at);
                    }
                    end = until;
                }
            }
        }
        Run {
            source: Source::Zero,
            len: end - at,
        }
    }
}

impl ParentLayer {
    fn size(&self) -> u64 {
        match self {
            Self::Raw { size } => *size,
            Self::Dscow { layout, .. } => layout.virtual_size(),
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
}

/// Whether the byte at `at` is allocated, and up to where (not past `end`) the same holds.
pub(crate) fn allocation_run(layout: &Layout, bitmap: &Bitmap, at: u64, end: u64) -> (bool, u64) {
    let (first, last) = layout.blocks_touched(at, end);
    let allocated = bitmap.is_set(first);
    let change = bitmap.find(!allocated, BlockIndex(first.0 + 1), last);
    let until = change.map_or(end, |block| layout.block_size().start_of(block).0.min(end));
    (allocated, until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Headroom;
    use crate::units::BlockSize;

    const KIB: u64 = 1024;

    fn dscow(size: u64, block: u64, allocated: &[u64]) -> ParentLayer {
        let block = BlockSize::from_bytes(block).unwrap();
        let layout = Layout::for_new(size, block, Headroom::Exact).unwrap();
        let mut bitmap = Bitmap::empty(&layout);
        for b in allocated {
            bitmap.set(BlockIndex(*b));
        }
        ParentLayer::Dscow { layout, bitmap }
    }

    fn runs(parents: &Parents, start: u64, end: u64) -> Vec<(Option<(usize, u64)>, u64)> {
        let mut at = start;
        let mut found = Vec::new();
        while at < end {
            let run = parents.run_at(at, end);
            let from = match run.source {
                Source::Layer(layer, position) => Some((layer.0, position.0)),
                Source::Zero => None,
            };
            found.push((from, run.len));
            at += run.len;
        }
        found
    }

    #[test]
    fn without_parents_all_is_zero() {
        assert_eq!(runs(&Parents::default(), 512, 8192), [(None, 7680)]);
    }

    #[test]
    fn a_raw_base_ends_in_zeros() {
        let parents = Parents::new(vec![ParentLayer::Raw { size: 6 * KIB }]);
        assert_eq!(
            runs(&parents, 4 * KIB, 12 * KIB),
            [(Some((1, 4 * KIB)), 2 * KIB), (None, 6 * KIB)]
        );
    }

    #[test]
    fn the_nearest_layer_that_holds_a_block_wins() {
        let parents = Parents::new(vec![
            dscow(64 * KIB, 4 * KIB, &[1, 2]),
            dscow(64 * KIB, 8 * KIB, &[1, 3]),
            ParentLayer::Raw { size: 1024 * KIB },
        ]);
        let data = 1024 * KIB;
        assert_eq!(
            runs(&parents, 0, 40 * KIB),
            [
                (Some((3, 0)), 4 * KIB),
                (Some((1, data + 4 * KIB)), 8 * KIB),
                (Some((2, data + 12 * KIB)), 4 * KIB),
                (Some((3, 16 * KIB)), 8 * KIB),
                (Some((2, data + 24 * KIB)), 8 * KIB),
                (Some((3, 32 * KIB)), 8 * KIB),
            ]
        );
    }

    #[test]
    fn a_short_parent_hides_what_lies_below_its_end() {
        let parents = Parents::new(vec![
            dscow(8 * KIB, 4 * KIB, &[]),
            ParentLayer::Raw { size: 1024 * KIB },
        ]);
        assert_eq!(
            runs(&parents, 0, 16 * KIB),
            [(Some((2, 0)), 8 * KIB), (None, 8 * KIB)]
        );
    }
}
