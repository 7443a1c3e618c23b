//! Long work on whole disks that nobody else has open: copying, comparing, merging.
//!
//! All of it blocks the thread that calls it, and keeps several requests in flight through an executor of its own. It can
//! be killed at any moment: what is read is never changed, what is written is an image that is valid at every
//! moment, or a new file that has no name yet. Begun again, it ends as if it had not been interrupted.

mod commit;
mod compare;
mod convert;
mod diff;
mod granules;
mod pipeline;
mod rebase;
mod resize;
mod session;
mod sweep;
#[cfg(test)]
mod tests;
mod volume;

pub use commit::{Committed, commit};
pub use convert::{Converted, Target, convert};
pub use diff::{Comparison, Difference, diff};
pub use rebase::{Rebased, rebase};
pub use resize::{Resized, resize};
pub use volume::Volume;

/// Hears how far the work is.
pub trait Progress {
    /// A step begins: what it does, and over how many bytes of the disk it goes.
    fn begin(&mut self, step: &'static str, total_bytes: u64);

    /// So many bytes more are done.
    fn advance(&mut self, bytes: u64);
}

/// Does not want to hear anything.
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _step: &'static str, _total_bytes: u64) {}

    fn advance(&mut self, _bytes: u64) {}
}
