//! What the daemon says of its disks over the control API, and how it is asked to serve them, as both ends have it.
#![forbid(unsafe_code)]

mod disk;
mod latency;

pub use disk::{Disk, OnEnospc, Policies, Statistics};
pub use latency::{Latencies, Latency};
