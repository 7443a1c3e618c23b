//! The images below the one that is driven, and what they show.

use dscow::bitmap::Bitmap;
use dscow::header::{Header, State};
use dscow::layout::{Headroom, Layout};
use dscow::parents::ParentLayer;
use dscow::units::{BlockIndex, BlockSize, DiskOffset};
use uuid::Uuid;

use crate::script::Script;
use crate::stamp::{self, SECTOR, in_bytes};

/// Most sectors of a disk or a base.
const SECTORS_MAX: u64 = 160;

/// The stamp of what the layer at index 0 holds; those of the others follow.
const LAYER_STAMP: u64 = 0xf000_0000;

/// The image that is driven, before anything is written to it, and what is below it.
pub(crate) struct Chain {
    pub(crate) header: Header,
    /// Nearest first.
    pub(crate) below: Vec<Below>,
}

/// One image below.
pub(crate) enum Below {
    Raw {
        sectors: u64,
    },
    Dscow {
        header: Box<Header>,
        /// Bit `i % 16` says whether block `i` is allocated.
        allocated: u16,
    },
}

/// The bytes of a file that are not zero, by position, and its length.
pub(crate) struct Content {
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
    pub(crate) len: u64,
}

impl Chain {
    pub(crate) fn of_script(script: &mut Script<'_>) -> Self {
        let below: Vec<Below> = (0..script.below(4))
            .map(|_| Below::of_script(script))
            .collect();
        let mut header = new_header(script, 1);
        if !below.is_empty() {
            header.parent_limit = parent_limit(script, &header.layout);
        }
        Self { header, below }
    }

    /// What the disk shows.
    pub(crate) fn initial(&self) -> Vec<u8> {
        let size = self.header.layout.virtual_size();
        let limit = self.header.parent_limit.unwrap_or(u64::MAX);
        let sectors = size / SECTOR as u64;
        (0..sectors)
            .flat_map(|sector| match sector * SECTOR as u64 {
                at if at >= limit => [0; SECTOR],
                _ => shown(&self.below, sector),
            })
            .collect()
    }
}

/// What sector `sector` of the first layer shows, from the definition of a chain.
fn shown(below: &[Below], sector: u64) -> [u8; SECTOR] {
    let at = sector * SECTOR as u64;
    for (stamp, layer) in (LAYER_STAMP..).zip(below) {
        match layer {
            Below::Raw { sectors } if sector < *sectors => return stamp::sector(stamp, sector),
            Below::Raw { .. } => break,
            Below::Dscow { header, .. } => {
                if at >= header.layout.virtual_size() {
                    break;
                }
                if layer.holds(header.layout.block_size().block_of(DiskOffset(at))) {
                    return stamp::sector(stamp, sector);
                }
                if header.parent_limit.is_some_and(|limit| at >= limit) {
                    break;
                }
            }
        }
    }
    [0; SECTOR]
}

impl Below {
    pub(crate) fn of_script(script: &mut Script<'_>) -> Self {
        if script.one_in(2) {
            return Self::Raw {
                sectors: 1 + script.below(SECTORS_MAX),
            };
        }
        let mut header = new_header(script, 2);
        header.parent_limit = parent_limit(script, &header.layout);
        Self::Dscow {
            header: Box::new(header),
            allocated: script.u16(),
        }
    }

    fn holds(&self, block: BlockIndex) -> bool {
        match self {
            Self::Raw { .. } => true,
            Self::Dscow { allocated, .. } => allocated >> (block.0 % 16) & 1 == 1,
        }
    }

    fn blocks(header: &Header) -> impl Iterator<Item = BlockIndex> + use<> {
        (0..header.layout.block_count()).map(BlockIndex)
    }

    /// As the engine is told of it.
    pub(crate) fn layer(&self) -> ParentLayer {
        match self {
            Self::Raw { sectors } => ParentLayer::Raw {
                size: sectors * SECTOR as u64,
            },
            Self::Dscow { header, .. } => ParentLayer::Dscow {
                layout: header.layout,
                bitmap: self.bitmap(header),
                parent_limit: header.parent_limit.unwrap_or(u64::MAX),
            },
        }
    }

    fn bitmap(&self, header: &Header) -> Bitmap {
        let mut bitmap = Bitmap::empty(&header.layout).unwrap();
        for block in Self::blocks(header).filter(|block| self.holds(*block)) {
            bitmap.set(block);
        }
        bitmap
    }

    /// Its file, if it is the layer at `index`; `finished` has the last say about its header.
    pub(crate) fn content(&self, index: usize, finished: impl FnOnce(&mut Header)) -> Content {
        let stamp = LAYER_STAMP + index as u64;
        match self {
            Self::Raw { sectors } => Content {
                pieces: vec![(0, stamp::sectors(stamp, 0, *sectors))],
                len: sectors * SECTOR as u64,
            },
            Self::Dscow { header, .. } => {
                let mut header = header.clone();
                let bitmap = self.bitmap(&header);
                header.state = State::Clean {
                    bitmap_crc: bitmap.crc(),
                };
                finished(&mut header);
                let layout = header.layout;
                let mut pieces = vec![
                    (0, header.encode().to_vec()),
                    (layout.bitmap_offset().0, bitmap.used_bytes().to_vec()),
                ];
                for block in Self::blocks(&header).filter(|block| self.holds(*block)) {
                    let start = layout.block_size().start_of(block);
                    let end = layout
                        .virtual_size()
                        .min(start.0 + layout.block_size().bytes());
                    let sectors = (end - start.0) / SECTOR as u64;
                    let bytes = stamp::sectors(stamp, start.0 / SECTOR as u64, sectors);
                    pieces.push((layout.data_position(start).0, bytes));
                }
                let len = layout.file_len();
                Content { pieces, len }
            }
        }
    }
}

impl Content {
    /// The file of an image with nothing in it.
    pub(crate) fn of_new_image(header: &Header) -> Self {
        Self {
            pieces: vec![(0, header.encode().to_vec())],
            len: header.layout.file_len(),
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).expect("images of cases are small")];
        for (at, piece) in self.pieces {
            let at = usize::try_from(at).expect("inside the file");
            bytes[at..at + piece.len()].copy_from_slice(&piece);
        }
        bytes
    }
}

fn new_header(script: &mut Script<'_>, uuid: u128) -> Header {
    let shift = 12 + u32::from(script.byte() % 4);
    let block_size = BlockSize::from_shift(shift).expect("the smallest sizes");
    let size = (1 + script.below(SECTORS_MAX)) * SECTOR as u64;
    Header {
        sequence: 1,
        compatible_features: 0,
        uuid: Uuid::from_u128(uuid),
        layout: Layout::for_new(size, block_size, Headroom::Exact).expect("a small disk"),
        generation: 0,
        created: 0,
        state: State::Clean {
            // Of a bitmap without bits.
            bitmap_crc: crc32c::crc32c(&vec![0; in_bytes(1)][..bitmap_bytes(size, block_size)]),
        },
        parent: None,
        commit_under_way: false,
        parent_limit: None,
    }
}

fn bitmap_bytes(size: u64, block_size: BlockSize) -> usize {
    usize::try_from(block_size.blocks_for(size).div_ceil(8)).expect("a small disk")
}

/// Mostly all of the parent shows.
fn parent_limit(script: &mut Script<'_>, layout: &Layout) -> Option<u64> {
    if !script.one_in(4) {
        return None;
    }
    let sectors = layout.virtual_size() / SECTOR as u64;
    Some((1 + script.below(sectors)) * SECTOR as u64)
}
