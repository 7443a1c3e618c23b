//! The keys by which an executor reports the descriptors of a disk's clients.

use blockio::disk::DiskNumber;

/// In the lower half of the keys of clients' descriptors. Others may use those without it for theirs.
const CLIENTS: u32 = 1 << 31;

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
        let low = u32::try_from(low).expect("far fewer connections");
        u64::from(number.0) << 32 | u64::from(CLIENTS | low)
    }

    /// `None` for what is no client's.
    pub(crate) fn from_key(key: u64) -> Option<Self> {
        let low = u32::try_from(key & u64::from(u32::MAX)).expect("the lower half");
        if low & CLIENTS == 0 {
            return None;
        }
        let place = |place: u32| usize::try_from(place).expect("a usize has at least 32 bits");
        Some(match low & !CLIENTS {
            0 => Self::Listener,
            low if low % 2 == 1 => Self::Read(place(low / 2)),
            low => Self::Write(place(low / 2 - 1)),
        })
    }
}
