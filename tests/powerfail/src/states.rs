//! Which states a loss of power can leave, according to the log.

use crate::log::Entry;
use crate::mark;
use crate::oracle::Moment;
use crate::random::Random;

/// A place in the log: this many of its entries.
pub type Position = usize;

/// A state that is to be looked at: all entries up to a place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The entries that the device holds.
    pub position: Position,
    /// When this may be what a loss of power leaves.
    pub moment: Moment,
}

/// Everything between two flushes: what a loss of power just before the second one may have kept or lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The entries before are durable.
    pub start: Position,
    /// The entry with the flush.
    pub end: Position,
    /// When this was not durable yet.
    pub moment: Moment,
}

/// The numbers that the marks name, each with its place in the log.
fn marks(entries: &[Entry]) -> Vec<(Position, usize)> {
    let decoded = |(index, entry): (usize, &Entry)| {
        let happened = mark::decode(entry.mark.as_deref()?)?;
        Some((index, happened))
    };
    entries.iter().enumerate().filter_map(decoded).collect()
}

/// What had happened at the moments at which the device held at least the entries before `from` and nothing that was
/// done after those before `to`.
///
/// A mark that is in the log was set before anything that comes after it was done, so its events had happened; and what
/// is in the log before a mark was done before it was set, so it comes from events below the mark's number.
fn moment(marks: &[(Position, usize)], from: Position, to: Position, all: Moment) -> Moment {
    let before = marks.iter().rev().find(|(index, _)| *index < from);
    let after = marks.iter().find(|(index, _)| *index >= to);
    Moment {
        happened: before.map_or(all.happened, |(_, number)| *number),
        not_yet: after.map_or(all.not_yet, |(_, number)| *number),
    }
}

/// Every place in the log after a flush, a FUA write or a mark, and its end. Of those with no change of the device
/// between them only one is kept, with the promises of all. `all` is what holds where there is no mark.
pub fn stops(entries: &[Entry], all: Moment) -> Vec<Stop> {
    let marks = marks(entries);
    let mut stops: Vec<Stop> = Vec::new();
    let mut changed = true;
    for (index, entry) in entries.iter().enumerate() {
        changed |= entry.changes_the_device();
        let is_stop = entry.flush || entry.fua || entry.mark.is_some();
        if !is_stop && index + 1 != entries.len() {
            continue;
        }
        let position = index + 1;
        let moment = moment(&marks, position, position, all);
        match stops.last_mut() {
            Some(last) if !changed => {
                last.position = position;
                last.moment.happened = moment.happened;
            }
            _ => stops.push(Stop { position, moment }),
        }
        changed = false;
    }
    stops
}

/// All sections in which something may be lost.
pub fn sections(entries: &[Entry], all: Moment) -> Vec<Section> {
    let marks = marks(entries);
    let mut sections = Vec::new();
    let mut start = 0;
    for (index, entry) in entries.iter().enumerate() {
        if !entry.flush && index + 1 != entries.len() {
            continue;
        }
        if entries[start..index].iter().any(may_be_lost) {
            sections.push(Section {
                start,
                end: index,
                moment: moment(&marks, index, index, all),
            });
        }
        start = index + 1;
    }
    sections
}

/// Whether power can fail after the entry was done and before it is durable.
fn may_be_lost(entry: &Entry) -> bool {
    entry.changes_the_device() && !entry.fua && !entry.flush
}

/// How much of an entry a loss of power leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// All of it.
    All,
    /// Nothing.
    Nothing,
    /// Only its first sectors.
    First(u64),
    /// Only what comes after these sectors.
    After(u64),
}

/// Decides what is kept of a section's entries: of some nearly all, of others nearly nothing, and some writes in part. They are
/// torn at multiples of `untorn` sectors of the device.
pub(crate) fn lose(random: &mut Random, entries: &[Entry], untorn: u64) -> Vec<Kept> {
    let keep = [15, 50, 85][usize::try_from(random.below(3)).expect("a small number")];
    entries
        .iter()
        .map(|entry| {
            if !may_be_lost(entry) {
                return Kept::All;
            }
            let sectors = entry.sectors();
            let tears = sectors.start / untorn + 1..sectors.end.div_ceil(untorn);
            if !tears.is_empty() && random.chance(20) {
                let tear = tears.start + random.below(tears.end - tears.start);
                let at = tear * untorn - sectors.start;
                return if random.chance(50) {
                    Kept::First(at)
                } else {
                    Kept::After(at)
                };
            }
            if random.chance(keep) {
                Kept::All
            } else {
                Kept::Nothing
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Effect;

    const ALL: Moment = Moment {
        happened: 5,
        not_yet: 99,
    };

    fn entry(changes: bool, flush: bool, fua: bool) -> Entry {
        let effect = if changes {
            Effect::Discard {
                offset: 0,
                len: 1024,
            }
        } else {
            Effect::Nothing
        };
        Entry {
            effect,
            flush,
            fua,
            mark: None,
        }
    }

    fn plain() -> Entry {
        entry(true, false, false)
    }

    fn flush() -> Entry {
        entry(false, true, false)
    }

    fn fua() -> Entry {
        entry(true, false, true)
    }

    fn mark(number: usize) -> Entry {
        let mut entry = entry(false, false, false);
        entry.mark = Some(format!("events={number}").into_bytes());
        entry
    }

    fn stop(position: Position, happened: usize, not_yet: usize) -> Stop {
        let moment = Moment { happened, not_yet };
        Stop { position, moment }
    }

    #[test]
    fn every_flush_fua_write_and_mark_is_a_stop() {
        let entries = [plain(), plain(), flush(), fua(), plain(), flush(), plain()];
        let wanted = [
            stop(3, 5, 99),
            stop(4, 5, 99),
            stop(6, 5, 99),
            stop(7, 5, 99),
        ];
        assert_eq!(stops(&entries, ALL), wanted);
    }

    #[test]
    fn marks_tell_what_had_happened_and_what_had_not() {
        let entries = [mark(10), plain(), flush(), mark(20), fua(), mark(30)];
        let wanted = [stop(1, 10, 20), stop(4, 20, 20), stop(6, 30, 30)];
        // The last stop is after the last mark; nothing bounds it from above but the end of the journal.
        let mut found = stops(&entries, ALL);
        assert_eq!(found.pop().unwrap(), stop(6, 30, 30));
        assert_eq!(found, wanted[..2]);
    }

    #[test]
    fn stops_with_the_same_content_become_one_with_the_promises_of_all() {
        let entries = [mark(10), plain(), flush(), mark(20), mark(30), fua()];
        let wanted = [stop(1, 10, 20), stop(5, 30, 20), stop(6, 30, 99)];
        assert_eq!(stops(&entries, ALL), wanted);
    }

    #[test]
    fn a_section_holds_what_its_flush_makes_durable() {
        let entries = [
            flush(),
            mark(10),
            fua(),
            plain(),
            flush(),
            mark(20),
            flush(),
            plain(),
            mark(30),
        ];
        let found = sections(&entries, ALL);
        let section = |start, end, happened, not_yet| Section {
            start,
            end,
            moment: Moment { happened, not_yet },
        };
        assert_eq!(found, [section(1, 4, 10, 20), section(7, 8, 20, 30)]);
    }

    #[test]
    fn only_what_is_not_durable_is_lost() {
        let mut seen = Vec::new();
        for seed in 0..200 {
            let entries = [plain(), fua(), plain(), flush()];
            let kept = lose(&mut Random::new(seed), &entries, 1);
            assert_eq!((kept[1], kept[3]), (Kept::All, Kept::All));
            seen.extend([kept[0], kept[2]]);
        }
        for kept in [Kept::All, Kept::Nothing, Kept::First(1), Kept::After(1)] {
            assert!(seen.contains(&kept), "{kept:?}");
        }
    }

    #[test]
    fn what_the_device_writes_as_a_whole_is_not_torn() {
        let entry = Entry {
            effect: Effect::Discard {
                offset: 6 * 512,
                len: 12 * 512,
            },
            ..plain()
        };
        let small = Entry {
            effect: Effect::Discard {
                offset: 8 * 512,
                len: 8 * 512,
            },
            ..plain()
        };
        let mut seen = Vec::new();
        for seed in 0..200 {
            let entries = [entry.clone(), small.clone()];
            let kept = lose(&mut Random::new(seed), &entries, 8);
            assert!(matches!(kept[1], Kept::All | Kept::Nothing), "{kept:?}");
            seen.push(kept[0]);
        }
        let torn = |kept: &&Kept| !matches!(kept, Kept::All | Kept::Nothing);
        let mut tears: Vec<u64> = seen
            .iter()
            .filter(torn)
            .map(|kept| match kept {
                Kept::First(at) | Kept::After(at) => *at,
                Kept::All | Kept::Nothing => unreachable!("filtered"),
            })
            .collect();
        tears.sort_unstable();
        tears.dedup();
        assert_eq!(tears, [2, 10]);
    }
}
