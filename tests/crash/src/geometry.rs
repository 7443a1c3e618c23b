//! The image: its shape, which of its blocks are used, and what its sectors hold.

use dscow::header::{Header, State};
use dscow::layout::{HEADER_SLOT_SIZE, Headroom, Layout};
use dscow::parent::Parent;
use dscow::units::{BlockSize, DiskRange, FileOffset};
use uuid::Uuid;

use crate::content::{SECTOR, Sector, index};

/// Sectors in a block.
pub(crate) const BLOCK_SECTORS: usize = 8;
const SECTOR_BYTES: u64 = SECTOR as u64;
const BLOCK_BYTES: u64 = 4096;

/// Number of a write of the workload, from 1; 0 is the base's content.
pub(crate) type Value = u8;

/// What lay in the data area before the image was made.
const STALE: u8 = 0xdd;

/// An image of which a few blocks are used. Only those, and the metadata, are kept.
pub struct Geometry {
    name: &'static str,
    layout: Layout,
    blocks: Vec<u64>,
    /// Size of the base; it ends after a sector of the last block, so that zeros show there.
    parent_size: u64,
}

impl Geometry {
    /// Three blocks side by side, the last of which is short. All their bits are in one sector of the bitmap.
    pub fn compact() -> Self {
        let size = 2 * BLOCK_BYTES + 5 * SECTOR_BYTES;
        let parent = 2 * BLOCK_BYTES + SECTOR_BYTES;
        Self::new("compact", vec![0, 1, 2], size, parent)
    }

    /// Two neighbours whose bits are in different sectors of a page of the bitmap, and a third block whose bit is in
    /// another page that is not the next one, so that a commit of all has two bitmap writes.
    pub fn spread() -> Self {
        let size = (65_536 + 1) * BLOCK_BYTES;
        let blocks = vec![4095, 4096, 65_536];
        let parent = 65_536 * BLOCK_BYTES + SECTOR_BYTES;
        Self::new("spread", blocks, size, parent)
    }

    /// The geometry of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::compact(), Self::spread()]
            .into_iter()
            .find(|geometry| geometry.name == name)
    }

    /// What it is called on the command line.
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn new(name: &'static str, blocks: Vec<u64>, size: u64, parent_size: u64) -> Self {
        Self {
            name,
            layout: Layout::for_new(size, BlockSize::MIN, Headroom::Exact)
                .expect("a size that the format allows"),
            blocks,
            parent_size,
        }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn parent_size(&self) -> u64 {
        self.parent_size
    }

    pub(crate) fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    /// Sectors of the used blocks, including what lies past the end of the disk.
    pub(crate) fn data_sectors(&self) -> usize {
        self.blocks.len() * BLOCK_SECTORS
    }

    pub(crate) fn bitmap_sector(&self) -> usize {
        index(self.layout.bitmap_offset().0 / SECTOR_BYTES)
    }

    /// Sectors of the bitmap's pages in use.
    pub(crate) fn bitmap_sectors(&self) -> usize {
        let pages = self.layout.bitmap_used_len().div_ceil(4096);
        index(pages) * BLOCK_SECTORS
    }

    fn metadata_sectors(&self) -> usize {
        self.bitmap_sector() + self.bitmap_sectors()
    }

    /// Sectors of the last block that are not part of the disk.
    pub(crate) fn sectors_past_end(&self) -> usize {
        let end = self.layout.virtual_size();
        index((end.next_multiple_of(BLOCK_BYTES) - end) / SECTOR_BYTES)
    }

    /// How many sectors are kept.
    pub(crate) fn sectors(&self) -> usize {
        self.metadata_sectors() + self.data_sectors()
    }

    /// The number among the kept sectors of the one at `offset` of the image.
    ///
    /// Panics where nothing is kept: the engine has no business there.
    pub(crate) fn sector_at(&self, offset: FileOffset) -> usize {
        let sector = index(offset.0 / SECTOR_BYTES);
        match offset.0.checked_sub(self.layout.data_offset().0) {
            None => {
                assert!(sector < self.metadata_sectors(), "nothing is at {offset:?}");
                sector
            }
            Some(on_disk) => self.metadata_sectors() + self.data_sector(on_disk),
        }
    }

    /// The number among the used blocks' sectors of the one at `on_disk` of the virtual disk.
    pub(crate) fn data_sector(&self, on_disk: u64) -> usize {
        let block = on_disk / BLOCK_BYTES;
        let position = self.blocks.iter().position(|used| *used == block);
        let position = position.unwrap_or_else(|| panic!("block {block} is not used"));
        position * BLOCK_SECTORS + index(on_disk % BLOCK_BYTES / SECTOR_BYTES)
    }

    /// `sectors` sectors from sector `first` of the used block at `position`, cut off at the end of the disk.
    pub(crate) fn range(&self, position: usize, first: u64, sectors: u64) -> DiskRange {
        let start = self.blocks[position] * BLOCK_BYTES + first * SECTOR_BYTES;
        let end = (start + sectors * SECTOR_BYTES).min(self.layout.virtual_size());
        DiskRange::new(start, end - start)
    }

    /// The numbers among the used blocks' sectors that `range` covers.
    pub(crate) fn data_sectors_of(&self, range: DiskRange) -> std::ops::Range<usize> {
        let first = self.data_sector(range.start.0);
        first..first + index(range.len / SECTOR_BYTES)
    }

    /// What the guest should read from the data sector at `on_disk` if its last write was `value`.
    pub(crate) fn content(&self, on_disk: u64, value: Value) -> Sector {
        let word = if value == 0 && on_disk >= self.parent_size {
            0
        } else {
            (on_disk / SECTOR_BYTES + 1) << 8 | u64::from(value)
        };
        let mut sector = [0; SECTOR];
        for bytes in sector.as_chunks_mut::<8>().0 {
            *bytes = word.to_le_bytes();
        }
        sector
    }

    /// Which write the content of the data sector at `on_disk` comes from, if from any.
    pub(crate) fn value_of(&self, on_disk: u64, sector: &[u8]) -> Option<Value> {
        let value = if on_disk >= self.parent_size && sector[..8] == [0; 8] {
            0
        } else {
            sector[0]
        };
        (sector == self.content(on_disk, value)).then_some(value)
    }

    /// The sectors of a fresh image: a clean header in slot A, nothing allocated, something stale in the data area.
    pub(crate) fn fresh(&self) -> Vec<Sector> {
        let mut sectors = vec![[0; SECTOR]; self.sectors()];
        let header = self.fresh_header().encode();
        for (sector, bytes) in sectors.iter_mut().zip(header.as_chunks::<SECTOR>().0) {
            *sector = *bytes;
        }
        let metadata = self.metadata_sectors();
        sectors[metadata..].fill([STALE; SECTOR]);
        sectors
    }

    fn fresh_header(&self) -> Header {
        let empty = vec![0; index(self.layout.bitmap_used_len())];
        Header {
            sequence: 1,
            compatible_features: 0,
            uuid: Uuid::from_u128(1),
            layout: self.layout,
            generation: 0,
            created: 0,
            state: State::Clean {
                bitmap_crc: crc32c::crc32c(&empty),
            },
            parent: Some(Parent::Raw {
                path: "base.img".into(),
                size: self.parent_size,
                fingerprint: [7; 32],
                modified: None,
            }),
            commit_under_way: false,
            parent_limit: None,
        }
    }
}

const _: () = assert!(HEADER_SLOT_SIZE == BLOCK_SECTORS as u64 * SECTOR_BYTES);
