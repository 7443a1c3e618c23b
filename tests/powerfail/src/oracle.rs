//! What an image may hold after a crash.
//!
//! A sector holds the value of its last write that a completed flush covers, or any value that was written later or was
//! under way by then. A flush covers what was acknowledged when it was submitted; closing the image is a flush too. Of
//! two writes that overlapped in time either may be the last.
//!
//! A barrier that was acknowledged covers itself and all that was submitted before it. And if anything is found of it, or
//! of what was submitted after it, then all that was submitted before it must be there, acknowledged or not.

use rustc_hash::FxHashMap;

use crate::content::{Value, WriteId};
use crate::journal::Event;

/// When the power fails, as far as the journal can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Every event with a smaller number has happened.
    pub happened: usize,
    /// No event with this number or a higher one has happened.
    pub not_yet: usize,
}

/// What an image turned out to hold.
#[derive(Debug)]
pub enum Found {
    /// There is no image.
    Missing,
    /// It does not open, for this reason.
    Unusable(String),
    /// It opens.
    Image {
        /// Its header said so before it was opened.
        clean: bool,
        /// What each sector holds.
        values: Vec<Value>,
    },
}

/// Something that a sector may come to hold.
struct Version {
    value: Value,
    submitted: usize,
    acknowledged: Option<usize>,
    /// When the first flush that covers it was acknowledged.
    durable: Option<usize>,
}

/// The first and the last event of something that has a duration.
#[derive(Clone, Copy)]
struct Span {
    begin: usize,
    end: Option<usize>,
}

impl Span {
    /// Whether it may be under way at this moment.
    fn may_be_under_way(self, moment: Moment) -> bool {
        self.begin < moment.not_yet && self.end.is_none_or(|end| end >= moment.happened)
    }

    /// Whether it is surely over.
    fn is_over(self, moment: Moment) -> bool {
        self.end.is_some_and(|end| end < moment.happened)
    }
}

/// All promises of a workload.
pub struct Oracle {
    versions: Vec<Version>,
    /// For each sector its versions, in the order in which they were submitted.
    by_sector: Vec<Vec<usize>>,
    /// From its submission to its acknowledgement.
    barriers: Vec<Span>,
    creation: Option<Span>,
    /// From the opening of the image to the end of its closing.
    sessions: Vec<Span>,
    prepared: usize,
    events: usize,
}

impl Oracle {
    /// The promises that follow from these events.
    pub fn new(events: &[Event]) -> Self {
        let mut oracle = Self {
            versions: vec![Version {
                value: Value::Zero,
                submitted: 0,
                acknowledged: Some(0),
                durable: Some(0),
            }],
            by_sector: Vec::new(),
            barriers: Vec::new(),
            creation: None,
            sessions: Vec::new(),
            prepared: 0,
            events: events.len(),
        };
        let mut by_id = FxHashMap::default();
        for (number, event) in events.iter().enumerate() {
            oracle.note(number, *event, &mut by_id);
        }
        oracle.barriers = barriers(events);
        oracle.cover(&flushes(events));
        oracle
    }

    /// The number of events that had happened when logging began.
    pub fn prepared(&self) -> usize {
        self.prepared
    }

    /// The number of all events.
    pub fn events(&self) -> usize {
        self.events
    }

    fn note(&mut self, number: usize, event: Event, by_id: &mut FxHashMap<WriteId, usize>) {
        match event {
            Event::Disk { sectors } => {
                let sectors = usize::try_from(sectors).expect("disks of workloads are small");
                self.by_sector = vec![vec![0]; sectors];
            }
            Event::Write { id, first, count } | Event::Barrier { id, first, count } => {
                by_id.insert(id, self.versions.len());
                self.submitted(number, Value::Written(id), first, count);
            }
            Event::Zero { id, first, count } => {
                by_id.insert(id, self.versions.len());
                self.submitted(number, Value::Zero, first, count);
            }
            Event::Written { id } => {
                if let Some(version) = by_id.get(&id) {
                    self.versions[*version].acknowledged = Some(number);
                }
            }
            Event::Creating => {
                self.creation = Some(Span {
                    begin: number,
                    end: None,
                });
            }
            Event::Created => end(self.creation.as_mut(), number),
            Event::Prepared => self.prepared = number + 1,
            Event::Opening => self.sessions.push(Span {
                begin: number,
                end: None,
            }),
            Event::Closed => end(self.sessions.last_mut(), number),
            Event::Flush { .. } | Event::Flushed { .. } | Event::Closing => {}
        }
    }

    fn submitted(&mut self, number: usize, value: Value, first: u64, count: u64) {
        let version = self.versions.len();
        self.versions.push(Version {
            value,
            submitted: number,
            acknowledged: None,
            durable: None,
        });
        for (sector, versions) in (0..).zip(&mut self.by_sector) {
            if (first..first + count).contains(&sector) {
                versions.push(version);
            }
        }
    }

    fn cover(&mut self, flushes: &[Span]) {
        for version in &mut self.versions[1..] {
            let flushes = flushes
                .iter()
                .filter(|flush| version.acknowledged.is_some_and(|time| time < flush.begin));
            let barriers = self
                .barriers
                .iter()
                .filter(|barrier| version.submitted <= barrier.begin);
            version.durable = flushes.chain(barriers).filter_map(|span| span.end).min();
        }
    }

    /// Everything that is wrong with what was found, a sentence each.
    pub fn check(&self, moment: Moment, found: &Found) -> Vec<String> {
        match found {
            Found::Missing => self.check_missing(moment),
            Found::Unusable(cause) => vec![format!("the image does not open: {cause}")],
            Found::Image { clean, values } => {
                let mut wrong = self.check_values(moment, values);
                if self.must_be_clean(moment) && !clean {
                    wrong.push("the image was closed and is not clean".to_owned());
                }
                wrong
            }
        }
    }

    fn check_missing(&self, moment: Moment) -> Vec<String> {
        match self.creation {
            Some(creation) if creation.is_over(moment) => {
                vec!["the image was created and is not there".to_owned()]
            }
            _ => Vec::new(),
        }
    }

    fn must_be_clean(&self, moment: Moment) -> bool {
        !self
            .sessions
            .iter()
            .any(|session| session.may_be_under_way(moment))
    }

    fn check_values(&self, moment: Moment, values: &[Value]) -> Vec<String> {
        if values.len() != self.by_sector.len() {
            let (found, wanted) = (values.len(), self.by_sector.len());
            return vec![format!("the disk has {found} sectors instead of {wanted}")];
        }
        let ordered_before = self.ordered_before(values);
        let mut wrong = Vec::new();
        for (sector, value) in values.iter().enumerate() {
            let allowed = self.allowed(moment, ordered_before, sector);
            if !allowed.contains(value) {
                wrong.push(format!("sector {sector} holds {value}; {}", list(&allowed)));
            }
        }
        wrong
    }

    /// How many sectors must not show what was there before logging began.
    pub fn promised_sectors(&self, moment: Moment) -> usize {
        (0..self.by_sector.len())
            .filter(|sector| self.last_durable(moment, 0, *sector) >= self.prepared)
            .count()
    }

    /// When the last barrier was submitted of which, or of something after which, anything was found. (Not by zeros:
    /// they tell not who wrote them.)
    fn ordered_before(&self, values: &[Value]) -> usize {
        let found = |(sector, value): (usize, &Value)| {
            let mut versions = self.by_sector[sector]
                .iter()
                .map(|version| &self.versions[*version]);
            let found =
                versions.find(|version| version.value == *value && *value != Value::Zero)?;
            Some(found.submitted)
        };
        let latest = values.iter().enumerate().filter_map(found).max();
        let barriers = self.barriers.iter().map(|barrier| barrier.begin);
        barriers
            .filter(|begin| latest.is_some_and(|latest| *begin <= latest))
            .max()
            .unwrap_or(0)
    }

    /// What a sector may hold, if everything that was submitted before `ordered_before` is there.
    fn allowed(&self, moment: Moment, ordered_before: usize, sector: usize) -> Vec<Value> {
        let last_durable = self.last_durable(moment, ordered_before, sector);
        self.by_sector[sector]
            .iter()
            .map(|version| &self.versions[*version])
            .filter(|version| version.submitted < moment.not_yet)
            .filter(|version| version.acknowledged.is_none_or(|time| time >= last_durable))
            .map(|version| version.value)
            .collect()
    }

    /// When the last of the sector's writes that are surely durable was submitted: whatever was acknowledged before
    /// that must not come back.
    fn last_durable(&self, moment: Moment, ordered_before: usize, sector: usize) -> usize {
        self.by_sector[sector]
            .iter()
            .map(|version| &self.versions[*version])
            .filter(|version| {
                let durable = version.durable.is_some_and(|time| time < moment.happened);
                durable || version.submitted < ordered_before
            })
            .map(|version| version.submitted)
            .max()
            .unwrap_or(0)
    }
}

fn list(allowed: &[Value]) -> String {
    if allowed.is_empty() {
        return "what must be there was written only later".to_owned();
    }
    let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
    format!("allowed: {}", allowed.join(", "))
}

fn end(span: Option<&mut Span>, number: usize) {
    if let Some(span) = span {
        span.end = Some(number);
    }
}

/// All barriers.
fn barriers(events: &[Event]) -> Vec<Span> {
    let mut barriers: Vec<Span> = Vec::new();
    let mut by_id = FxHashMap::default();
    for (number, event) in events.iter().enumerate() {
        match event {
            Event::Barrier { id, .. } => {
                by_id.insert(*id, barriers.len());
                let (begin, end) = (number, None);
                barriers.push(Span { begin, end });
            }
            Event::Written { id } => {
                end(by_id.get(id).map(|index| &mut barriers[*index]), number);
            }
            _ => {}
        }
    }
    barriers
}

/// All flushes; closing is one.
fn flushes(events: &[Event]) -> Vec<Span> {
    let mut flushes: Vec<Span> = Vec::new();
    let mut by_id = FxHashMap::default();
    let mut closing = None;
    for (number, event) in events.iter().enumerate() {
        let begun = Span {
            begin: number,
            end: None,
        };
        match event {
            Event::Flush { id } => {
                by_id.insert(*id, flushes.len());
                flushes.push(begun);
            }
            Event::Flushed { id } => {
                end(by_id.get(id).map(|index| &mut flushes[*index]), number);
            }
            Event::Closing => {
                closing = Some(flushes.len());
                flushes.push(begun);
            }
            Event::Closed => end(closing.map(|index| &mut flushes[index]), number),
            _ => {}
        }
    }
    flushes
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Value = Value::Written(WriteId(0));

    /// A disk of two sectors; events from number 6 on are the test's.
    fn oracle(events: &[Event]) -> Oracle {
        let mut all = vec![
            Event::Disk { sectors: 2 },
            write(0, 0, 1),
            written(0),
            Event::Flush { id: 0 },
            Event::Flushed { id: 0 },
            Event::Prepared,
        ];
        all.extend_from_slice(events);
        Oracle::new(&all)
    }

    fn write(id: u32, first: u64, count: u64) -> Event {
        let id = WriteId(id);
        Event::Write { id, first, count }
    }

    fn written(id: u32) -> Event {
        Event::Written { id: WriteId(id) }
    }

    fn allowed(oracle: &Oracle, happened: usize, not_yet: usize, sector: usize) -> Vec<Value> {
        let moment = Moment { happened, not_yet };
        oracle.allowed(moment, 0, sector)
    }

    fn values(ids: &[u32]) -> Vec<Value> {
        ids.iter().map(|id| Value::Written(WriteId(*id))).collect()
    }

    #[test]
    fn before_any_write_there_is_the_base_and_zeros_behind_it() {
        let oracle = oracle(&[write(1, 0, 2)]);
        assert_eq!(oracle.prepared(), 6);
        assert_eq!(allowed(&oracle, 6, 6, 0), [BASE]);
        assert_eq!(allowed(&oracle, 6, 6, 1), [Value::Zero]);
        assert_eq!(allowed(&oracle, 6, 7, 0), values(&[0, 1]));
    }

    #[test]
    fn a_flushed_write_is_there_and_what_was_before_is_gone() {
        let flush = Event::Flush { id: 1 };
        let flushed = Event::Flushed { id: 1 };
        let oracle = oracle(&[write(1, 0, 1), written(1), flush, flushed, write(2, 0, 1)]);
        assert_eq!(allowed(&oracle, 9, 10, 0), values(&[0, 1]));
        assert_eq!(allowed(&oracle, 10, 10, 0), values(&[1]));
        assert_eq!(allowed(&oracle, 10, 11, 0), values(&[1, 2]));
        let at_end = Moment {
            happened: 10,
            not_yet: 11,
        };
        assert_eq!(oracle.promised_sectors(at_end), 1);
    }

    #[test]
    fn a_flush_does_not_cover_what_was_under_way() {
        let flush = Event::Flush { id: 1 };
        let flushed = Event::Flushed { id: 1 };
        let oracle = oracle(&[write(1, 0, 1), flush, written(1), flushed]);
        assert_eq!(allowed(&oracle, 10, 10, 0), values(&[0, 1]));
    }

    #[test]
    fn of_writes_that_overlap_in_time_either_may_be_last() {
        let flush = Event::Flush { id: 1 };
        let flushed = Event::Flushed { id: 1 };
        let oracle = oracle(&[
            write(1, 0, 1),
            write(2, 0, 1),
            written(2),
            written(1),
            flush,
            flushed,
        ]);
        assert_eq!(allowed(&oracle, 12, 12, 0), values(&[1, 2]));
    }

    #[test]
    fn closing_is_a_flush_and_leaves_a_clean_image() {
        let id = WriteId(1);
        let zero = Event::Zero {
            id,
            first: 0,
            count: 1,
        };
        let oracle = oracle(&[
            Event::Opening,
            zero,
            written(1),
            Event::Closing,
            Event::Closed,
            Event::Opening,
        ]);
        let closed = Moment {
            happened: 11,
            not_yet: 11,
        };
        assert_eq!(oracle.allowed(closed, 0, 0), [Value::Zero]);
        let found = |clean| Found::Image {
            clean,
            values: vec![Value::Zero; 2],
        };
        assert!(oracle.check(closed, &found(true)).is_empty());
        assert_eq!(oracle.check(closed, &found(false)).len(), 1);
        for moment in [(10, 11), (11, 12), (8, 9)] {
            let (happened, not_yet) = moment;
            let moment = Moment { happened, not_yet };
            assert!(oracle.check(moment, &found(false)).is_empty(), "{moment:?}");
        }
    }

    #[test]
    fn a_barrier_covers_what_was_submitted_before_it() {
        let id = WriteId(2);
        let barrier = Event::Barrier {
            id,
            first: 1,
            count: 1,
        };
        let oracle = oracle(&[write(1, 0, 1), barrier, written(1), written(2)]);
        assert_eq!(allowed(&oracle, 9, 9, 0), values(&[0, 1]));
        assert_eq!(allowed(&oracle, 10, 10, 0), values(&[1]));
        assert_eq!(allowed(&oracle, 10, 10, 1), values(&[2]));
    }

    #[test]
    fn what_comes_after_a_barrier_is_not_found_without_what_came_before() {
        let barrier = Event::Barrier {
            id: WriteId(2),
            first: 0,
            count: 0,
        };
        let oracle = oracle(&[write(1, 0, 1), barrier, write(3, 1, 1)]);
        let moment = Moment {
            happened: 6,
            not_yet: 9,
        };
        let wrong = |values: [Value; 2]| {
            let values = values.to_vec();
            let found = Found::Image {
                clean: true,
                values,
            };
            oracle.check(moment, &found)
        };
        let (one, three) = (Value::Written(WriteId(1)), Value::Written(WriteId(3)));
        assert!(wrong([BASE, Value::Zero]).is_empty());
        assert!(wrong([one, Value::Zero]).is_empty());
        assert!(wrong([one, three]).is_empty());
        assert_eq!(
            wrong([BASE, three]),
            ["sector 0 holds the base's content; allowed: write 1"]
        );
    }

    #[test]
    fn an_image_is_there_once_it_is_created() {
        let oracle = oracle(&[Event::Creating, Event::Created]);
        let wrong = |happened, not_yet| {
            let moment = Moment { happened, not_yet };
            oracle.check(moment, &Found::Missing).len()
        };
        assert_eq!(wrong(6, 8), 0);
        assert_eq!(wrong(7, 8), 0);
        assert_eq!(wrong(8, 8), 1);
    }

    #[test]
    fn other_content_is_named() {
        let oracle = oracle(&[]);
        let garbage = Value::Garbage {
            id: 5,
            sector: 1,
            ours: true,
        };
        let found = Found::Image {
            clean: true,
            values: vec![garbage, Value::Zero],
        };
        let moment = Moment {
            happened: 6,
            not_yet: 6,
        };
        assert_eq!(
            oracle.check(moment, &found),
            ["sector 0 holds part of write 5 to sector 1; allowed: the base's content"]
        );
    }
}
