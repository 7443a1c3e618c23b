//! The Xen blkif wire protocol, backend side: rings, requests, responses.
//!
//! A request travels in one direction through this crate:
//!
//! ```text
//! shared page --copied out once--> RawSlot --decode--> RawRequest --validate--> Request
//! ```
//!
//! Only [`Request`] is fit to act upon: everything before it is what the guest wrote. A request that
//! fails validation is a [`Rejection`], which knows the response that the guest must get.
//!
//! The protocol is defined by Xen's public headers `io/blkif.h`, `io/ring.h` and `io/protocols.h`;
//! where they leave room, the behaviour of Linux's xen-blkback is followed. `docs/blkif.md` lists what
//! is supported and what is answered to what.
//!
//! [`frontend`] is the other half of the ring, for simulated guests.
#![deny(unsafe_code)]

mod back;
pub mod frontend;
mod limits;
mod raw;
mod request;
mod response;
mod ring;
mod shared;
mod units;
mod wire;

pub use back::BackRing;
pub use limits::{Discard, Features, Limits, LimitsError, SectorSize};
pub use raw::{RawRequest, RawSegment};
pub use request::{
    IndirectRequest, Operation, Reason, Rejection, Request, Segment, Segments, TransferDirection,
};
pub use response::{Response, Status};
pub use ring::RingError;
#[cfg(feature = "interposed")]
pub use shared::Interposed;
pub use shared::{LocalMemory, SharedMemory};
pub use units::{GrantRef, Sector};
pub use wire::{
    Abi, INDIRECT_PAGES_MAX, PAGE_SIZE, RING_PAGES_MAX, RawSlot, SEGMENTS_PER_INDIRECT_PAGE,
    SEGMENTS_PER_REQUEST_MAX, SLOT_BYTES, UnknownProtocol, operation,
};

#[cfg(test)]
mod tests;
