//! Measures cowback against raw files and qemu-nbd, side by side.
//!
//! - [`pattern`]: what is asked of every contender; [`fio`] and [`direct`] ask it.
//! - [`contender`], [`server`]: who is measured, and how each is set up; [`site`]: where.
//! - [`throughput`], [`alone`], [`chain`], [`opening`], [`space`]: what is measured; [`suite`] does all of it.
//! - [`rings`], [`disks`], [`profile`]: the same of the whole daemon, on a simulated host ([`rig`]).
//! - [`xen`]: the same for disks of guests on Xen, which `tests/xen/bench` measures.
//! - [`report`], [`render`]: what was found, and how it is shown.

#![forbid(unsafe_code)]
// Counts and times become figures for people, which need no more digits than a float has.
#![allow(clippy::cast_precision_loss)]

pub mod alone;
pub mod chain;
pub mod contender;
pub mod device;
pub mod direct;
pub mod disks;
pub mod error;
pub mod fio;
pub mod host;
pub mod inside;
pub mod null;
pub mod opening;
pub mod pattern;
pub mod profile;
pub mod render;
pub mod report;
pub mod rig;
pub mod rings;
pub mod scale;
pub mod server;
pub mod site;
pub mod space;
pub mod stats;
pub mod strategies;
pub mod suite;
pub mod throughput;
pub mod tool;
pub mod xen;
