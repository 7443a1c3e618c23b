//! Damage is found, and what is repaired is as it was, also when the repair is cut off anywhere.

mod every_bit;
mod repairing;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dscow::bitmap::Bitmap;
use dscow::header::{Header, Slot, State};
use dscow::layout::Headroom;
use dscow::units::BlockIndex;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::image::{CreateOptions, Image, create};

/// An image without a base, of 40,000 blocks of 4 KiB less a sector, so that its bitmap takes more than a page and its
/// last block is cut off. Some blocks are allocated, the last one too.
struct Fixture {
    folder: TempDir,
    file: fs::File,
}

const BLOCKS: u64 = 40_000;
const DISK: u64 = BLOCKS * 4096 - 512;
const BITMAP: u64 = 8192;
const ALLOCATED: [u64; 4] = [0, 3, 17_000, BLOCKS - 1];

impl Fixture {
    fn new() -> Self {
        Self::with_size(DISK)
    }

    fn with_size(size: u64) -> Self {
        // In memory where there is such a file system: some tests open it a hundred thousand times.
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory).unwrap()
        } else {
            TempDir::new().unwrap()
        };
        let path = folder.path().join("vm.cow");
        let options = CreateOptions {
            size: Some(size),
            // Room for one page of bits more than are used.
            headroom: Some(Headroom::UpTo(3 * 32_768 * 4096)),
            ..CreateOptions::default()
        };
        create(&path, &options).unwrap();
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        let fixture = Self { folder, file };
        let last = size.div_ceil(4096) - 1;
        for block in BTreeSet::from(ALLOCATED.map(|block| block.min(last))) {
            fixture.allocate(block);
        }
        fixture.put_in_force(fixture.clean());
        fixture
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("vm.cow")
    }

    /// Writes a block and its bit, and tells nobody.
    fn allocate(&self, block: u64) {
        let layout = self.header().layout;
        let end = ((block + 1) * 4096).min(layout.virtual_size());
        let start = block * 4096;
        let data = vec![u8::try_from(block % 251).unwrap() + 1; 4096];
        let data = &data[..usize::try_from(end - start).unwrap()];
        self.file
            .write_all_at(data, layout.data_offset().0 + start)
            .unwrap();
        self.flip(BITMAP * 8 + block);
    }

    fn header(&self) -> Header {
        let a = self.slot(0).map(|header| (header, Slot::A));
        let b = self.slot(4096).map(|header| (header, Slot::B));
        [a, b]
            .into_iter()
            .flatten()
            .max_by_key(|(header, _)| header.sequence)
            .unwrap()
            .0
    }

    fn slot(&self, offset: u64) -> Option<Header> {
        let mut bytes = [0; 4096];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        Header::decode(&bytes).ok()
    }

    /// The state of a clean image with the bitmap as it is.
    fn clean(&self) -> State {
        let mut bitmap = Bitmap::empty(&self.header().layout).unwrap();
        let mut bytes = vec![0; bitmap.used_bytes().len()];
        self.file.read_exact_at(&mut bytes, BITMAP).unwrap();
        bitmap.load(0, &bytes);
        State::Clean {
            bitmap_crc: bitmap.crc(),
        }
    }

    /// Writes both slots, A last.
    fn put_in_force(&self, state: State) {
        for offset in [4096, 0] {
            let header = self.header();
            let sequence = header.sequence + 1;
            let header = Header {
                state,
                sequence,
                ..header
            };
            self.file
                .write_all_at(&header.encode()[..], offset)
                .unwrap();
        }
    }

    fn in_use(&self) {
        self.put_in_force(State::InUse {
            owner: Uuid::from_u128(5),
        });
    }

    /// Flips one bit of the file.
    fn flip(&self, bit: u64) {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, bit / 8).unwrap();
        byte[0] ^= 1 << (bit % 8);
        self.file.write_all_at(&byte, bit / 8).unwrap();
    }

    fn problems(&self) -> Vec<Problem> {
        check(&self.path()).unwrap().problems
    }

    fn open(&self) -> Result<Image, ImageError> {
        Image::open(&self.path(), ImageAccess::ReadOnly)
    }

    /// What the disk holds, by the rules of the format, with holes for blocks that are not allocated.
    fn content(&self) -> Vec<(u64, Vec<u8>)> {
        let image = self.open().unwrap();
        let layout = self.header().layout;
        let blocks = (0..layout.block_count()).map(BlockIndex);
        let blocks = blocks
            .filter(|block| image.bitmap().is_set(*block))
            .map(|block| block.0);
        blocks
            .map(|block| {
                let len = 4096.min(layout.virtual_size() - block * 4096);
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                let at = layout.data_offset().0 + block * 4096;
                self.file.read_exact_at(&mut bytes, at).unwrap();
                (block, bytes)
            })
            .collect()
    }
}
