//! What a block device has done, by the kernel's own count.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Counts since the device was made, or between two readings of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCounts {
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Flushes of its cache.
    pub flushes: u64,
}

impl DeviceCounts {
    /// Reads the counts from a device's `stat` in /sys/block.
    ///
    /// # Errors
    /// If the file cannot be read or is not such a file.
    pub fn read(stat: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(stat)?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{}: not a block device's stat", stat.display()),
            )
        })
    }

    /// The counts in the text of a `stat` file: fields 3 and 7 are sectors of 512 bytes, field 16 counts flushes
    /// (Documentation/block/stat.rst of Linux).
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<u64> = text
            .split_ascii_whitespace()
            .map_while(|field| field.parse().ok())
            .collect();
        Some(Self {
            bytes_read: fields.get(2)?.checked_mul(512)?,
            bytes_written: fields.get(6)?.checked_mul(512)?,
            flushes: *fields.get(15)?,
        })
    }

    /// What was done after `earlier` was read.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            bytes_read: self.bytes_read - earlier.bytes_read,
            bytes_written: self.bytes_written - earlier.bytes_written,
            flushes: self.flushes - earlier.flushes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_in_their_fields() {
        let text = "  105667  9944  8239511  133345  207453  91999  42077915  206476  0  29212  348484  91118  50  \
                    2709528  8028  16608  634\n";
        let expected = DeviceCounts {
            bytes_read: 8_239_511 * 512,
            bytes_written: 42_077_915 * 512,
            flushes: 16_608,
        };
        assert_eq!(DeviceCounts::parse(text), Some(expected));
        assert_eq!(DeviceCounts::parse("1 2 3"), None);
    }

    #[test]
    fn differences_are_field_by_field() {
        let counts = |read, written, flushes| DeviceCounts {
            bytes_read: read,
            bytes_written: written,
            flushes,
        };
        assert_eq!(
            counts(10, 200, 3000).since(counts(1, 20, 300)),
            counts(9, 180, 2700)
        );
    }
}
