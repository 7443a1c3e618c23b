//! Which runs there are.

use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};

use crate::content::index;
use crate::explorer::{Counts, Explorer, Scenario, Seen, Violation};
use crate::fault::{Failure, Fault};
use crate::geometry::Geometry;
use crate::mutation::Mutation;
use crate::run::{Course, run};
use crate::schedule::{Pick, Schedule};
use crate::tear::Bounds;
use crate::workload::Op;

/// Up to this many states at one cut, every combination of sectors is enumerated.
pub const BOUNDS: Bounds = Bounds { all: 1024 };

/// All workloads up to a length over some operations.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Name of the geometry of the image.
    pub geometry: &'static str,
    /// The operations, as they are written on the command line.
    pub ops: &'static str,
    /// How many operations a workload has at least and at most.
    pub len: (u32, u32),
    /// In which orders the events come.
    pub orders: Orders,
    /// What fails.
    pub failing: Failing,
}

/// In which orders the events of a workload come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orders {
    /// All orders that there are.
    All,
    /// Those of a few rules, see [`policies`].
    Some,
}

/// What fails in the runs of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Nothing.
    Nothing,
    /// Each single action, in each way that it can.
    EachAction,
}

/// What came of a plan.
#[derive(Default)]
pub struct Outcome {
    /// How much was done.
    pub counts: Counts,
    /// The first few violations.
    pub violations: Vec<Violation>,
}

/// One operation after another; and two or all at a time, with different ideas of what completes first.
fn policies() -> Vec<Schedule> {
    let policy = |window, pick| Schedule::Policy { window, pick };
    vec![
        policy(1, Pick::Oldest),
        policy(2, Pick::Oldest),
        policy(2, Pick::Newest),
        policy(9, Pick::SyncFirst),
        policy(9, Pick::SyncLast),
    ]
}

impl Plan {
    /// The operations.
    ///
    /// # Panics
    /// If one is written wrong.
    pub fn ops(&self) -> Vec<Op> {
        let words = self.ops.split_whitespace();
        let parsed: Result<_, _> = words.map(str::parse).collect();
        parsed.expect("plans name operations that exist")
    }

    /// Runs it with a thread on each processor, passing over what was seen.
    pub fn run(&self, bounds: Bounds, seen: &Seen) -> Outcome {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let work = || self.work(Explorer::new(bounds, seen), None, (&next, &stop));
        let outcomes: Vec<Outcome> = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let joined = threads.into_iter().map(ScopedJoinHandle::join);
            joined
                .map(|outcome| outcome.expect("it does not panic"))
                .collect()
        });
        let mut total = Outcome::default();
        for outcome in outcomes {
            total.counts += outcome.counts;
            total.violations.extend(outcome.violations);
        }
        let shortest_first = |v: &Violation| (v.scenario.workload.len(), v.scenario.to_string());
        total.violations.sort_by_cached_key(shortest_first);
        total
    }

    /// Runs it with a broken rule, or a broken engine, up to the first violation.
    pub fn hunt(&self, bounds: Bounds, seen: &Seen, mutation: Option<Mutation>) -> Outcome {
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(true);
        self.work(Explorer::new(bounds, seen), mutation, (&next, &stop))
    }

    /// Takes one workload after another.
    fn work(
        &self,
        mut explorer: Explorer<'_>,
        mutation: Option<Mutation>,
        (next, stop): (&AtomicU64, &AtomicBool),
    ) -> Outcome {
        let geometry = Geometry::by_name(self.geometry).expect("plans name geometries that exist");
        let ops = self.ops();
        while let Some(workload) = self.workload(&ops, next.fetch_add(1, Ordering::Relaxed)) {
            let scenario = Scenario {
                geometry: geometry.name(),
                workload,
                schedule: Schedule::Choices(Vec::new()),
                faults: Vec::new(),
                mutation,
            };
            self.run_workload(&mut explorer, &geometry, scenario);
            if stop.load(Ordering::Relaxed) && explorer.counts.violations > 0 {
                break;
            }
        }
        Outcome {
            counts: explorer.counts,
            violations: explorer.violations,
        }
    }

    /// The workload with this number, the short ones first.
    fn workload(&self, ops: &[Op], number: u64) -> Option<Vec<Op>> {
        let count = ops.len() as u64;
        let mut number = number;
        for len in self.len.0..=self.len.1 {
            let workloads = count.pow(len);
            if number < workloads {
                let mut workload = Vec::new();
                for _ in 0..len {
                    workload.push(ops[index(number % count)]);
                    number /= count;
                }
                workload.reverse();
                return Some(workload);
            }
            number -= workloads;
        }
        None
    }

    fn run_workload(&self, explorer: &mut Explorer<'_>, geometry: &Geometry, scenario: Scenario) {
        let mut scenario = scenario;
        match self.orders {
            Orders::Some => {
                for schedule in policies() {
                    scenario.schedule = schedule;
                    scenario.faults.clear();
                    let course = run(explorer, geometry, &scenario);
                    for fault in self.faults(&course) {
                        scenario.faults = vec![fault];
                        run(explorer, geometry, &scenario);
                    }
                }
            }
            Orders::All => {
                let mut next = Some(Vec::new());
                while let Some(choices) = next {
                    scenario.schedule = Schedule::Choices(choices.clone());
                    let course = run(explorer, geometry, &scenario);
                    next = Schedule::after(&choices, &course.choices);
                }
            }
        }
    }

    /// What may fail in a run that took this course.
    fn faults(&self, course: &Course) -> Vec<Fault> {
        if self.failing == Failing::Nothing {
            return Vec::new();
        }
        let issued = course.issued.iter().enumerate();
        issued
            .flat_map(|(at, io)| {
                let failures = Failure::ALL.into_iter();
                let failures = failures.filter(|failure| failure.may_happen_to(*io));
                failures.map(move |failure| Fault { at, failure })
            })
            .collect()
    }
}

/// Runs one scenario, as it was printed.
pub fn reproduce(bounds: Bounds, scenario: &Scenario) -> Outcome {
    let geometry = Geometry::by_name(scenario.geometry).expect("it was parsed");
    let seen = Seen::default();
    let mut explorer = Explorer::new(bounds, &seen);
    run(&mut explorer, &geometry, scenario);
    Outcome {
        counts: explorer.counts,
        violations: explorer.violations,
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = self.len;
        let orders = match self.orders {
            Orders::All => "all orders",
            Orders::Some => "5 orders",
        };
        let failing = match self.failing {
            Failing::Nothing => "",
            Failing::EachAction => ", each action fails once",
        };
        write!(
            f,
            "{}: {least} to {most} of {}, {orders}{failing}",
            self.geometry, self.ops
        )
    }
}
