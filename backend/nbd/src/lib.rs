//! The NBD wire protocol, server side, without any I/O.
//!
//! The bytes of a connection travel in one direction through this crate:
//!
//! ```text
//! client's bytes --Negotiation::advance--> Session --Session::decode--> Request, fit to act upon
//!                                                                   --> Refusal, to be answered with an error
//! ```
//!
//! Replies are encoded by [`Session`] and [`reply`]. Whatever the client sends ends in a value, an error reply, or a
//! typed error after which the connection is to be closed; nothing is allocated because a client says so.
//!
//! The protocol is defined by the document `doc/proto.md` of the NBD project. Fixed newstyle negotiation, structured
//! replies and metadata contexts are in; TLS, extended headers and resizing are not. `docs/nbd.md` lists what is
//! supported and what is answered to what.
#![forbid(unsafe_code)]

mod context;
mod errno;
mod export;
mod negotiation;
mod read;
pub mod reply;
mod request;
mod session;
mod wire;

pub use context::{Context, Contexts, STATE_HOLE, STATE_ZERO};
pub use errno::ErrorCode;
pub use export::{BlockSizes, Export, ExportError, Features, NAME_BYTES_MAX, PAYLOAD_BYTES_MAX};
pub use negotiation::{
    Advance, GREETING_BYTES, Negotiation, NegotiationError, OPTION_BYTES_MAX, OPTIONS_MAX, Outcome,
};
pub use request::{
    ByteRange, Command, Cookie, Decoded, HEADER_BYTES, Reason, Refusal, Request, RequestError,
};
pub use session::Session;

#[cfg(test)]
mod tests;
