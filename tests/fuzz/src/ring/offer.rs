//! What the backend offers and holds requests to, in plain numbers.

use blkif::{Discard, Features, Limits, Sector, SectorSize};

use crate::script::Script;

/// What is offered of one disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    /// Size in units of 512 bytes.
    pub(super) sectors: u64,
    /// The same of a logical block: 1, 2, 4 or 8.
    pub(super) block_sectors: u64,
    pub(super) read_only: bool,
    pub(super) flush: bool,
    pub(super) barrier: bool,
    pub(super) discard: bool,
    pub(super) secure_discard: bool,
    /// 0 if indirect requests are not offered.
    pub(super) indirect_segments: u16,
}

impl Offer {
    pub(super) fn of_script(script: &mut Script<'_>) -> Self {
        let bits = script.byte();
        let has = |bit: u8| bits >> bit & 1 == 1;
        let block_sectors = 1 << (script.byte() % 4);
        let blocks = match script.byte() % 4 {
            0 => u64::from(script.byte()),
            // As large as can be addressed in bytes.
            1 => u64::MAX / 512 / block_sectors,
            _ => u64::from(script.u16()),
        };
        Self {
            sectors: blocks * block_sectors,
            block_sectors,
            read_only: has(0) && has(1),
            flush: has(2),
            barrier: has(3),
            discard: has(4),
            secure_discard: has(4) && has(5),
            indirect_segments: [0, 1, 32, 256, 4095, 4096, 32, 256][script.index(8)],
        }
    }

    /// The same as the product has it.
    pub(super) fn limits(&self) -> Limits {
        let discard = match (self.discard, self.secure_discard) {
            (false, _) => Discard::No,
            (true, false) => Discard::Plain,
            (true, true) => Discard::Secure,
        };
        let features = Features {
            flush: self.flush,
            barrier: self.barrier,
            discard,
            indirect_segments_max: self.indirect_segments,
        };
        let size = match self.block_sectors {
            1 => SectorSize::B512,
            2 => SectorSize::B1024,
            4 => SectorSize::B2048,
            _ => SectorSize::B4096,
        };
        let limits = Limits::new(Sector(self.sectors), size, self.read_only, features);
        limits.expect("a disk of whole blocks")
    }
}
