//! Measures cowback against raw files and qemu-nbd, side by side.
//!
//! [`direct`] drives an image through the engine and an executor alone; [`pattern`] says what is asked of every peer.

#![forbid(unsafe_code)]

pub mod device;
pub mod direct;
pub mod pattern;
