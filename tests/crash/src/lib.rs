//! Enumerates the states in which a power failure can leave an image, and checks every one.
//!
//! The production engine runs over a simulated disk with a volatile cache ([`disk`]). After every event of a run
//! ([`run`]) the states that a crash at that moment can leave are enumerated ([`tear`]); each is opened as
//! production opens an image and read through the engine ([`reopen`]), and what is read is compared with what the
//! guest was promised ([`oracle`], [`promise`]). [`plans`] says which runs there are, and [`mutation`] breaks one rule
//! at a time between the engine and the disk, to show that the check would notice.

#![forbid(unsafe_code)]

mod base;
mod buffers;
pub mod campaign;
mod content;
mod disk;
mod driver;
pub mod explorer;
pub mod fault;
pub mod geometry;
pub mod mutation;
mod oracle;
pub mod plans;
mod promise;
mod reopen;
mod run;
pub mod schedule;
mod tear;
pub mod workload;

#[cfg(test)]
mod tests;
