//! Where a sparse file has data.

use std::io;
use std::ops::Range;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::BlockFile;

/// A range of a file that may hold data; everything outside of the extents of a file reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it starts, in bytes.
    pub offset: u64,
    /// How many bytes it has; never 0.
    pub len: u64,
}

/// Iterates over the extents of a file. See [`BlockFile::extents`].
#[derive(Debug)]
pub struct Extents<'a> {
    file: &'a BlockFile,
    /// Where to look next; `end` when finished.
    at: u64,
    end: u64,
}

impl BlockFile {
    /// The extents that hold data, in order, up to the present size. A file system without that knowledge, and a
    /// block device, answer with one extent for everything.
    ///
    /// # Errors
    ///
    /// If the size is not known. Each item may fail on its own; nothing follows a failure.
    pub fn extents(&self) -> io::Result<Extents<'_>> {
        self.extents_within(0..u64::MAX)
    }

    /// As [`BlockFile::extents`], but only what lies within `range`.
    ///
    /// # Errors
    ///
    /// As for [`BlockFile::extents`].
    pub fn extents_within(&self, range: Range<u64>) -> io::Result<Extents<'_>> {
        Ok(Extents {
            file: self,
            at: range.start,
            end: self.size()?.min(range.end),
        })
    }

    /// Whether the byte at `offset` may hold data, and up to where (past `offset`, not past `end`) the same holds. What
    /// is not data reads as zeros. A file system without that knowledge, and a block device, say data to the end.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn data_at(&self, offset: u64, end: u64) -> io::Result<(bool, u64)> {
        let stop = |found: Result<u64, Errno>| match found {
            Ok(position) => Ok(position.clamp(offset, end)),
            Err(Errno::NXIO) => Ok(end),
            Err(errno) => Err(errno),
        };
        let data = match stop(rustix::fs::seek(self, SeekFrom::Data(offset))) {
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((true, end)),
            found => found?,
        };
        if data > offset {
            return Ok((false, data));
        }
        let hole = stop(rustix::fs::seek(self, SeekFrom::Hole(offset)))?;
        // A hole punched between the two questions gives no range at all: the next time it is found as a hole.
        Ok((true, hole.max((offset + 1).min(end))))
    }
}

impl Iterator for Extents<'_> {
    type Item = io::Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let found = self.locate();
        self.at = match &found {
            Ok(Some(extent)) => extent.offset + extent.len,
            Ok(None) | Err(_) => self.end,
        };
        found.map_err(io::Error::from).transpose()
    }
}

impl Extents<'_> {
    /// The first extent from `at` on.
    fn locate(&self) -> Result<Option<Extent>, Errno> {
        let start = match rustix::fs::seek(self.file, SeekFrom::Data(self.at)) {
            Ok(start) if start >= self.end => return Ok(None),
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(self.everything())),
            Err(errno) => return Err(errno),
        };
        let stop = rustix::fs::seek(self.file, SeekFrom::Hole(start))?.min(self.end);
        // A file changed under us may have its hole in front of what was data a moment ago.
        let len = stop.saturating_sub(start);
        Ok((len > 0).then_some(Extent { offset: start, len }))
    }

    fn everything(&self) -> Extent {
        Extent {
            offset: self.at,
            len: self.end - self.at,
        }
    }
}
