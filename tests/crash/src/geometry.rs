//! The image: its shape, which of its blocks are used, and what its sectors hold.

use dscow::header::{Header, State};
use dscow::layout::{Headroom, Layout};
use dscow::parent::Parent;
use dscow::units::{BlockSize, DiskRange, FileOffset};
use uuid::Uuid;

use crate::base::{Base, Below};
use crate::content::{SECTOR, Sector, index, mix, word_sector};

/// Sectors in a slot of the header, and in a page of the bitmap.
pub(crate) const PAGE_SECTORS: usize = 8;
pub(crate) const SECTOR_BYTES: u64 = SECTOR as u64;
const KIB4: u64 = 4096;

/// Number of a write of the workload, from 1; 0 is the base's content. Or one of those below.
pub(crate) type Value = u8;
/// Zeros, whoever put them there.
pub(crate) const ZERO: Value = 0xff;
/// The disk is not that large.
pub(crate) const ABSENT: Value = 0xfe;
/// Nobody knows what.
pub(crate) const ANYTHING: Value = 0xfd;

/// What lay in the data area before the image was made.
const STALE: u8 = 0xdd;

/// An image of which a few blocks are used. Only those, and the metadata, are kept; and the length of its file, in a
/// sector of its own.
pub struct Geometry {
    name: &'static str,
    layout: Layout,
    /// The shape that it can be grown to.
    grown: Option<Layout>,
    blocks: Vec<u64>,
    base: Base,
    io_alignment: u32,
}

impl Geometry {
    /// All of them.
    pub fn all() -> [Self; 5] {
        [
            Self::compact(),
            Self::spread(),
            Self::aligned(),
            Self::chain(),
            Self::growing(),
        ]
    }

    /// Three blocks side by side, the last of which is short. All their bits are in one sector of the bitmap. The base
    /// ends after a sector of the last block, so that zeros show there.
    pub fn compact() -> Self {
        let base = Base::raw(2 * KIB4 + SECTOR_BYTES);
        let size = 2 * KIB4 + 5 * SECTOR_BYTES;
        Self::new("compact", vec![0, 1, 2], (size, BlockSize::MIN), base)
    }

    /// Two neighbours whose bits are in different sectors of a page of the bitmap, and a third block whose bit is in
    /// another page that is not the next one, so that a commit of all has two bitmap writes.
    pub fn spread() -> Self {
        let base = Base::raw(65_536 * KIB4 + SECTOR_BYTES);
        let size = (65_536 + 1) * KIB4;
        Self::new(
            "spread",
            vec![4095, 4096, 65_536],
            (size, BlockSize::MIN),
            base,
        )
    }

    /// A file that takes only units of 4 KiB, with blocks of 8 KiB: units of allocated blocks are read, merged and
    /// written back. The disk ends inside a unit.
    pub fn aligned() -> Self {
        let base = Base::raw(2 * KIB4 + SECTOR_BYTES);
        let size = 2 * KIB4 + 11 * SECTOR_BYTES;
        let block_size = BlockSize::from_shift(13).expect("8 KiB");
        Self {
            io_alignment: 4096,
            ..Self::new("aligned", vec![0, 1], (size, block_size), base)
        }
    }

    /// Over a dscow image over a raw one. The one in the middle holds the second block, shows less of the raw one than
    /// there is, and ends before this disk does.
    pub fn chain() -> Self {
        let middle = Below::Dscow {
            layout: layout(2 * KIB4 + 3 * SECTOR_BYTES, BlockSize::MIN, None),
            blocks: vec![1],
            parent_limit: 2 * KIB4 + SECTOR_BYTES,
        };
        let raw = Below::Raw { size: 4 * KIB4 };
        let base = Base::new(vec![middle, raw]);
        let size = 2 * KIB4 + 5 * SECTOR_BYTES;
        Self::new("chain", vec![0, 1, 2], (size, BlockSize::MIN), base)
    }

    /// A disk that ends inside its second block and can grow into a third. Its base is larger than it ever gets.
    pub fn growing() -> Self {
        let (size, grown) = (KIB4 + 5 * SECTOR_BYTES, 2 * KIB4 + 3 * SECTOR_BYTES);
        let base = Base::raw(3 * KIB4);
        Self {
            layout: layout(size, BlockSize::MIN, Some(grown)),
            grown: Some(layout(grown, BlockSize::MIN, Some(grown))),
            ..Self::new("growing", vec![0, 1, 2], (size, BlockSize::MIN), base)
        }
    }

    /// The geometry of this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::all()
            .into_iter()
            .find(|geometry| geometry.name == name)
    }

    /// What it is called on the command line.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Tells its states from those of others.
    pub(crate) fn hash(&self) -> u64 {
        self.name
            .bytes()
            .fold(0, |hash, byte| mix(hash ^ u64::from(byte)))
    }

    fn new(
        name: &'static str,
        blocks: Vec<u64>,
        (size, block_size): (u64, BlockSize),
        base: Base,
    ) -> Self {
        Self {
            name,
            layout: layout(size, block_size, None),
            grown: None,
            blocks,
            base,
            io_alignment: 512,
        }
    }

    /// The shape that it begins with.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The size that it can be grown to.
    pub(crate) fn grown_size(&self) -> Option<u64> {
        self.grown.map(|grown| grown.virtual_size())
    }

    fn largest(&self) -> &Layout {
        self.grown.as_ref().unwrap_or(&self.layout)
    }

    pub(crate) fn has_shape(&self, layout: &Layout) -> bool {
        [Some(self.layout), self.grown].contains(&Some(*layout))
    }

    pub(crate) fn base(&self) -> &Base {
        &self.base
    }

    pub(crate) fn io_alignment(&self) -> u32 {
        self.io_alignment
    }

    pub(crate) fn blocks(&self) -> &[u64] {
        &self.blocks
    }

    pub(crate) fn block_bytes(&self) -> u64 {
        self.layout.block_size().bytes()
    }

    pub(crate) fn block_sectors(&self) -> usize {
        index(self.block_bytes() / SECTOR_BYTES)
    }

    /// Sectors of the used blocks, including what lies past the end of the disk.
    pub(crate) fn data_sectors(&self) -> usize {
        self.blocks.len() * self.block_sectors()
    }

    pub(crate) fn bitmap_sector(&self) -> usize {
        index(self.layout.bitmap_offset().0 / SECTOR_BYTES)
    }

    /// Sectors of the bitmap's pages in use.
    pub(crate) fn bitmap_sectors(&self) -> usize {
        let pages = self.largest().bitmap_used_len().div_ceil(KIB4);
        index(pages) * PAGE_SECTORS
    }

    fn metadata_sectors(&self) -> usize {
        self.bitmap_sector() + self.bitmap_sectors()
    }

    /// The number of the sector that says how long the file is, the last that is kept.
    pub(crate) fn length_sector(&self) -> usize {
        self.metadata_sectors() + self.data_sectors()
    }

    /// The kept sectors of a block's storage past the end of a disk of this shape, if it ends inside a block that is
    /// used.
    pub(crate) fn sectors_past_end(&self, layout: &Layout) -> std::ops::Range<usize> {
        let (end, bytes) = (layout.virtual_size(), self.block_bytes());
        if end.is_multiple_of(bytes) {
            return 0..0;
        }
        let first = self.metadata_sectors() + self.data_sector(end);
        first..first + index((end.next_multiple_of(bytes) - end) / SECTOR_BYTES)
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
        let block = on_disk / self.block_bytes();
        let position = self.blocks.iter().position(|used| *used == block);
        let position = position.unwrap_or_else(|| panic!("block {block} is not used"));
        position * self.block_sectors() + index(on_disk % self.block_bytes() / SECTOR_BYTES)
    }

    /// The sectors `first..end` from the start of the used block at `position`, of a disk of `size` bytes; none if
    /// they are not all in blocks that are used, or past the end of the disk.
    pub(crate) fn range(
        &self,
        position: usize,
        (first, end): (usize, usize),
        size: u64,
    ) -> Option<DiskRange> {
        let block = *self.blocks.get(position)?;
        let last = block + (end.div_ceil(self.block_sectors()) - 1) as u64;
        if !(block..=last).all(|block| self.blocks.contains(&block)) {
            return None;
        }
        let start = block * self.block_bytes();
        let at = |sector: usize| (start + sector as u64 * SECTOR_BYTES).min(size);
        let (start, end) = (at(first), at(end));
        (start < end).then(|| DiskRange::new(start, end - start))
    }

    /// The numbers among the used blocks' sectors that `range` covers.
    pub(crate) fn data_sectors_of(&self, range: DiskRange) -> std::ops::Range<usize> {
        if range.len == 0 {
            return 0..0;
        }
        let first = self.data_sector(range.start.0);
        first..first + index(range.len / SECTOR_BYTES)
    }

    /// The number among the used blocks' sectors of a kept sector, if it is one of them.
    pub(crate) fn data_sector_of_kept(&self, sector: usize) -> Option<usize> {
        let data = self.metadata_sectors()..self.length_sector();
        data.contains(&sector).then(|| sector - data.start)
    }

    /// Where on the disk the data sector with this number is.
    pub(crate) fn on_disk(&self, data_sector: usize) -> u64 {
        let block = self.blocks[data_sector / self.block_sectors()];
        let in_block = (data_sector % self.block_sectors()) as u64;
        block * self.block_bytes() + in_block * SECTOR_BYTES
    }

    /// What the guest should read from the data sector at `on_disk` if its last write, of data, was `value`.
    pub(crate) fn content(&self, on_disk: u64, value: Value) -> Sector {
        match value {
            // What is new when the disk has grown reads as zeros, whatever the base has there.
            0 if on_disk >= self.layout.virtual_size() => word_sector(0),
            0 => self.base.shown(on_disk),
            _ => word_sector((on_disk / SECTOR_BYTES + 1) << 8 | u64::from(value)),
        }
    }

    /// Which write the content of the data sector at `on_disk` comes from, if from any.
    pub(crate) fn value_of(&self, on_disk: u64, sector: &[u8]) -> Option<Value> {
        let value = sector[0];
        if sector == word_sector(0) {
            Some(ZERO)
        } else {
            (sector == self.content(on_disk, value)).then_some(value)
        }
    }

    /// The sectors of a fresh image: a clean header in slot A, nothing allocated, something stale in the data area.
    pub(crate) fn fresh(&self) -> Vec<Sector> {
        let mut sectors = vec![[0; SECTOR]; self.metadata_sectors()];
        let header = self.fresh_header().encode();
        for (sector, bytes) in sectors.iter_mut().zip(header.as_chunks::<SECTOR>().0) {
            *sector = *bytes;
        }
        sectors.resize(self.length_sector(), [STALE; SECTOR]);
        sectors.push(word_sector(self.layout.file_len()));
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
                size: self.base.size(),
                fingerprint: [7; 32],
                modified: None,
            }),
            commit_under_way: false,
            parent_limit: None,
        }
    }
}

fn layout(size: u64, block_size: BlockSize, room_for: Option<u64>) -> Layout {
    let headroom = room_for.map_or(Headroom::Exact, Headroom::UpTo);
    Layout::for_new(size, block_size, headroom).expect("a size that the format allows")
}
