//! Images on disk: creating, opening with all their parents, and checking them.
//!
//! The format itself is `dscow`'s; here its bytes meet files and locks. All of this blocks, and belongs on
//! control paths.

mod bitmap_memory;
mod chain;
mod check;
mod create;
mod device;
mod error;
mod grow;
mod header_file;
mod inspect;
mod merge;
mod open;
mod parent;
mod siblings;
#[cfg(test)]
mod tests;

pub use check::{CheckReport, LostBlocks, Problem, Repair, RepairReport, check, repair};
pub(crate) use create::create_to_fill;
pub use create::{CreateOptions, ParentFormat, create};
pub(crate) use device::refuse_content;
pub use error::{DeviceContent, ImageError, ParentChange};
pub use grow::prepare_growth;
pub use inspect::{Below, Content, Inspection, header, inspect};
pub(crate) use merge::{Merge, Target};
pub use open::{Image, ImageAccess, Layer};
pub use parent::{identify_parent, record_parent};
pub(crate) use parent::{is_dscow, raw_size, replace_parent};

/// Most images in a chain, the overlay included.
pub const CHAIN_DEPTH_MAX: usize = 64;
