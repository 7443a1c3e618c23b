//! The keys by which an executor reports an export's descriptors.

use blockio::disk::DiskNumber;

/// What is watched: the lower half of the key; the upper half is the number of the disk, as in the keys of operations.
pub(crate) enum WatchKey {
    Listener,
    Read(usize),
    Write(usize),
}

impl WatchKey {
    pub(crate) fn key(&self, number: DiskNumber) -> u64 {
        let low = match self {
            Self::Listener => 0,
            Self::Read(place) => 2 * place + 1,
            Self::Write(place) => 2 * place + 2,
        };
        u64::from(number.0) << 32 | u64::from(u32::try_from(low).expect("far fewer connections"))
    }

    pub(crate) fn from_key(key: u64) -> Self {
        match usize::try_from(key & u64::from(u32::MAX)).expect("a usize has at least 32 bits") {
            0 => Self::Listener,
            low if low % 2 == 1 => Self::Read(low / 2),
            low => Self::Write(low / 2 - 1),
        }
    }
}
