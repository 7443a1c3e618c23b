//! What sectors hold: each carries the number of the write that wrote it and its own place, so that what is found later
//! tells who wrote it, whether it is whole, and whether it is where it belongs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::random::mix;

/// Bytes in a sector.
pub const SECTOR: usize = 512;

/// The bytes of a sector.
pub type SectorBytes = [u8; SECTOR];

const MAGIC: u32 = u32::from_le_bytes(*b"pwrf");

/// The number of a write; 0 is the base's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteId(pub u32);

/// What a sector turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Only zeros.
    Zero,
    /// All of what this write wrote there.
    Written(WriteId),
    /// Something that was never written there.
    Garbage {
        /// The write whose number is in it.
        id: u32,
        /// The sector that it says it belongs to.
        sector: u64,
        /// Whether its first word is that of content written here.
        ours: bool,
    },
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("zeros"),
            Self::Written(WriteId(0)) => f.write_str("the base's content"),
            Self::Written(WriteId(id)) => write!(f, "write {id}"),
            Self::Garbage {
                ours: true,
                id,
                sector,
            } => write!(f, "part of write {id} to sector {sector}"),
            Self::Garbage { ours: false, .. } => f.write_str("bytes that nobody wrote"),
        }
    }
}

/// What write `id` puts into `sector`.
pub fn fill(id: WriteId, sector: u64, bytes: &mut SectorBytes) {
    let words = bytes.as_chunks_mut::<8>().0;
    for (index, word) in (0..).zip(words.iter_mut()) {
        *word = mix(u64::from(id.0) << 32 ^ sector << 8 ^ index).to_le_bytes();
    }
    words[0] = (u64::from(id.0) << 32 | u64::from(MAGIC)).to_le_bytes();
    words[1] = sector.to_le_bytes();
}

/// What `bytes`, found in `sector`, are.
pub fn recognise(sector: u64, bytes: &SectorBytes) -> Value {
    if bytes.iter().all(|byte| *byte == 0) {
        return Value::Zero;
    }
    let words = bytes.as_chunks::<8>().0;
    let first = u64::from_le_bytes(words[0]);
    let id = u32::try_from(first >> 32).expect("32 bits are left");
    let mut whole = [0; SECTOR];
    fill(WriteId(id), sector, &mut whole);
    if whole == *bytes {
        return Value::Written(WriteId(id));
    }
    Value::Garbage {
        id,
        sector: u64::from_le_bytes(words[1]),
        ours: first & u64::from(u32::MAX) == u64::from(MAGIC),
    }
}

/// What write `id` puts into `count` sectors from `first` on.
pub fn filled(id: WriteId, first: u64, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(count).expect("held in memory") * SECTOR];
    for (sector, bytes) in (first..).zip(bytes.as_chunks_mut::<SECTOR>().0) {
        fill(id, sector, bytes);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_tells_who_wrote_it_where() {
        let mut bytes = filled(WriteId(7), 40, 2);
        let second: SectorBytes = bytes.split_off(SECTOR).try_into().unwrap();
        let first: SectorBytes = bytes.try_into().unwrap();
        assert_eq!(recognise(40, &first), Value::Written(WriteId(7)));
        assert_eq!(recognise(41, &second), Value::Written(WriteId(7)));
        assert_eq!(recognise(0, &[0; SECTOR]), Value::Zero);
        let misplaced = recognise(40, &second);
        assert_eq!(misplaced.to_string(), "part of write 7 to sector 41");
    }

    #[test]
    fn one_wrong_bit_is_noticed_wherever_it_is() {
        let mut bytes = [0; SECTOR];
        fill(WriteId(3), 9, &mut bytes);
        for bit in 0..SECTOR * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let value = recognise(9, &bytes);
            assert!(matches!(value, Value::Garbage { .. }), "bit {bit}: {value}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
