//! The edge: drives a [`Machine`](crate::machine::Machine) per device from xenstore's watches, the
//! daemon's reports and the hotplug script's requests.
//!
//! One task does everything, one event after the other, so that a device is never looked at while it
//! is being written. Each event costs a bounded number of xenstore round trips whatever the number
//! of devices.

mod api;
mod config;
mod connection;
mod device;
mod discovery;
mod kernel;
mod main_loop;
mod perform;
mod store;
mod watch;

pub use api::{
    BackendConfig, Channels, DeviceMode, DeviceStatus, Handle, HandleError, Order, Report,
    RunnerConfig, RunnerError,
};
pub use connection::Connection;
pub use main_loop::Runner;
