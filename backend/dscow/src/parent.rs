//! What an image says about the image it is an overlay of.

use std::path::PathBuf;

use uuid::Uuid;

/// The parent of an image, as its header records it.
///
/// Whatever identifies the content is recorded when the overlay is made, and compared at every open: an
/// overlay over a base that has changed since is a corrupt disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parent {
    /// A raw file or block device.
    Raw {
        /// As given when the overlay was made; a relative path starts at the overlay's folder.
        path: PathBuf,
        /// Size in bytes.
        size: u64,
        /// SHA-256 over samples of the content, see [`crate::fingerprint`].
        fingerprint: [u8; 32],
        /// Last modification of a regular file; `None` for a block device, which has none.
        modified: Option<Modified>,
    },
    /// Another dscow image.
    Dscow {
        /// As given when the overlay was made; a relative path starts at the overlay's folder.
        path: PathBuf,
        /// Size of its virtual disk in bytes.
        size: u64,
        /// Its UUID.
        uuid: Uuid,
        /// Its generation: it counts up each time the image is opened for writing.
        generation: u64,
    },
}

impl Parent {
    /// The path as given.
    pub fn path(&self) -> &std::path::Path {
        match self {
            Self::Raw { path, .. } | Self::Dscow { path, .. } => path,
        }
    }

    /// Size of the parent's disk in bytes, as recorded.
    pub fn size(&self) -> u64 {
        match self {
            Self::Raw { size, .. } | Self::Dscow { size, .. } => *size,
        }
    }

    /// `raw` or `dscow`.
    pub fn format_name(&self) -> &'static str {
        match self {
            Self::Raw { .. } => "raw",
            Self::Dscow { .. } => "dscow",
        }
    }
}

/// A file's time of last modification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modified {
    /// Seconds since 1970.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}
