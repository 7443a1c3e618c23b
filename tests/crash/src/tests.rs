//! The enumeration with a small bound, and a known violation of each broken rule.

use crate::campaign::reproduce;
use crate::explorer::{Scenario, Seen};
use crate::mutation::Mutation;
use crate::plans;
use crate::tear::Bounds;

/// Small: these tests are not optimized.
const BOUNDS: Bounds = Bounds { all: 64 };

#[test]
fn no_crash_state_of_a_short_workload_breaks_a_promise() {
    let mut states = 0;
    let seen = Seen::default();
    for plan in plans::short() {
        let outcome = plan.run(BOUNDS, &seen);
        assert_eq!(outcome.violations, []);
        states += outcome.counts.states;
    }
    assert!(states > 10_000, "{states}");
}

/// One scenario for each mutation, as the whole enumeration found it.
const CAUGHT: [&str; 34] = [
    "compact barrier-part1 @ 1,oldest ! NoDataSync",
    "compact barrier-part1 @ 1,oldest ! NoBitmapSync",
    "compact whole0 reopen @ 1,oldest ! NoBitmapSyncAtClose",
    "compact whole0 @ 1,oldest ! NoOpenHeaderSync",
    "compact reopen @ 1,oldest ! NoCloseHeaderSync",
    "compact whole0 @ 1,oldest ! NoSync",
    "compact whole0 whole1 flush @ 2,oldest ! NoPageCopy",
    "compact whole0 barrier-part1 @ 1,oldest ! BitmapBeforeDataSync",
    "compact barrier-part1 @ 1,oldest ! NoBitmapWrite",
    "compact whole0 reopen @ 1,oldest ! NoBitmapWriteAtClose",
    "compact barrier-part1 @ 2,newest ! WriteReportedEarly",
    "compact whole0 flush @ 1,oldest ! FlushReportedEarly",
    "compact whole0 flush @ 1,oldest ! FlushReportedAtOnce",
    "compact reopen @ 1,oldest fail7 ! HeaderNotWrittenAgain",
    "compact whole0 @ 1,oldest ! HeaderInOneSlot",
    "compact barrier-part1 @ 1,oldest ! GenerationNotRaised",
    "compact whole0 @ 1,oldest ! NoSyncBetweenSlots",
    "compact barrier-part1 @ 1,oldest ! CopyUpWritesGuestSectorsOnly",
    "compact barrier-part1 @ 1,oldest ! CopyUpWithoutOverlay",
    "compact barrier-part1 @ 1,oldest ! CopyUpWithoutRead",
    "compact whole2 barrier-part1 @ 1,oldest ! CopyUpWithoutZeros",
    "compact barrier-part1 @ 1,oldest ! DataMisplaced",
    "compact zero-whole0 barrier-part1 @ 1,oldest ! ZeroingSkipped",
    "compact zero-whole0 barrier-part1 @ 2,newest ! ZeroingReportedEarly",
    "growing grow @ 1,oldest ! LengthNotSet",
    "growing grow @ 1,oldest ! NoLengthSync",
    "growing grow @ 1,oldest ! NoGrowHeaderSync",
    "growing grow @ 1,oldest ! GrownWithoutParentLimit",
    "compact barrier-part1 @ 1,oldest fail8 ! FailedWriteHidden",
    "compact barrier-part1 @ 1,oldest refuse10 ! FailedBitmapWriteHidden",
    "compact whole0 @ 1,oldest fail3 ! FailedSyncHidden",
    "compact barrier-part1 @ 1,oldest fail7 ! FailedReadHidden",
    "compact barrier-part1 @ 1,oldest full8 ! NoSpaceHidden",
    "compact barrier-part1 @ 1,oldest full8 ! RetryDropped",
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
    reproduce(BOUNDS, scenario).counts.violations
}

#[test]
fn what_the_documents_reproduce_is_a_violation_if_a_rule_is_broken_in_it() {
    let document = include_str!("../../../docs/testing.md");
    let examples: Vec<&str> = document
        .split("-p crash -- --reproduce '")
        .skip(1)
        .filter_map(|rest| rest.split('\'').next())
        .collect();
    assert!(examples.len() >= 3, "{examples:?}");
    for text in examples {
        let scenario: Scenario = text.parse().expect("it is a scenario");
        let is_broken = scenario.mutation.is_some();
        assert_eq!(violations(&scenario) > 0, is_broken, "{text}");
    }
}

#[test]
fn every_kind_of_operation_schedule_and_fault_is_written_as_it_is_read() {
    for text in [
        "spread whole0 part2 span0 idle reopen loss-all-kept loss flush @ choices,0,12,1",
        "aligned half1 tail0 ragged0 holes0 zero-part1 discard-span0 @ 2,newest fail3",
        "growing barrier-whole1 barrier grow give-up kill @ 9,sync-last refuse0 full7",
    ] {
        let scenario: Scenario = text.parse().expect("it is a scenario");
        assert_eq!(scenario.to_string(), text);
    }
}
