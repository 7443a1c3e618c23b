//! What a killed daemon leaves behind, for the next one to go on where it stopped: the requests that it took from the
//! rings and did not answer, and the blocks that it allocated and whose bits may not be in the image yet.
//!
//! It lies in memory that belongs to files, on a file system in memory: it outlives the process, and not the host.
#![deny(unsafe_code)]

pub mod fail_point;
mod journal;
mod layout;
mod mapping;
mod state;
mod words;

pub use journal::{Journal, Left, Mismatch, Place, REQUEST_BYTES, RING_SLOTS_MAX, Taken};
pub use layout::QUEUES_MAX;
pub use state::{Identity, Ring, RunState, RunStateError, path_of};
pub use words::Words;
