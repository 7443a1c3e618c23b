//! Xen's ways of giving a disk to a guest, compared: from what `tests/xen/bench` has measured to a report.
//!
//! - [`sample`]: what one measurement left; [`work`]: what was done in it.
//! - [`report`]: the comparisons; [`counts`]: entries into the kernel and Xen; [`collect`] reads both, [`render`] shows them.

pub mod collect;
pub mod counts;
pub mod render;
pub mod report;
pub mod sample;
pub mod work;
