//! Arbitrary bytes, arbitrary requests and arbitrary faults, fed to the product.
//!
//! Each target is a function of bytes. libFuzzer drives them with bytes that it makes from those that reached something
//! new before (`tests/fuzz/run`); the tests of this crate drive them with the bytes that were kept in `corpus/`, and
//! with random ones. A target panics if it sees what must not happen.

#![forbid(unsafe_code)]

mod chain;
mod files;
mod frontend_nodes;
mod header;
mod image;
mod in_memory;
mod model;
mod nbd;
mod nbd_client;
mod ring;
mod run;
mod script;
mod slots;
mod stamp;
#[cfg(test)]
mod tests;
mod world;
mod xenbus;

pub use files::disk;
pub use header::header;
pub use image::image;
pub use in_memory::engine;
pub use nbd::nbd;
pub use ring::ring;
pub use xenbus::xenbus;

/// A target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("disk", disk),
    ("engine", engine),
    ("header", header),
    ("image", image),
    ("nbd", nbd),
    ("ring", ring),
    ("xenbus", xenbus),
];

/// The target of that name.
pub fn target(name: &str) -> Option<fn(&[u8])> {
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    found.map(|(_, run)| *run)
}
