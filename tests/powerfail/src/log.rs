//! The log that the kernel's `log-writes` device-mapper target writes (`drivers/md/dm-log-writes.c`).
//!
//! All integers are little-endian. The log begins with a super block in a sector of its own; then come the entries, one
//! after the other, each a sector and the sectors of data that it wrote. A sector is the logical block of the logged
//! device, whose size the super block names.
//!
//! ```text
//! super block: magic u64, version u64, number of entries u64, size of a sector in bytes u32
//! entry:       sector u64, number of sectors u64, flags u64, length of inline data u64; a mark's text follows
//! ```
//!
//! The kernel logs a write when the flush after it is done, and a write with FUA and a mark at once. So in the log up to
//! an entry with FLUSH everything is durable, and between two of them come first the FUA writes and the marks in their
//! order, then the other writes in the order in which they were done.

use std::ops::Range;

use thiserror::Error;

use crate::content::SECTOR;

/// The first 8 bytes of a log.
pub const MAGIC: u64 = 0x6a_7366_7773_6872;
/// The only version there is.
pub const VERSION: u64 = 1;
/// Bytes of the super block that are used.
pub const SUPER_LEN: usize = 28;
/// Bytes of an entry in front of a mark's text.
pub const ENTRY_LEN: usize = 32;

const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
const METADATA: u64 = 16;
const KNOWN: u64 = FLUSH | FUA | DISCARD | MARK | METADATA;

/// Why bytes are not a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LogError {
    /// It ends before something that must be in it.
    #[error("the log of {len} bytes ends before {what} at byte {offset}")]
    Truncated {
        /// What is missing.
        what: &'static str,
        /// Where it should be.
        offset: u64,
        /// Length of the log.
        len: u64,
    },
    /// It begins with something else.
    #[error("not a log of dm-log-writes: it begins with {0:#x}")]
    Magic(u64),
    /// It is of a version that is not known.
    #[error("version {0} of the log is not known")]
    Version(u64),
    /// The size of a sector is impossible.
    #[error("a sector of {0} bytes: not a power of two from 512 to 4096")]
    SectorSize(u32),
    /// There cannot be so many entries.
    #[error("{entries} entries do not fit into a log of {len} bytes")]
    TooManyEntries {
        /// How many the super block promises.
        entries: u64,
        /// Length of the log.
        len: u64,
    },
    /// An entry has a flag that is not known.
    #[error("entry {index} has unknown flags: {flags:#x}")]
    Flags {
        /// Which entry.
        index: u64,
        /// Its flags.
        flags: u64,
    },
    /// An entry names sectors beyond what any device has.
    #[error("entry {index} is for {sectors} sectors from {sector} on, which no device has")]
    Range {
        /// Which entry.
        index: u64,
        /// Its first sector.
        sector: u64,
        /// How many.
        sectors: u64,
    },
    /// An entry has inline data where there can be none, or too much of it.
    #[error("entry {index} has {len} bytes of inline data")]
    Inline {
        /// Which entry.
        index: u64,
        /// How many bytes.
        len: u64,
    },
}

/// What the super block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuperBlock {
    /// How many entries follow.
    pub entries: u64,
    /// Size in bytes of the sectors that the log counts in.
    pub sector_size: u32,
}

/// What an entry did to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: a flush without data, or a mark.
    Nothing,
    /// Wrote these bytes of the log at `offset` of the device.
    Write {
        /// Where on the device, in bytes.
        offset: u64,
        /// Where in the log the data is, in bytes.
        data: Range<u64>,
    },
    /// Discarded a range of the device.
    Discard {
        /// Where on the device, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
    },
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it did.
    pub effect: Effect,
    /// Everything that was done before it was submitted is durable with it.
    pub flush: bool,
    /// It was durable itself when it was done.
    pub fua: bool,
    /// A mark: its text.
    pub mark: Option<Vec<u8>>,
}

impl Entry {
    /// Whether the device is another after it.
    pub fn changes_the_device(&self) -> bool {
        self.effect != Effect::Nothing
    }

    /// The sectors of the device, of 512 bytes, that it changed.
    pub fn sectors(&self) -> Range<u64> {
        let (offset, len) = match &self.effect {
            Effect::Nothing => (0, 0),
            Effect::Write { offset, data } => (*offset, data.end - data.start),
            Effect::Discard { offset, len } => (*offset, *len),
        };
        offset / SECTOR as u64..(offset + len) / SECTOR as u64
    }
}

/// What an entry's sector says, and where the next one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The entry.
    pub entry: Entry,
    /// Where in the log the next entry begins, in bytes.
    pub next: u64,
}

/// Reads the super block from the beginning of a log of `len` bytes.
///
/// # Errors
/// If it is no log, or of a kind that is not known.
pub fn parse_super(bytes: &[u8; SUPER_LEN], len: u64) -> Result<SuperBlock, LogError> {
    let magic = word(bytes, 0);
    if magic != MAGIC {
        return Err(LogError::Magic(magic));
    }
    let version = word(bytes, 8);
    if version != VERSION {
        return Err(LogError::Version(version));
    }
    let entries = word(bytes, 16);
    let size = u32::from_le_bytes(*bytes[24..].first_chunk().expect("4 bytes are left"));
    if !size.is_power_of_two() || !(512..=4096).contains(&size) {
        return Err(LogError::SectorSize(size));
    }
    // A sector for each of them and one for the super block.
    if entries >= len / u64::from(size) {
        return Err(LogError::TooManyEntries { entries, len });
    }
    Ok(SuperBlock {
        entries,
        sector_size: size,
    })
}

/// Reads the entry whose sector, at byte `at` of a log of `len` bytes, is `bytes`.
///
/// # Errors
/// If it is not possible in a log of this kind and length.
pub fn parse_entry(index: u64, bytes: &[u8], at: u64, len: u64) -> Result<Parsed, LogError> {
    let size = bytes.len() as u64;
    let (sector, sectors, flags, inline) = fields(bytes);
    if flags & !KNOWN != 0 {
        return Err(LogError::Flags { index, flags });
    }
    let is_mark = flags & MARK != 0;
    // Data in the log that no sectors count is written for DAX only, which nothing here uses.
    let most = if is_mark { size - ENTRY_LEN as u64 } else { 0 };
    if inline > most {
        return Err(LogError::Inline { index, len: inline });
    }
    let range = LogError::Range {
        index,
        sector,
        sectors,
    };
    let end = sector.checked_add(sectors).ok_or(range)?;
    if end
        .checked_mul(size)
        .is_none_or(|end| end > i64::MAX as u64)
    {
        return Err(range);
    }
    let (offset, count) = (sector * size, sectors * size);
    let data_start = at + size;
    let (effect, next) = if count == 0 || is_mark {
        (Effect::Nothing, data_start)
    } else if flags & DISCARD != 0 {
        (Effect::Discard { offset, len: count }, data_start)
    } else {
        let data = data_start..data_start.checked_add(count).ok_or(range)?;
        let next = data.end;
        (Effect::Write { offset, data }, next)
    };
    if next > len {
        return Err(LogError::Truncated {
            what: "the data of an entry",
            offset: data_start,
            len,
        });
    }
    let mark = is_mark.then(|| {
        let text = usize::try_from(inline).expect("it is less than a sector");
        bytes[ENTRY_LEN..ENTRY_LEN + text].to_vec()
    });
    let entry = Entry {
        effect,
        flush: flags & FLUSH != 0,
        fua: flags & FUA != 0,
        mark,
    };
    Ok(Parsed { entry, next })
}

/// The bytes of a super block.
pub fn encode_super(super_block: SuperBlock) -> [u8; SUPER_LEN] {
    let mut bytes = [0; SUPER_LEN];
    bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[8..16].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..24].copy_from_slice(&super_block.entries.to_le_bytes());
    bytes[24..].copy_from_slice(&super_block.sector_size.to_le_bytes());
    bytes
}

/// The sector of an entry, of `SECTOR` bytes, in front of its data.
pub fn encode_entry<const SECTOR: usize>(entry: &Entry) -> [u8; SECTOR] {
    let mut flags = 0;
    for (set, flag) in [
        (entry.flush, FLUSH),
        (entry.fua, FUA),
        (entry.mark.is_some(), MARK),
        (matches!(entry.effect, Effect::Discard { .. }), DISCARD),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let (offset, len) = match &entry.effect {
        Effect::Nothing => (0, 0),
        Effect::Write { offset, data } => (*offset, data.end - data.start),
        Effect::Discard { offset, len } => (*offset, *len),
    };
    let text = entry.mark.as_deref().unwrap_or_default();
    let mut bytes = [0; SECTOR];
    let size = SECTOR as u64;
    let words = [offset / size, len / size, flags, text.len() as u64];
    for (word, bytes) in words.iter().zip(bytes.as_chunks_mut::<8>().0) {
        *bytes = word.to_le_bytes();
    }
    bytes[ENTRY_LEN..ENTRY_LEN + text.len()].copy_from_slice(text);
    bytes
}

fn fields(bytes: &[u8]) -> (u64, u64, u64, u64) {
    let field = |index: usize| word(bytes, 8 * index);
    (field(0), field(1), field(2), field(3))
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("a sector has more bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 6.12 wrote it for a device with sectors of 512 bytes.
    const SUPER: [u8; SUPER_LEN] = [
        0x72, 0x68, 0x73, 0x77, 0x66, 0x73, 0x6a, 0x00, 1, 0, 0, 0, 0, 0, 0, 0, 0x0e, 0x01, 0, 0,
        0, 0, 0, 0, 0x00, 0x02, 0, 0,
    ];

    fn sector(words: [u64; 4], text: &[u8]) -> [u8; 512] {
        let mut bytes = [0; 512];
        for (word, bytes) in words.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *bytes = word.to_le_bytes();
        }
        bytes[32..32 + text.len()].copy_from_slice(text);
        bytes
    }

    fn parse(words: [u64; 4]) -> Result<Parsed, LogError> {
        parse_entry(3, &sector(words, b""), 4096, 1 << 20)
    }

    #[test]
    fn the_super_block_is_read_and_written() {
        let found = parse_super(&SUPER, 1 << 20).unwrap();
        let wanted = SuperBlock {
            entries: 270,
            sector_size: 512,
        };
        assert_eq!(found, wanted);
        assert_eq!(encode_super(wanted), SUPER);
    }

    #[test]
    fn what_is_no_super_block_is_refused() {
        let with = |at: usize, byte: u8| {
            let mut bytes = SUPER;
            bytes[at] = byte;
            parse_super(&bytes, 1 << 20).unwrap_err()
        };
        assert_eq!(with(0, 0), LogError::Magic(0x6a_7366_7773_6800));
        assert_eq!(with(8, 2), LogError::Version(2));
        assert_eq!(with(25, 3), LogError::SectorSize(768));
        assert_eq!(with(25, 32), LogError::SectorSize(8192));
        let entries = 1 << 56 | 270;
        let len = 1 << 20;
        assert_eq!(with(23, 1), LogError::TooManyEntries { entries, len });
        let exactly = parse_super(&SUPER, 271 * 512);
        assert!(exactly.is_ok(), "{exactly:?}");
        let one_less = parse_super(&SUPER, 271 * 512 - 1);
        assert!(one_less.is_err(), "{one_less:?}");
    }

    #[test]
    fn a_write_has_its_data_behind_it() {
        let parsed = parse([24, 8, 2, 0]).unwrap();
        assert!(parsed.entry.fua && !parsed.entry.flush);
        assert_eq!(
            parsed.entry.effect,
            Effect::Write {
                offset: 12_288,
                data: 4608..8704
            }
        );
        assert_eq!(parsed.next, 8704);
        assert_eq!(
            encode_entry::<512>(&parsed.entry),
            sector([24, 8, 2, 0], b"")
        );
    }

    #[test]
    fn a_discard_has_no_data_behind_it() {
        let parsed = parse([24, 8, 4, 0]).unwrap();
        assert_eq!(
            parsed.entry.effect,
            Effect::Discard {
                offset: 12_288,
                len: 4096
            }
        );
        assert_eq!(parsed.next, 4608);
        assert_eq!(
            encode_entry::<512>(&parsed.entry),
            sector([24, 8, 4, 0], b"")
        );
    }

    #[test]
    fn a_flush_and_a_mark_change_nothing() {
        let flush = parse([0, 0, 1, 0]).unwrap();
        assert!(flush.entry.flush && !flush.entry.changes_the_device());
        let bytes = sector([0, 0, 8, 5], b"hello, ignored");
        let mark = parse_entry(0, &bytes, 512, 1024).unwrap();
        assert_eq!(mark.entry.mark.as_deref(), Some(&b"hello"[..]));
        assert_eq!(mark.next, 1024);
        assert_eq!(
            encode_entry::<512>(&mark.entry),
            sector([0, 0, 8, 5], b"hello")
        );
    }

    #[test]
    fn sectors_may_have_4096_bytes() {
        let mut bytes = [0; 4096];
        bytes[..512].copy_from_slice(&sector([3, 1, 16, 0], b""));
        let parsed = parse_entry(0, &bytes, 4096, 1 << 20).unwrap();
        let effect = Effect::Write {
            offset: 12_288,
            data: 8192..12_288,
        };
        assert_eq!(parsed.entry.effect, effect);
        assert_eq!(parsed.next, 12_288);
    }

    #[test]
    fn entries_that_cannot_be_are_refused() {
        let (index, flags) = (3, 32);
        assert_eq!(parse([0, 0, 32, 0]), Err(LogError::Flags { index, flags }));
        assert_eq!(parse([0, 1, 0, 1]), Err(LogError::Inline { index, len: 1 }));
        assert_eq!(
            parse([0, 0, 8, 481]),
            Err(LogError::Inline { index, len: 481 })
        );
        for (sector, sectors) in [
            (u64::MAX, 1),
            (1 << 55, 1 << 55),
            (0, u64::MAX / 512),
            (1 << 60, 0),
        ] {
            let range = LogError::Range {
                index,
                sector,
                sectors,
            };
            assert_eq!(parse([sector, sectors, 0, 0]), Err(range));
        }
        let truncated = LogError::Truncated {
            what: "the data of an entry",
            offset: 4608,
            len: 1 << 20,
        };
        assert_eq!(parse([0, 2040, 0, 0]), Err(truncated));
        assert!(parse([0, 2039, 0, 0]).is_ok());
    }

    /// Every flag with every extreme of each field: an error or an entry inside the log, no panic.
    #[test]
    fn any_bytes_are_an_entry_or_an_error() {
        let extremes = [
            0,
            1,
            7,
            512,
            1 << 31,
            1 << 54,
            (1 << 54) - 1,
            1 << 63,
            u64::MAX,
        ];
        for sector in extremes {
            for sectors in extremes {
                for flags in (0..=32).chain([u64::MAX]) {
                    for inline in extremes {
                        let Ok(parsed) = parse([sector, sectors, flags, inline]) else {
                            continue;
                        };
                        assert!((4608..=1 << 20).contains(&parsed.next));
                    }
                }
            }
        }
    }
}
