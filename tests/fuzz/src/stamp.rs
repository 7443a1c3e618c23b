//! The content of sectors: what each of them says is who wrote it, and for where.

use dscow::units::SECTOR_SIZE;

/// Length of a sector in memory.
pub(crate) const SECTOR: usize = 512;

/// A sector that was written for the place `sector` under the number `stamp`.
pub(crate) fn sector(stamp: u64, sector: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    for word in bytes.chunks_exact_mut(8) {
        word.copy_from_slice(&(stamp << 32 | sector).to_le_bytes());
    }
    bytes
}

/// Sectors for the places `first..first + count`.
pub(crate) fn sectors(stamp: u64, first: u64, count: u64) -> Vec<u8> {
    (first..first + count)
        .flat_map(|place| sector(stamp, place))
        .collect()
}

/// A place or count of sectors in bytes, in memory.
pub(crate) fn in_bytes(sectors: u64) -> usize {
    usize::try_from(sectors * SECTOR_SIZE).expect("disks of cases are small")
}
