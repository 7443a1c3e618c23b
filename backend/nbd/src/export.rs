//! What a server offers.

use thiserror::Error;

use crate::wire::transmission as flag;

/// Longest name or description of an export in bytes: the protocol's limit for strings.
pub const NAME_BYTES_MAX: usize = 4096;

/// Most bytes of data in one request or reply, 32 MiB: the most that clients may count on, and that nobody needs more
/// of.
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// Sizes that requests must and should keep to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of this power of two, at most 64 KiB.
    pub minimum: u32,
    /// Requests in multiples of this power of two are served best. At least 512, and at most [`PAYLOAD_BYTES_MAX`].
    pub preferred: u32,
}

/// What an export can do. Flush, FUA and several connections are always offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Writes are refused. Trimming and zeroing are then not offered.
    pub read_only: bool,
    /// Ranges can be discarded.
    pub trim: bool,
    /// Ranges can be zeroed without sending zeros.
    pub write_zeroes: bool,
    /// Clients may ask to be refused if zeroing is not fast.
    pub fast_zero: bool,
}

/// What a client is told of the one export of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    name: String,
    description: String,
    size: u64,
    sizes: BlockSizes,
    features: Features,
}

/// Why something cannot be offered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ExportError {
    /// A string is longer than the protocol allows, or contains a NUL.
    #[error("cannot call an export {0:?}: names have at most {NAME_BYTES_MAX} bytes, and no NUL")]
    Name(String),
    /// The description is longer than the protocol allows, or contains a NUL.
    #[error(
        "cannot describe an export by {0:?}: descriptions have at most {NAME_BYTES_MAX} bytes, and no NUL"
    )]
    Description(String),
    /// The block sizes contradict the protocol or each other.
    #[error("cannot offer blocks of at least {} and preferably {} bytes", .0.minimum, .0.preferred)]
    Sizes(BlockSizes),
    /// The export is not a whole number of its smallest blocks.
    #[error("cannot export {size} bytes: not a multiple of {minimum}")]
    Ragged {
        /// Size of the export in bytes.
        size: u64,
        /// The smallest block in bytes.
        minimum: u32,
    },
}

impl Export {
    /// An export of `size` bytes. It is found by its name, and by the empty one.
    ///
    /// # Errors
    ///
    /// If the protocol does not allow what is described.
    pub fn new(
        name: String,
        description: String,
        size: u64,
        sizes: BlockSizes,
        features: Features,
    ) -> Result<Self, ExportError> {
        if !is_string(&name) {
            return Err(ExportError::Name(name));
        }
        if !is_string(&description) {
            return Err(ExportError::Description(description));
        }
        let BlockSizes { minimum, preferred } = sizes;
        let powers = minimum.is_power_of_two() && preferred.is_power_of_two();
        let in_bounds =
            minimum <= 1 << 16 && preferred >= minimum.max(512) && preferred <= PAYLOAD_BYTES_MAX;
        if !powers || !in_bounds {
            return Err(ExportError::Sizes(sizes));
        }
        if !size.is_multiple_of(minimum.into()) {
            return Err(ExportError::Ragged { size, minimum });
        }
        Ok(Self {
            name,
            description,
            size,
            sizes,
            features,
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is, for people.
    #[must_use]
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The sizes that requests keep to.
    #[must_use]
    pub fn sizes(&self) -> BlockSizes {
        self.sizes
    }

    /// What it can do.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether a client that asks for `name` means this export.
    pub(crate) fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }

    /// The transmission flags for a client that has or has not negotiated structured replies.
    pub(crate) fn flags(&self, structured: bool) -> u16 {
        let Features {
            read_only,
            trim,
            write_zeroes,
            fast_zero,
        } = self.features;
        let optional = [
            (read_only, flag::READ_ONLY),
            (trim && !read_only, flag::SEND_TRIM),
            (write_zeroes && !read_only, flag::SEND_WRITE_ZEROES),
            (
                fast_zero && write_zeroes && !read_only,
                flag::SEND_FAST_ZERO,
            ),
            (structured, flag::SEND_DF),
        ];
        let always = flag::HAS_FLAGS | flag::SEND_FLUSH | flag::SEND_FUA | flag::CAN_MULTI_CONN;
        optional
            .into_iter()
            .filter(|(offered, _)| *offered)
            .fold(always, |flags, (_, flag)| flags | flag)
    }
}

fn is_string(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX && !text.contains('\0')
}
