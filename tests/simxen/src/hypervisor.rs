//! The simulated hypervisor: domains with memory and grants, event channels, and the account of who uses them.

mod account;
mod channel;
mod domain;
mod pages;
mod state;

pub use account::BackendAccount;
pub use channel::EventChannel;
pub use domain::{Access, Domain};
pub(crate) use state::Hypervisor;
