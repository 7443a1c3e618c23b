//! Every state that the machine can get into, whatever xenstore, the frontend, the hotplug script
//! and the daemon do, in whatever order: the rules hold on every step, and no device gets stuck.

mod mutants;

use xenstore_glue::machine::{DetachPolicy, Machine};

use crate::explore::{self, Found};

fn no_rule_is_broken(policy: DetachPolicy) {
    let found = explore::explore::<Machine>(policy).unwrap_or_else(|broken| panic!("{broken}"));
    let Found { states, steps } = found;
    println!("{policy:?}: explored {states} states, {steps} steps");
    // Fewer would mean that something has stopped happening.
    assert!(states > 100_000, "{states}");
}

#[test]
fn no_sequence_of_events_breaks_a_rule_or_strands_a_device() {
    no_rule_is_broken(DetachPolicy::WhenGuestAgrees);
}

#[test]
fn nor_does_any_when_disks_are_detached_at_once() {
    no_rule_is_broken(DetachPolicy::AtOnce);
}

#[test]
fn broken_machines_are_found_out() {
    mutants::all_are_found_out();
}
