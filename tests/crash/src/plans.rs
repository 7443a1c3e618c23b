//! The plans of `make crash`.

use crate::campaign::{BOUNDS, Failing, Orders, Plan};
use crate::explorer::{Seen, Violation};
use crate::mutation::Mutation;

/// What writes can do to each other.
const WRITES: &str = "whole0 whole1 part0 span0 flush reopen loss whole2 part2 idle loss-all-kept";
/// The same with everything else that changes the disk.
const CHANGES: &str = "whole0 part1 span0 zero-whole1 zero-span0 discard-whole0 discard-ragged1 holes0 holes1 flush \
                       reopen loss";
const BARRIERS: &str =
    "whole0 part1 zero-whole0 barrier-whole1 barrier-part0 barrier flush loss-all-kept";
const GROWTH: &str = "whole1 tail1 part2 zero-whole1 grow flush reopen loss";
const EVERYTHING: &str = "whole0 part0 span0 part1 whole2 zero-whole0 zero-span0 discard-ragged0 holes0 barrier-part1 \
                          barrier flush idle give-up reopen kill loss loss-all-kept";
const FAILING: &str = "whole0 part0 span0 discard-whole0 barrier-part1 flush reopen kill";
const FAILING_FEW: &str = "part0 span0 barrier-part1 flush reopen";
const FEW: &str = "whole0 part0 span0 discard-ragged0 flush reopen";
const FEWEST: &str = "part0 span0 zero-whole0 flush";
const RMW: &str = "whole0 part0 half0 tail0 span0 zero-part0 discard-whole1 holes0 barrier-part1 flush reopen loss";

const fn plan(geometry: &'static str, ops: &'static str, len: (u32, u32)) -> Plan {
    Plan {
        geometry,
        ops,
        len,
        orders: Orders::Some,
        failing: Failing::Nothing,
    }
}

const fn all_orders(plan: Plan) -> Plan {
    Plan {
        orders: Orders::All,
        ..plan
    }
}

const fn failing(plan: Plan) -> Plan {
    Plan {
        failing: Failing::EachAction,
        ..plan
    }
}

const UNITS: &str = "whole0 part0 half0 tail0 zero-part0 flush";

/// The whole enumeration.
pub fn all() -> Vec<Plan> {
    vec![
        all_orders(plan("compact", WRITES, (1, 3))),
        all_orders(plan("compact", CHANGES, (1, 3))),
        all_orders(plan("compact", BARRIERS, (1, 3))),
        all_orders(plan("spread", WRITES, (1, 2))),
        all_orders(plan("growing", GROWTH, (1, 3))),
        plan("compact", WRITES, (4, 4)),
        plan("compact", BARRIERS, (4, 4)),
        plan("compact", FEW, (4, 5)),
        plan("compact", FEWEST, (6, 6)),
        plan("spread", CHANGES, (1, 3)),
        plan("aligned", RMW, (1, 3)),
        plan("aligned", UNITS, (4, 4)),
        plan("chain", CHANGES, (1, 3)),
        plan("growing", GROWTH, (4, 5)),
        failing(plan("compact", EVERYTHING, (1, 2))),
        failing(plan("compact", FAILING, (3, 3))),
        failing(plan("compact", FAILING_FEW, (4, 4))),
        failing(plan("spread", CHANGES, (1, 2))),
        failing(plan("growing", GROWTH, (1, 3))),
        failing(plan("aligned", RMW, (1, 2))),
    ]
}

/// A minute of it in a build that is not optimized.
#[cfg(test)]
pub(crate) fn short() -> Vec<Plan> {
    vec![
        all_orders(plan("compact", EVERYTHING, (1, 1))),
        plan("compact", FEWEST, (2, 3)),
        plan("compact", WRITES, (2, 2)),
        plan("compact", BARRIERS, (2, 2)),
        plan("spread", FEW, (1, 1)),
        plan("aligned", RMW, (1, 1)),
        plan("chain", FEW, (1, 1)),
        plan("growing", GROWTH, (1, 2)),
        failing(plan("compact", EVERYTHING, (1, 1))),
    ]
}

/// The plans that look for the violation of a broken rule, the short ones first.
fn hunts() -> Vec<Plan> {
    vec![
        plan("compact", EVERYTHING, (1, 2)),
        plan("growing", GROWTH, (1, 3)),
        plan("aligned", RMW, (1, 2)),
        plan("chain", CHANGES, (1, 2)),
        failing(plan("compact", EVERYTHING, (1, 2))),
        plan("compact", BARRIERS, (3, 3)),
        plan("compact", WRITES, (3, 3)),
        plan("aligned", UNITS, (3, 4)),
        failing(plan("spread", CHANGES, (1, 2))),
        failing(plan("growing", GROWTH, (1, 3))),
        plan("growing", GROWTH, (4, 5)),
        failing(plan("compact", FAILING, (3, 4))),
    ]
}

/// The first violation that a broken rule, or a broken engine, leads to, and how many states were checked until then.
pub fn hunt(mutation: Option<Mutation>) -> (u64, Option<Violation>) {
    let seen = Seen::default();
    let mut states = 0;
    for plan in hunts() {
        let mut outcome = plan.hunt(BOUNDS, &seen, mutation);
        states += outcome.counts.states;
        if !outcome.violations.is_empty() {
            return (states, Some(outcome.violations.swap_remove(0)));
        }
    }
    (states, None)
}
