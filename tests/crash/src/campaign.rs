//! Which runs there are.

use crate::explorer::{Explorer, Scenario};
use crate::geometry::Geometry;
use crate::mutation::Mutation;
use crate::run::run;
use crate::schedule::{Pick, Schedule};
use crate::tear::Bounds;
use crate::workload::{Kept, Op};

/// Up to this many states at one cut, every combination of sectors is enumerated.
pub const BOUNDS: Bounds = Bounds { all: 1024 };

/// All workloads up to a length over some operations.
pub struct Plan {
    /// The image.
    pub geometry: Geometry,
    /// The operations.
    pub ops: Vec<Op>,
    /// Most operations in a workload.
    pub max_len: usize,
    /// In which orders the events come.
    pub orders: Orders,
}

/// In which orders the events of a workload come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orders {
    /// All orders that there are.
    All,
    /// Those of a few rules, see [`policies`].
    Policies,
}

/// One operation after another; and two or all at a time, with different ideas of what completes first.
pub fn policies() -> Vec<Schedule> {
    let policy = |window, pick| Schedule::Policy { window, pick };
    vec![
        policy(1, Pick::Oldest),
        policy(2, Pick::Oldest),
        policy(2, Pick::Newest),
        policy(9, Pick::SyncFirst),
        policy(9, Pick::SyncLast),
    ]
}

/// Operations that cover all of the engine between them.
pub fn core_ops() -> Vec<Op> {
    vec![
        Op::Whole(0),
        Op::Whole(1),
        Op::Partial(0),
        Op::Spanning(0),
        Op::Flush,
        Op::Reopen,
        Op::PowerLoss(Kept::Nothing),
    ]
}

/// Every operation.
pub fn all_ops() -> Vec<Op> {
    let mut ops = core_ops();
    ops.extend([
        Op::Whole(2),
        Op::Partial(2),
        Op::IdleCommit,
        Op::PowerLoss(Kept::Everything),
    ]);
    ops
}

impl Plan {
    /// Every order of a few operations.
    pub fn interleavings(geometry: Geometry, max_len: usize) -> Self {
        Self {
            geometry,
            ops: all_ops(),
            max_len,
            orders: Orders::All,
        }
    }

    /// Some orders of more operations.
    pub fn policies(geometry: Geometry, ops: Vec<Op>, max_len: usize) -> Self {
        Self {
            geometry,
            ops,
            max_len,
            orders: Orders::Policies,
        }
    }

    /// Runs it; stops after the first violation if told so.
    pub fn run(&self, explorer: &mut Explorer, mutation: Option<Mutation>, stop: bool) {
        for len in 1..=self.max_len {
            let mut digits = vec![0; len];
            loop {
                let workload = digits.iter().map(|digit| self.ops[*digit]).collect();
                self.run_workload(explorer, workload, mutation);
                if stop && explorer.counts.violations > 0 {
                    return;
                }
                let radix = vec![self.ops.len(); len];
                match Schedule::after(&digits, &radix) {
                    Some(mut next) => {
                        next.resize(len, 0);
                        digits = next;
                    }
                    None => break,
                }
            }
        }
    }

    fn run_workload(&self, explorer: &mut Explorer, workload: Vec<Op>, mutation: Option<Mutation>) {
        let mut scenario = Scenario {
            geometry: self.geometry.name(),
            workload,
            schedule: Schedule::Choices(Vec::new()),
            mutation,
        };
        match self.orders {
            Orders::Policies => {
                for schedule in policies() {
                    scenario.schedule = schedule;
                    run(explorer, &self.geometry, &scenario);
                }
            }
            Orders::All => {
                let mut next = Some(Vec::new());
                while let Some(choices) = next {
                    scenario.schedule = Schedule::Choices(choices.clone());
                    let counts = run(explorer, &self.geometry, &scenario);
                    next = Schedule::after(&choices, &counts);
                }
            }
        }
    }
}

/// The first violation that a mutation leads to, and how many states were checked until then.
pub fn hunt(mutation: Mutation) -> (u64, Option<crate::explorer::Violation>) {
    let mut explorer = Explorer::new(BOUNDS);
    for max_len in 1..=3 {
        Plan::policies(Geometry::compact(), all_ops(), max_len).run(
            &mut explorer,
            Some(mutation),
            true,
        );
        if let Some(violation) = explorer.violations.pop() {
            return (explorer.counts.states, Some(violation));
        }
    }
    (explorer.counts.states, None)
}
