//! The enumeration with a small bound, and a known violation of each broken rule.

use crate::campaign::{Plan, core_ops};
use crate::explorer::{Explorer, Scenario};
use crate::geometry::Geometry;
use crate::mutation::Mutation;
use crate::run::run;
use crate::tear::Bounds;

/// Small: these tests are not optimized.
const BOUNDS: Bounds = Bounds { all: 64 };

#[test]
fn no_crash_state_of_a_short_workload_breaks_a_promise() {
    let mut explorer = Explorer::new(BOUNDS);
    Plan::interleavings(Geometry::compact(), 1).run(&mut explorer, None, false);
    Plan::policies(Geometry::compact(), core_ops(), 2).run(&mut explorer, None, false);
    Plan::policies(Geometry::spread(), core_ops(), 1).run(&mut explorer, None, false);
    assert_eq!(explorer.violations, []);
    assert!(explorer.counts.states > 1_000, "{:?}", explorer.counts);
}

/// One scenario for each mutation, as the whole enumeration found it.
const CAUGHT: [&str; 21] = [
    "compact whole0 flush @ 1,oldest ! NoDataSync",
    "compact whole0 flush @ 1,oldest ! NoBitmapSync",
    "compact whole0 reopen @ 1,oldest ! NoBitmapSyncAtClose",
    "compact whole0 reopen whole0 @ 1,oldest ! NoOpenHeaderSync",
    "compact reopen @ 1,oldest ! NoCloseHeaderSync",
    "compact reopen @ 1,oldest ! NoSync",
    "compact whole0 whole1 flush @ 2,oldest ! NoPageCopy",
    "compact whole0 flush @ 1,oldest ! BitmapBeforeDataSync",
    "compact whole0 flush @ 1,oldest ! NoBitmapWrite",
    "compact whole0 reopen @ 2,newest ! NoBitmapWriteAtClose",
    "compact whole0 reopen @ 2,newest ! WriteReportedEarly",
    "compact whole0 flush @ 1,oldest ! FlushReportedEarly",
    "compact whole0 flush @ 1,oldest ! FlushReportedAtOnce",
    "compact whole0 @ 1,oldest ! HeaderInOneSlot",
    "compact whole0 flush @ 1,oldest ! GenerationNotRaised",
    "compact whole0 @ 1,oldest ! NoSyncBetweenSlots",
    "compact part0 flush @ 1,oldest ! CopyUpWritesGuestSectorsOnly",
    "compact part0 flush @ 1,oldest ! CopyUpWithoutOverlay",
    "compact part0 flush @ 1,oldest ! CopyUpWithoutRead",
    "compact part2 flush @ 1,oldest ! CopyUpWithoutZeros",
    "compact whole0 flush @ 1,oldest ! DataMisplaced",
];

#[test]
fn a_broken_rule_is_noticed_and_the_rule_is_why() {
    for (text, mutation) in CAUGHT.into_iter().zip(Mutation::ALL) {
        let mut scenario: Scenario = text.parse().expect("it is a scenario");
        assert_eq!(scenario.to_string(), text);
        assert_eq!(scenario.mutation, Some(mutation));
        assert!(violations(&scenario) > 0, "{text}");
        scenario.mutation = None;
        assert_eq!(violations(&scenario), 0, "{text}");
    }
}

fn violations(scenario: &Scenario) -> u64 {
    let mut explorer = Explorer::new(BOUNDS);
    run(&mut explorer, &Geometry::compact(), scenario);
    explorer.counts.violations
}

#[test]
fn a_list_of_choices_is_a_scenario() {
    let text = "spread whole0 part2 span0 idle reopen loss-all-kept loss flush @ choices,0,12,1";
    let scenario: Scenario = text.parse().expect("it is a scenario");
    assert_eq!(scenario.to_string(), text);
}
