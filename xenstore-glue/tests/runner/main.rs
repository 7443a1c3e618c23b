//! The runner against a small xenstored that speaks the wire protocol.

mod fake;
mod host;
mod life;
mod traps;
