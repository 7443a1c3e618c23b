//! Discovery of vbd devices in xenstore and the xenbus state machine.
//!
//! The crate has two halves. [`machine`] and [`frontend`] are pure: the life of one device as a
//! function of events to actions, and the checks on what a frontend writes. [`runner`] is the edge:
//! it keeps a [`machine::Machine`] per device, feeds it from xenstore's watches and from the daemon's
//! reports, and turns its actions into xenstore writes and [`runner::Order`]s.
#![forbid(unsafe_code)]

pub mod frontend;
pub mod machine;
pub mod runner;
mod types;

pub use types::{
    DevId, DeviceClass, DeviceId, DiskProperties, DomId, EventChannel, GrantRef, ParseIdError,
    XenbusState,
};
