//! Shows on real file systems that no loss of power breaks a promise.
//!
//! A workload runs on an image through the production path ([`workload`], [`plan`]), over the kernel's `log-writes` target
//! of device mapper, and keeps a [`journal`] of what it did. Then the log that the target wrote ([`mod@log`]) is replayed,
//! and in each state that a loss of power can leave ([`states`]) the file system is mounted, the image opened as the
//! daemon opens one ([`place`]), and every sector compared with what was promised ([`oracle`]). [`campaign`] goes through
//! all of it. [`sabotage`] breaks a rule of order, to show that it would be noticed.
//!
//! The same works without device mapper, for an image in a file: [`recorder`] writes a log of the same format.
//!
//! Commands on images that nobody has open ([`offline`]) change several files, by calls of their own. Of them `strace` keeps
//! the log: see `tests/offline`.

pub mod campaign;
pub mod content;
pub mod error;
pub mod journal;
pub mod log;
pub mod mark;
pub mod offline;
pub mod oracle;
pub mod place;
pub mod plan;
mod random;
pub mod recorder;
pub mod replay;
pub mod sabotage;
mod session;
pub mod states;
pub mod workload;

#[cfg(test)]
mod tests;
