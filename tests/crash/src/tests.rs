//! The enumeration with a small bound, and one violation that is known.

use crate::campaign::{BOUNDS, Plan, core_ops, hunt};
use crate::explorer::{Explorer, Scenario};
use crate::geometry::Geometry;
use crate::mutation::Mutation;
use crate::run::run;

#[test]
fn no_crash_state_of_a_short_workload_breaks_a_promise() {
    let mut explorer = Explorer::new(BOUNDS);
    Plan::interleavings(Geometry::compact(), 1).run(&mut explorer, None, false);
    Plan::policies(Geometry::compact(), core_ops(), 2).run(&mut explorer, None, false);
    Plan::policies(Geometry::spread(), core_ops(), 1).run(&mut explorer, None, false);
    assert_eq!(explorer.violations, []);
    assert!(explorer.counts.states > 10_000, "{:?}", explorer.counts);
}

#[test]
fn a_broken_rule_is_noticed() {
    for mutation in [
        Mutation::NoDataSync,
        Mutation::NoBitmapSync,
        Mutation::NoPageCopy,
        Mutation::HeaderInOneSlot,
    ] {
        let (_, violation) = hunt(mutation);
        assert!(violation.is_some(), "{mutation:?} was not noticed");
    }
}

#[test]
fn what_a_violation_prints_reproduces_it() {
    let (_, violation) = hunt(Mutation::NoPageCopy);
    let printed = violation.expect("it is noticed").scenario.to_string();
    assert_eq!(
        printed,
        "compact whole0 whole1 flush @ 2,oldest ! NoPageCopy"
    );
    let scenario: Scenario = printed.parse().expect("it is a scenario");
    let mut explorer = Explorer::new(BOUNDS);
    run(&mut explorer, &Geometry::compact(), &scenario);
    assert!(explorer.counts.violations > 0);
}

#[test]
fn a_list_of_choices_is_a_scenario() {
    let text = "spread whole0 part2 span0 idle reopen loss-all-kept loss flush @ choices,0,12,1";
    let scenario: Scenario = text.parse().expect("it is a scenario");
    assert_eq!(scenario.to_string(), text);
}
