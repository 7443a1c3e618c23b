//! Every state that the machine can get into, whatever xenstore, the frontend, the hotplug script
//! and the daemon do, in whatever order: the rules hold on every step, and no device gets stuck.
//!
//! `world.rs` is one device with everything around it and checks each action as it is taken;
//! `explore.rs` walks through all worlds; `mutants.rs` breaks the machine to see that the walk finds
//! it. Scenarios spelled out step by step are in `../scenarios.rs`.

mod explore;
mod mutants;
mod world;

use xenstore_glue::machine::{DetachPolicy, Machine};

#[test]
fn no_sequence_of_events_breaks_a_rule_or_strands_a_device() {
    for policy in [DetachPolicy::WhenGuestAgrees, DetachPolicy::AtOnce] {
        let found = explore::explore::<Machine>(policy).unwrap_or_else(|broken| panic!("{broken}"));
        println!(
            "{policy:?}: explored {} states, {} steps",
            found.states, found.steps
        );
        assert!(found.states > 10_000, "{}", found.states);
    }
}

#[test]
fn broken_machines_are_found_out() {
    mutants::all_are_found_out();
}
