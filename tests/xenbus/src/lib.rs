//! One vbd device with everything around it, and the rules that its xenbus machine must keep.
//!
//! `world.rs` is the device, its two xenstore directories, the toolstack, the hotplug script and the daemon, and what can
//! happen there; `rules.rs` checks each action of the machine as it is taken, and what has come of it. `explore.rs` walks
//! through all worlds; the tests do that, and break the machine to see that the walk finds it. The fuzzer drives the same
//! world further than a walk can go.
#![forbid(unsafe_code)]

mod explore;
mod rules;
mod step;
#[cfg(test)]
mod tests;
mod world;

pub use explore::{Found, ends_well, explore};
pub use step::{Step, Stray, Writes};
pub use world::{DISK, STATES, Subject, World};

/// What is wrong, if anything.
pub type Checked = Result<(), String>;
