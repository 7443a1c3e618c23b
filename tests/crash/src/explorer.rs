//! Checks every state that a crash can leave, each once.

use std::fmt;
use std::sync::Mutex;

use rustc_hash::FxHashSet;

use crate::content::{ContentId, Pool, mix};
use crate::disk::Disk;
use crate::fault::Fault;
use crate::geometry::Geometry;
use crate::mutation::Mutation;
use crate::promise::Promise;
use crate::reopen;
use crate::schedule::Schedule;
use crate::tear::{self, Bounds};
use crate::workload::Op;

/// A run, as it can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Name of the geometry.
    pub geometry: &'static str,
    /// What is done.
    pub workload: Vec<Op>,
    /// In which order.
    pub schedule: Schedule,
    /// What fails.
    pub faults: Vec<Fault>,
    /// Which rule is broken.
    pub mutation: Option<Mutation>,
}

/// A state that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The run.
    pub scenario: Scenario,
    /// After how many events the power failed.
    pub cut: usize,
    /// For each write that was not durable its first sector in the image as it is kept here, and for each of its
    /// sectors 1 if the state has it.
    pub kept: String,
    /// What is wrong.
    pub problem: String,
}

/// How much was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Runs.
    pub runs: u64,
    /// Moments at which the power may fail, each different in what is durable, unsynced, or allowed.
    pub cuts: u64,
    /// Those of them where not all combinations of sectors were enumerated.
    pub bounded_cuts: u64,
    /// States checked: each different in the image's bytes or in what is allowed.
    pub states: u64,
    /// Those that broke the oracle's rules.
    pub violations: u64,
}

/// What was seen so far, by hash; shared by threads.
#[derive(Default)]
pub struct Seen {
    cuts: HashSets,
    states: HashSets,
}

/// Sets of hashes, by their lowest bits, so that threads seldom meet.
#[derive(Default)]
struct HashSets([Mutex<FxHashSet<u64>>; 32]);

impl HashSets {
    /// Whether it is new.
    fn insert(&self, hash: u64) -> bool {
        let set = &self.0[(hash % 32) as usize];
        set.lock().expect("no thread panicked").insert(hash)
    }
}

/// Checks states, and counts.
pub struct Explorer<'s> {
    pub(crate) pool: Pool,
    seen: &'s Seen,
    bounds: Bounds,
    /// Totals.
    pub counts: Counts,
    /// The first few.
    pub violations: Vec<Violation>,
}

/// Violations beyond these are only counted.
const VIOLATIONS_KEPT: usize = 5;

impl<'s> Explorer<'s> {
    /// One that passes over what was seen.
    pub fn new(bounds: Bounds, seen: &'s Seen) -> Self {
        Self {
            pool: Pool::default(),
            seen,
            bounds,
            counts: Counts::default(),
            violations: Vec::new(),
        }
    }

    /// Checks every state that a crash after event `cut` can leave.
    pub(crate) fn cut(
        &mut self,
        geometry: &Geometry,
        disk: &Disk,
        promise: &Promise,
        at: (&Scenario, usize),
    ) {
        let promised = promise.hash() ^ geometry.hash();
        if !self.seen.cuts.insert(self.hash_cut(disk, promised)) {
            return;
        }
        self.counts.cuts += 1;
        let choices = tear::choices(disk, &mut self.pool);
        let complete = tear::enumerate(disk, &choices, self.bounds, |state| {
            let hash = mix(promised ^ hash_state(&self.pool, state));
            if !self.seen.states.insert(hash) {
                return;
            }
            self.counts.states += 1;
            let checked = reopen::read_all(geometry, &self.pool, state)
                .and_then(|found| promise.check(&found));
            if let Err(problem) = checked {
                self.counts.violations += 1;
                if self.violations.len() < VIOLATIONS_KEPT {
                    self.violations.push(Violation {
                        scenario: at.0.clone(),
                        cut: at.1,
                        kept: kept(disk, state),
                        problem,
                    });
                }
            }
        });
        self.counts.bounded_cuts += u64::from(!complete);
    }

    /// Notes that an image did not open although nothing crashed, or that it was wrong after a power failure.
    pub(crate) fn broken(&mut self, (scenario, cut): (&Scenario, usize), problem: String) {
        self.counts.violations += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(Violation {
                scenario: scenario.clone(),
                cut,
                kept: "as at the restart".into(),
                problem,
            });
        }
    }

    fn hash_cut(&self, disk: &Disk, promised: u64) -> u64 {
        let start = mix(promised ^ hash_state(&self.pool, disk.durable()));
        disk.unsynced().fold(start, |hash, write| {
            let sectors = write.sectors.iter();
            let sum = sectors.fold(1_u64, |sum, (sector, content)| {
                sum.wrapping_add(self.pool.hash(*sector, *content))
            });
            mix(hash ^ sum)
        })
    }
}

fn hash_state(pool: &Pool, state: &[ContentId]) -> u64 {
    let sectors = state.iter().enumerate();
    sectors.fold(0, |sum: u64, (sector, content)| {
        sum.wrapping_add(pool.hash(sector, *content))
    })
}

fn kept(disk: &Disk, state: &[ContentId]) -> String {
    let mut text = String::new();
    for write in disk.unsynced() {
        if let Some((first, _)) = write.sectors.first() {
            text.push_str(&format!(" @{first}:"));
        }
        for (sector, content) in &write.sectors {
            text.push(if state[*sector] == *content { '1' } else { '0' });
        }
    }
    text
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.runs += other.runs;
        self.cuts += other.cuts;
        self.bounded_cuts += other.bounded_cuts;
        self.states += other.states;
        self.violations += other.violations;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            runs,
            cuts,
            bounded_cuts,
            states,
            violations,
        } = self;
        write!(
            f,
            "{runs} runs, {cuts} cuts ({bounded_cuts} bounded), {states} new states, {violations} violations"
        )
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.geometry)?;
        self.workload.iter().try_for_each(|op| write!(f, " {op}"))?;
        write!(f, " @ {}", self.schedule)?;
        let mut faults = self.faults.iter();
        faults.try_for_each(|fault| write!(f, " {fault}"))?;
        match self.mutation {
            Some(mutation) => write!(f, " ! {mutation:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scenario,
            cut,
            kept,
            problem,
        } = self;
        write!(
            f,
            "{problem}\n  crash --reproduce '{scenario}'\n  after event {cut}, kept:{kept}"
        )
    }
}

impl std::str::FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, mutation) = match text.split_once(" ! ") {
            Some((text, name)) => {
                let mutation = Mutation::by_name(name.trim());
                (
                    text,
                    Some(mutation.ok_or(format!("{name} is not a mutation"))?),
                )
            }
            None => (text, None),
        };
        let (ops, schedule) = text.split_once(" @ ").ok_or("there is no ' @ '")?;
        let mut how = schedule.split_whitespace();
        let schedule = how.next().unwrap_or_default().parse()?;
        let mut words = ops.split_whitespace();
        let name = words.next().unwrap_or_default();
        let geometry = Geometry::by_name(name).ok_or(format!("{name} is not a geometry"))?;
        Ok(Self {
            geometry: geometry.name(),
            workload: words.map(str::parse).collect::<Result<_, _>>()?,
            schedule,
            faults: how.map(str::parse).collect::<Result<_, _>>()?,
            mutation,
        })
    }
}
