//! Serves one disk to any number of NBD clients, on a worker thread that may serve other disks too.
//!
//! [`Clients`] have neither a thread nor a disk of their own: whoever owns the executor and the disk hands them the events that
//! are about them, and lets them [settle](Clients::settle) after each round. So a disk can have other users besides, such as
//! a guest. An [`Export`] is a disk that has only such clients, and [`run`] the loop of a process with one export.
//!
//! ```text
//! socket ─▶ Inbound: one recv for many requests, data of writes straight into aligned memory
//!   ─▶ nbd::Session::decode: validated                                     (nbd)
//!   ─▶ Disk::submit ─▶ engine ─▶ executor                                  (blockio, dscow)
//!   ─▶ Finished ─▶ Outbound: all replies of a round in one sendmsg, data from where it was read to
//! ```
//!
//! Clients are hostile. Each has a bounded number of requests and bytes in flight; one that does not read its replies
//! is not read from, and holds up nobody else. What a client may be told and do is the business of `nbd`.
#![forbid(unsafe_code)]

mod clients;
mod connection;
mod export;
mod inbound;
mod listen;
mod outbound;
mod run;
mod service;
mod status;
mod watch;

pub use clients::{Clients, Offer, Statistics};
pub use export::{Export, Status};
pub use listen::{ListenError, Socket};
pub use nbd::ExportError;
pub use run::{RunError, Until, run};

#[cfg(test)]
mod tests;
