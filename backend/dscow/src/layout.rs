//! Where things are in an image: header slots, bitmap, data. See docs/image-format.md.

use thiserror::Error;

use crate::units::{BlockIndex, BlockSize, DiskOffset, FileOffset, SECTOR_SIZE};

/// Size of one header slot in bytes; slot A is at 0, slot B follows it.
pub const HEADER_SLOT_SIZE: u64 = HEADER_SLOT_BYTES as u64;
/// The same, as the length of an array.
pub const HEADER_SLOT_BYTES: usize = 4096;
/// Where the bitmap of a new image starts: right after the two header slots.
pub const BITMAP_OFFSET: u64 = 2 * HEADER_SLOT_SIZE;
/// The data area starts at a multiple of this and of the block size.
pub const DATA_ALIGNMENT: u64 = 1 << 20;
/// Largest virtual disk: 64 TiB.
pub const VIRTUAL_SIZE_MAX: u64 = 64 << 40;
/// Granularity in which the bitmap is written back.
pub const BITMAP_PAGE_SIZE: u64 = 4096;
/// A new image in a file has bitmap room for at least this many bytes of disk, so that it can grow.
const HEADROOM_MIN: u64 = 4 << 40;

/// The shape of an image: sizes and positions, consistent with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    virtual_size: u64,
    block_size: BlockSize,
    bitmap_offset: u64,
    bitmap_len: u64,
    data_offset: u64,
}

/// Why a shape is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// Empty, above 64 TiB, or not whole sectors.
    #[error(
        "virtual size {0} is not a multiple of 512 bytes between 512 and {VIRTUAL_SIZE_MAX} (64 TiB)"
    )]
    VirtualSize(u64),
    /// The bitmap overlaps the header slots or is not aligned.
    #[error("bitmap offset {0} is not a multiple of 4096 at or after {BITMAP_OFFSET}")]
    BitmapOffset(u64),
    /// The reserved bitmap has no room for a bit per block.
    #[error("bitmap of {reserved} bytes is too small: {needed} bytes are needed")]
    BitmapTooSmall {
        /// Bytes reserved for the bitmap.
        reserved: u64,
        /// Bytes that one bit for each block takes.
        needed: u64,
    },
    /// The bitmap length is not in whole pages or out of proportion.
    #[error("bitmap length {0} is not a multiple of 4096 within bounds")]
    BitmapLength(u64),
    /// The data area overlaps the bitmap or is not aligned.
    #[error("data offset {0} overlaps the bitmap or is not a multiple of 1 MiB and the block size")]
    DataOffset(u64),
}

/// How much room for later growth a new image reserves in its bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headroom {
    /// Generous; right for files, where unused metadata is a hole and costs nothing.
    Generous,
    /// None; right for block devices, where every reserved byte is taken from the data.
    Exact,
    /// Enough for a disk of this many bytes.
    UpTo(u64),
}

impl Layout {
    /// The layout of a new image.
    ///
    /// # Errors
    /// [`LayoutError::VirtualSize`] if the size, or the one to leave room for, is not one the format can hold.
    pub fn for_new(
        virtual_size: u64,
        block_size: BlockSize,
        headroom: Headroom,
    ) -> Result<Self, LayoutError> {
        check_virtual_size(virtual_size)?;
        let room_for = match headroom {
            Headroom::Generous => (2 * virtual_size).clamp(HEADROOM_MIN, VIRTUAL_SIZE_MAX),
            Headroom::Exact => virtual_size,
            Headroom::UpTo(bytes) => {
                check_virtual_size(bytes)?;
                bytes.max(virtual_size)
            }
        };
        let bitmap_len = bitmap_bytes(room_for, block_size).next_multiple_of(BITMAP_PAGE_SIZE);
        let data_offset = (BITMAP_OFFSET + bitmap_len)
            .next_multiple_of(DATA_ALIGNMENT)
            .next_multiple_of(block_size.bytes());
        Self::checked(
            virtual_size,
            block_size,
            BITMAP_OFFSET,
            bitmap_len,
            data_offset,
        )
    }

    /// The largest disk in bytes, in whole blocks, whose new image takes no more than `room` bytes; `None` if there is
    /// no room for one block.
    pub fn largest_disk_within(
        room: u64,
        block_size: BlockSize,
        headroom: Headroom,
    ) -> Option<u64> {
        let fits = |blocks: u64| {
            Self::for_new(blocks << block_size.shift(), block_size, headroom)
                .is_ok_and(|layout| layout.file_len() <= room)
        };
        // What an image takes grows with its disk, so the answer is where `fits` turns from true to false.
        let (mut most, mut too_many) = (0, block_size.blocks_for(VIRTUAL_SIZE_MAX) + 1);
        while too_many - most > 1 {
            let middle = u64::midpoint(most, too_many);
            if fits(middle) {
                most = middle;
            } else {
                too_many = middle;
            }
        }
        (most > 0).then_some(most << block_size.shift())
    }

    /// The largest disk in bytes, in whole blocks, that the reserved bitmap has bits for.
    pub fn largest_disk_of_bitmap(&self) -> u64 {
        ((self.bitmap_len * 8) << self.block_size.shift()).min(VIRTUAL_SIZE_MAX)
    }

    /// A layout read from a header, checked against every rule of the format.
    ///
    /// # Errors
    /// Names the first field that breaks a rule.
    pub fn checked(
        virtual_size: u64,
        block_size: BlockSize,
        bitmap_offset: u64,
        bitmap_len: u64,
        data_offset: u64,
    ) -> Result<Self, LayoutError> {
        check_virtual_size(virtual_size)?;
        if bitmap_offset < BITMAP_OFFSET
            || !bitmap_offset.is_multiple_of(BITMAP_PAGE_SIZE)
            || bitmap_offset > VIRTUAL_SIZE_MAX
        {
            return Err(LayoutError::BitmapOffset(bitmap_offset));
        }
        let most = bitmap_bytes(VIRTUAL_SIZE_MAX, BlockSize::MIN);
        if !bitmap_len.is_multiple_of(BITMAP_PAGE_SIZE) || bitmap_len > most {
            return Err(LayoutError::BitmapLength(bitmap_len));
        }
        let needed = bitmap_bytes(virtual_size, block_size);
        if bitmap_len < needed {
            return Err(LayoutError::BitmapTooSmall {
                reserved: bitmap_len,
                needed,
            });
        }
        if data_offset < bitmap_offset + bitmap_len
            || !data_offset.is_multiple_of(DATA_ALIGNMENT)
            || !data_offset.is_multiple_of(block_size.bytes())
            || data_offset > 2 * VIRTUAL_SIZE_MAX
        {
            return Err(LayoutError::DataOffset(data_offset));
        }
        Ok(Self {
            virtual_size,
            block_size,
            bitmap_offset,
            bitmap_len,
            data_offset,
        })
    }

    /// The same image with a disk of another size. Nothing moves; the bitmap must have room.
    ///
    /// # Errors
    /// [`LayoutError::VirtualSize`] if the size is not one the format can hold, [`LayoutError::BitmapTooSmall`] if
    /// the bitmap's reserved length has no bit for each block.
    pub fn grown(&self, virtual_size: u64) -> Result<Self, LayoutError> {
        Self::checked(
            virtual_size,
            self.block_size,
            self.bitmap_offset,
            self.bitmap_len,
            self.data_offset,
        )
    }

    /// Size of the virtual disk in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Size of a block.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// Number of blocks; the last one may reach past the end of the virtual disk.
    pub fn block_count(&self) -> u64 {
        self.block_size.blocks_for(self.virtual_size)
    }

    /// Where the bitmap starts.
    pub fn bitmap_offset(&self) -> FileOffset {
        FileOffset(self.bitmap_offset)
    }

    /// Bytes reserved for the bitmap, a multiple of 4096.
    pub fn bitmap_reserved_len(&self) -> u64 {
        self.bitmap_len
    }

    /// Bytes of the bitmap in use: one bit for each block, in whole bytes.
    pub fn bitmap_used_len(&self) -> u64 {
        bitmap_bytes(self.virtual_size, self.block_size)
    }

    /// Where block 0 is.
    pub fn data_offset(&self) -> FileOffset {
        FileOffset(self.data_offset)
    }

    /// Identity mapping: where the byte at `offset` is stored if its block is allocated.
    pub fn data_position(&self, offset: DiskOffset) -> FileOffset {
        FileOffset(self.data_offset + offset.0)
    }

    /// Length that the file or device must at least have.
    pub fn file_len(&self) -> u64 {
        self.data_offset + (self.block_count() << self.block_size.shift())
    }

    /// First block of the disk and the one after the last that `start..end` touches.
    pub fn blocks_touched(&self, start: u64, end: u64) -> (BlockIndex, BlockIndex) {
        let first = self.block_size.block_of(DiskOffset(start));
        (first, BlockIndex(self.block_size.blocks_for(end)))
    }
}

fn check_virtual_size(virtual_size: u64) -> Result<(), LayoutError> {
    let valid = (SECTOR_SIZE..=VIRTUAL_SIZE_MAX).contains(&virtual_size)
        && virtual_size.is_multiple_of(SECTOR_SIZE);
    if valid {
        Ok(())
    } else {
        Err(LayoutError::VirtualSize(virtual_size))
    }
}

fn bitmap_bytes(virtual_size: u64, block_size: BlockSize) -> u64 {
    block_size.blocks_for(virtual_size).div_ceil(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_new_file_image_reserves_room_for_4_tib() {
        let layout = Layout::for_new(8 * GIB, BlockSize::MIN, Headroom::Generous).unwrap();
        assert_eq!(layout.block_count(), 2_097_152);
        assert_eq!(layout.bitmap_offset(), FileOffset(8192));
        assert_eq!(layout.bitmap_used_len(), 262_144);
        assert_eq!(layout.bitmap_reserved_len(), 128 << 20);
        assert_eq!(layout.data_offset(), FileOffset(129 << 20));
        assert_eq!(layout.file_len(), (129 << 20) + 8 * GIB);
    }

    #[test]
    fn an_exact_layout_wastes_less_than_2_mib() {
        let layout = Layout::for_new(8 * GIB, BlockSize::MIN, Headroom::Exact).unwrap();
        assert_eq!(layout.bitmap_reserved_len(), 262_144);
        assert_eq!(layout.data_offset(), FileOffset(1 << 20));
    }

    #[test]
    fn headroom_can_be_for_a_disk_of_a_given_size() {
        let layout = Layout::for_new(GIB, BlockSize::MIN, Headroom::UpTo(64 * GIB)).unwrap();
        assert_eq!(layout.bitmap_reserved_len(), 2 << 20);
        assert_eq!(layout.largest_disk_of_bitmap(), 64 * GIB);
        assert_eq!(layout.data_offset(), FileOffset(3 << 20));
        let smaller = Layout::for_new(GIB, BlockSize::MIN, Headroom::UpTo(512)).unwrap();
        assert_eq!(
            smaller,
            Layout::for_new(GIB, BlockSize::MIN, Headroom::Exact).unwrap()
        );
        assert_eq!(
            Layout::for_new(GIB, BlockSize::MIN, Headroom::UpTo(65 << 40)),
            Err(LayoutError::VirtualSize(65 << 40))
        );
    }

    #[test]
    fn the_largest_disk_for_a_device_fits_and_one_block_more_does_not() {
        let largest =
            |room, block_size| Layout::largest_disk_within(room, block_size, Headroom::Exact);
        assert_eq!(largest((1 << 20) + 4095, BlockSize::MIN), None);
        assert_eq!(largest((1 << 20) + 4096, BlockSize::MIN), Some(4096));
        // 32 MiB of bitmap for each TiB, and 1 MiB for the headers.
        assert_eq!(
            largest((1 << 40) + (33 << 20), BlockSize::MIN),
            Some(1 << 40)
        );
        assert_eq!(largest(u64::MAX, BlockSize::MIN), Some(VIRTUAL_SIZE_MAX));
        for room in [3 << 20, 10 * GIB + 12345, 3 << 40] {
            for block_size in [BlockSize::MIN, BlockSize::MAX] {
                let fits = |size| {
                    Layout::for_new(size, block_size, Headroom::Exact)
                        .unwrap()
                        .file_len()
                        <= room
                };
                let found = largest(room, block_size).unwrap_or(0);
                assert!(found == 0 || fits(found));
                assert!(!fits(found + block_size.bytes()));
            }
        }
    }

    #[test]
    fn a_disk_that_ends_inside_a_block_has_that_block() {
        let layout = Layout::for_new(4096 + 512, BlockSize::MIN, Headroom::Exact).unwrap();
        assert_eq!(layout.block_count(), 2);
        assert_eq!(layout.file_len(), (1 << 20) + 8192);
        assert_eq!(
            layout.blocks_touched(512, 4097),
            (BlockIndex(0), BlockIndex(2))
        );
    }

    #[test]
    fn sizes_outside_the_format_are_refused() {
        for size in [0, 511, 513, VIRTUAL_SIZE_MAX + 512, u64::MAX - 511] {
            assert_eq!(
                Layout::for_new(size, BlockSize::MIN, Headroom::Exact),
                Err(LayoutError::VirtualSize(size))
            );
        }
        Layout::for_new(VIRTUAL_SIZE_MAX, BlockSize::MIN, Headroom::Generous).unwrap();
    }

    #[test]
    fn each_field_is_checked() {
        let check = |bitmap, len, data| {
            Layout::checked(1 << 20, BlockSize::MIN, bitmap, len, data).unwrap_err()
        };
        assert_eq!(check(4096, 4096, 1 << 20), LayoutError::BitmapOffset(4096));
        assert_eq!(check(8193, 4096, 1 << 20), LayoutError::BitmapOffset(8193));
        assert_eq!(
            check(8192, 0, 1 << 20),
            LayoutError::BitmapTooSmall {
                reserved: 0,
                needed: 32
            }
        );
        assert_eq!(check(8192, 100, 1 << 20), LayoutError::BitmapLength(100));
        assert_eq!(
            check(8192, 1 << 62, 1 << 20),
            LayoutError::BitmapLength(1 << 62)
        );
        assert_eq!(
            check(8192, 4096, 8192 + 4096),
            LayoutError::DataOffset(12288)
        );
        assert_eq!(
            check(8192, 1 << 20, 1 << 20),
            LayoutError::DataOffset(1 << 20)
        );
    }
}
