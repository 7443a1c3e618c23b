//! The images below the one that is checked: what they hold, and what shows of them.

use dscow::bitmap::Bitmap;
use dscow::layout::Layout;
use dscow::parents::{LayerIndex, ParentLayer, Parents};
use dscow::units::{BlockIndex, FileOffset};

use crate::content::{Sector, word_sector};
use crate::geometry::SECTOR_BYTES;

/// An image below.
pub(crate) enum Below {
    Raw {
        size: u64,
    },
    Dscow {
        layout: Layout,
        blocks: Vec<u64>,
        parent_limit: u64,
    },
}

/// All images below, nearest first. They never change.
pub(crate) struct Base {
    layers: Vec<Below>,
}

impl Base {
    pub(crate) fn new(layers: Vec<Below>) -> Self {
        Self { layers }
    }

    pub(crate) fn raw(size: u64) -> Self {
        Self::new(vec![Below::Raw { size }])
    }

    /// Size of the nearest one's disk.
    pub(crate) fn size(&self) -> u64 {
        self.layers.first().map_or(0, Below::size)
    }

    /// As the engine takes them.
    pub(crate) fn parents(&self) -> Parents {
        Parents::new(self.layers.iter().map(Below::layer).collect())
    }

    /// What shows at `on_disk`, by the words of the format: the first layer that holds it, unless one above hides it.
    pub(crate) fn shown(&self, on_disk: u64) -> Sector {
        for (below, layer) in self.layers.iter().zip(1..) {
            if on_disk >= below.size() {
                break;
            }
            match below {
                Below::Raw { .. } => return held(layer, on_disk),
                Below::Dscow {
                    layout,
                    blocks,
                    parent_limit,
                } => {
                    if blocks.contains(&(on_disk / layout.block_size().bytes())) {
                        return held(layer, on_disk);
                    }
                    if on_disk >= *parent_limit {
                        break;
                    }
                }
            }
        }
        word_sector(0)
    }

    /// What the file of a layer holds at `offset`.
    ///
    /// Panics where it holds nothing: the engine has no business there.
    pub(crate) fn read(&self, LayerIndex(layer): LayerIndex, offset: FileOffset) -> Sector {
        let on_disk = match &self.layers[layer - 1] {
            Below::Raw { size } => {
                assert!(offset.0 < *size, "the base ends before {offset:?}");
                offset.0
            }
            Below::Dscow { layout, blocks, .. } => {
                let on_disk = offset.0 - layout.data_offset().0;
                let block = on_disk / layout.block_size().bytes();
                assert!(blocks.contains(&block), "layer {layer} has no {offset:?}");
                on_disk
            }
        };
        held(layer, on_disk)
    }
}

/// No two layers hold the same.
fn held(layer: usize, on_disk: u64) -> Sector {
    word_sector((layer as u64) << 56 | (on_disk / SECTOR_BYTES + 1) << 8)
}

impl Below {
    fn size(&self) -> u64 {
        match self {
            Self::Raw { size } => *size,
            Self::Dscow { layout, .. } => layout.virtual_size(),
        }
    }

    fn layer(&self) -> ParentLayer {
        match self {
            Self::Raw { size } => ParentLayer::Raw { size: *size },
            Self::Dscow {
                layout,
                blocks,
                parent_limit,
            } => {
                let mut bitmap = Bitmap::empty(layout).unwrap();
                for block in blocks {
                    bitmap.set(BlockIndex(*block));
                }
                ParentLayer::Dscow {
                    layout: *layout,
                    bitmap,
                    parent_limit: *parent_limit,
                }
            }
        }
    }
}
