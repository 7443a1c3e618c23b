//! What sectors hold. Contents are kept once each, so a state of the disk is a short list of small numbers.

use rustc_hash::FxHashMap;

pub(crate) const SECTOR: usize = 512;

/// The bytes of a sector.
pub(crate) type Sector = [u8; SECTOR];

/// A content that occurs, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ContentId(u32);

/// All contents that occurred.
#[derive(Default)]
pub(crate) struct Pool {
    contents: Vec<Sector>,
    /// A hash of each that does not depend on the order in which they came.
    hashes: Vec<u64>,
    ids: FxHashMap<Sector, ContentId>,
}

impl Pool {
    pub(crate) fn id(&mut self, content: &Sector) -> ContentId {
        if let Some(id) = self.ids.get(content) {
            return *id;
        }
        let id = ContentId(u32::try_from(self.contents.len()).expect("few contents occur"));
        self.contents.push(*content);
        self.hashes.push(hash_sector(content));
        self.ids.insert(*content, id);
        id
    }

    pub(crate) fn get(&self, id: ContentId) -> &Sector {
        &self.contents[id.0 as usize]
    }

    /// A hash of "this sector holds this". The hash of a state is the sum over its sectors.
    pub(crate) fn hash(&self, sector: usize, id: ContentId) -> u64 {
        mix(self.hashes[id.0 as usize] ^ mix(sector as u64))
    }
}

/// A sector that is full of a number.
pub(crate) fn word_sector(word: u64) -> Sector {
    let mut sector = [0; SECTOR];
    for bytes in sector.as_chunks_mut::<8>().0 {
        *bytes = word.to_le_bytes();
    }
    sector
}

fn hash_sector(content: &Sector) -> u64 {
    let (words, _) = content.as_chunks::<8>();
    words
        .iter()
        .fold(1, |hash, word| mix(hash ^ u64::from_le_bytes(*word)))
}

/// Spreads a number over 64 bits; a bijection.
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A count of bytes that is held in memory.
pub(crate) fn index(count: u64) -> usize {
    usize::try_from(count).expect("held in memory")
}
