//! What was read, sorted in units.

use dscow::units::DiskRange;

use super::pipeline::{Put, Seen};
use crate::file::ZEROS;

/// What becomes of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    Leave,
    /// Its bytes are written.
    Data,
    /// It becomes zeros.
    Zeros,
}

/// Decides over each unit of `granule` bytes (counted from the start of the disk; those at the ends may be shorter) of what
/// was seen, given its bytes and those beside it; and makes runs of them.
pub(super) fn sort(
    seen: &Seen<'_>,
    granule: u64,
    mut fate: impl FnMut(&[u8], &[u8]) -> Fate,
) -> Vec<Put> {
    let mut runs: Vec<(Fate, DiskRange)> = Vec::new();
    let mut at = seen.range.start.0;
    while at < seen.range.end() {
        let until = ((at / granule + 1) * granule).min(seen.range.end());
        let part = index(at - seen.range.start.0)..index(until - seen.range.start.0);
        let fate = fate(&seen.bytes[part.clone()], &seen.beside[part]);
        match runs.last_mut() {
            Some((last, run)) if *last == fate => run.len += until - at,
            _ => runs.push((fate, DiskRange::new(at, until - at))),
        }
        at = until;
    }
    runs.into_iter()
        .filter_map(|(fate, range)| match fate {
            Fate::Leave => None,
            Fate::Data => Some(Put::Data(range)),
            Fate::Zeros => Some(Put::Zeros(range)),
        })
        .collect()
}

/// What becomes of a unit that is to have the bytes `now`, in the place of what is there by itself.
pub(super) fn differing(now: &[u8], by_itself: &[u8]) -> Fate {
    if now == by_itself {
        Fate::Leave
    } else if all_zero(now) {
        Fate::Zeros
    } else {
        Fate::Data
    }
}

/// Whether there is nothing but zeros.
pub(super) fn all_zero(bytes: &[u8]) -> bool {
    // Comparing memory is several times as fast as looking at each byte.
    bytes
        .chunks(ZEROS.0.len())
        .all(|part| part == &ZEROS.0[..part.len()])
}

fn index(position: u64) -> usize {
    usize::try_from(position).expect("a chunk fits into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_counted_from_the_start_of_the_disk_and_runs_are_merged() {
        let bytes = [1, 0, 3, 0, 0, 2, 2, 0, 0];
        let seen = Seen {
            range: DiskRange::new(3, 9),
            bytes: &bytes,
            beside: &[0; 9],
        };
        let kind = |bytes: &[u8], beside: &[u8]| match bytes {
            _ if bytes == beside => Fate::Leave,
            [2, ..] => Fate::Zeros,
            _ => Fate::Data,
        };
        assert_eq!(
            sort(&seen, 4, kind),
            [
                // Bytes 3 and 4..8, then 8..12.
                Put::Data(DiskRange::new(3, 5)),
                Put::Zeros(DiskRange::new(8, 4)),
            ]
        );
    }

    #[test]
    fn zeros_are_zeros_to_the_last_byte() {
        let mut bytes = vec![0; 200_000];
        assert!(all_zero(&bytes) && all_zero(&[]));
        bytes[199_999] = 1;
        assert!(!all_zero(&bytes));
    }
}
