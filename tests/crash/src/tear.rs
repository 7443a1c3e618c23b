//! The states that a power failure can leave.
//!
//! Any sector of any write that is not durable may be there or not, so a sector holds what is durable or what any of
//! the writes put there, independently of all others. If that makes at most [`Bounds::all`] states, they are
//! enumerated all. Otherwise: every subset of the writes, whole; and every subset, whole, with one more write of
//! which there is each prefix, each single sector, or all but each single sector.
//!
//! Where all are enumerated, a sector of the header may moreover be torn inside, since that is what its checksum and
//! its two slots are for: all fields that change from one header to the next are in the first sector of a slot.

use crate::content::{ContentId, Pool};
use crate::disk::Disk;

/// Both slots of the header.
const HEADER_SECTORS: usize = 16;
/// Between the sequence number and what depends on it.
const TORN_AT: usize = 64;

/// Sectors with their new contents.
type Sectors = [(usize, ContentId)];

/// How far the enumeration goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Up to this many states, every combination of sectors is enumerated.
    pub all: usize,
}

/// Calls `visit` with each state that a power failure can leave; some may come more than once. Tells whether these
/// are all that there are.
pub(crate) fn enumerate(
    disk: &Disk,
    choices: &[(usize, Vec<ContentId>)],
    bounds: Bounds,
    mut visit: impl FnMut(&[ContentId]),
) -> bool {
    let total = choices.iter().try_fold(1_usize, |total, (_, contents)| {
        total.checked_mul(contents.len())
    });
    if total.is_some_and(|total| total <= bounds.all) {
        combinations(disk.durable(), choices, &mut visit);
        return true;
    }
    let writes: Vec<&Sectors> = disk.unsynced().map(|write| &write.sectors[..]).collect();
    subsets(disk.durable(), &writes, &mut visit);
    false
}

/// For each sector that is not certain, what it may hold.
pub(crate) fn choices(disk: &Disk, pool: &mut Pool) -> Vec<(usize, Vec<ContentId>)> {
    let mut choices: Vec<(usize, Vec<ContentId>)> = Vec::new();
    for (sector, content) in disk.unsynced().flat_map(|write| &write.sectors) {
        if let Some((_, contents)) = choices.iter_mut().find(|(known, _)| known == sector) {
            if !contents.contains(content) {
                contents.push(*content);
            }
        } else if disk.durable()[*sector] != *content {
            choices.push((*sector, vec![disk.durable()[*sector], *content]));
        }
    }
    for (_, contents) in choices.iter_mut().filter(|(s, _)| *s < HEADER_SECTORS) {
        for new in contents.clone().into_iter().skip(1) {
            contents.extend(torn_inside(pool, contents[0], new));
        }
    }
    choices
}

/// A sector of which one half is old and the other new.
fn torn_inside(pool: &mut Pool, old: ContentId, new: ContentId) -> [ContentId; 2] {
    [(old, new), (new, old)].map(|(head, tail)| {
        let mut torn = *pool.get(tail);
        torn[..TORN_AT].copy_from_slice(&pool.get(head)[..TORN_AT]);
        pool.id(&torn)
    })
}

fn combinations(
    durable: &[ContentId],
    choices: &[(usize, Vec<ContentId>)],
    visit: &mut impl FnMut(&[ContentId]),
) {
    let mut state = durable.to_vec();
    let mut digits = vec![0; choices.len()];
    loop {
        visit(&state);
        let mut carried = true;
        for (digit, (sector, contents)) in digits.iter_mut().zip(choices) {
            *digit = (*digit + 1) % contents.len();
            state[*sector] = contents[*digit];
            if *digit != 0 {
                carried = false;
                break;
            }
        }
        if carried {
            return;
        }
    }
}

fn subsets(durable: &[ContentId], writes: &[&Sectors], visit: &mut impl FnMut(&[ContentId])) {
    for kept in 0..1_u32 << writes.len() {
        let whole = |i: usize, _| kept & 1 << i != 0;
        visit(&apply(durable, writes, whole));
        for (torn, write) in writes.iter().enumerate() {
            // Whether the torn one is also in the subset makes no difference.
            if kept & 1 << torn != 0 {
                continue;
            }
            let len = write.len();
            for at in 0..len {
                let tears: [&dyn Fn(usize) -> bool; 3] =
                    [&|sector| sector < at, &|sector| sector == at, &|sector| {
                        sector != at
                    }];
                for tear in tears {
                    visit(&apply(durable, writes, |i, sector| {
                        if i == torn {
                            tear(sector)
                        } else {
                            whole(i, sector)
                        }
                    }));
                }
            }
        }
    }
}

/// The durable state with those sectors of each write that `keep` (write, sector of it) says.
fn apply(
    durable: &[ContentId],
    writes: &[&Sectors],
    keep: impl Fn(usize, usize) -> bool,
) -> Vec<ContentId> {
    let mut state = durable.to_vec();
    for (i, write) in writes.iter().enumerate() {
        for (at, (sector, content)) in write.iter().enumerate() {
            if keep(i, at) {
                state[*sector] = *content;
            }
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::content::Pool;

    /// The first byte of each data sector, in each state.
    fn states(disk: &Disk, pool: &mut Pool, all: usize) -> (BTreeSet<Vec<u8>>, bool) {
        let mut states = BTreeSet::new();
        let choices = choices(disk, pool);
        let complete = enumerate(disk, &choices, Bounds { all }, |state| {
            let data = &state[HEADER_SECTORS..];
            states.insert(data.iter().map(|id| pool.get(*id)[0]).collect());
        });
        (states, complete)
    }

    #[test]
    fn each_sector_is_torn_from_its_neighbours() {
        let mut pool = Pool::default();
        let mut id = |byte: u8| pool.id(&[byte; 512]);
        let mut disk = Disk::new(vec![id(0); 19]);
        let first = disk.issue(vec![(16, id(1)), (17, id(1))]);
        disk.issue(vec![(17, id(2))]);
        let expected: BTreeSet<Vec<u8>> = [
            [0, 0, 0],
            [0, 1, 0],
            [0, 2, 0],
            [1, 0, 0],
            [1, 1, 0],
            [1, 2, 0],
        ]
        .map(Vec::from)
        .into();
        assert_eq!(states(&disk, &mut pool, 6), (expected.clone(), true));
        assert_eq!(states(&disk, &mut pool, 5), (expected, false));

        disk.complete(first);
        let covered = disk.cached();
        disk.make_durable(&covered);
        let expected = [[1, 1, 0], [1, 2, 0]].map(Vec::from).into();
        assert_eq!(states(&disk, &mut pool, 6), (expected, true));
    }

    #[test]
    fn a_sector_of_the_header_is_torn_inside() {
        let mut pool = Pool::default();
        let (old, new) = (pool.id(&[1; 512]), pool.id(&[2; 512]));
        let mut disk = Disk::new(vec![old; 17]);
        disk.issue(vec![(8, new)]);
        let choices = choices(&disk, &mut pool);
        let ends: Vec<_> = choices[0]
            .1
            .iter()
            .map(|id| (pool.get(*id)[63], pool.get(*id)[64]))
            .collect();
        assert_eq!(ends, [(1, 1), (2, 2), (1, 2), (2, 1)]);
    }
}
