//! The way between a backend's process and the simulated hypervisor.

mod server;
pub mod wire;

pub(crate) use server::Server;
