//! The dscow image format and its copy-on-write engine, without any I/O.
//!
//! A dscow image is an overlay over a base, kept by an identity mapping and a bitmap: if bit X is set,
//! block X lives at its own position after the metadata; if not, it is read from the base. The idea is
//! Dan Smith's dm-userspace "dscow" format (xen-devel, 29 August 2006); docs/image-format.md describes
//! version 2, which this crate implements.
//!
//! Nothing here touches a file descriptor, a clock or a thread. [`header`], [`layout`] and [`bitmap`] turn
//! bytes into checked values and back; [`engine`] is a state machine that takes requests and completions
//! and returns actions for a driver to perform.

#![forbid(unsafe_code)]

pub mod bitmap;
pub mod engine;
pub mod fingerprint;
pub mod header;
pub mod layout;
pub mod parent;
pub mod parents;
pub mod size;
pub mod units;
