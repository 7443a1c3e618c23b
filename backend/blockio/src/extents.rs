//! Which image of a chain holds what of the virtual disk, and where it is known to be zero without being read.

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use dscow::engine::{Engine, Extent, Source};
use dscow::parents::LayerIndex;
use dscow::units::{DiskOffset, DiskRange, FileOffset};

use crate::file::BlockFile;

/// A range of the virtual disk that one layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskExtent {
    /// The range.
    pub range: DiskRange,
    /// Who holds it, counted from the image itself (0) downwards, and where in its file. `None` if no image does.
    pub holder: Option<(LayerIndex, FileOffset)>,
    /// It reads as zeros: nobody holds it, or its holder has a hole there. A range without this mark may be zeros too.
    pub zero: bool,
}

impl DiskExtent {
    /// How many images down its holder is: 0 for the image itself.
    pub fn depth(&self) -> Option<usize> {
        self.holder.map(|(layer, _)| layer.0)
    }

    /// Whether `next`, which begins where this one ends, says the same.
    fn continues_as(&self, next: &Self) -> bool {
        // Every layer maps the disk by adding a constant, so neighbours on the disk are neighbours in the file.
        self.depth() == next.depth() && self.zero == next.zero
    }
}

/// The extents of a disk. Asks the files where their holes are as it goes, and remembers the last answer of each; so
/// on a disk that is being written, make a new one for each question.
pub struct DiskMap<'a> {
    /// The longest run from one byte on, not past another, that one layer holds.
    run_at: Box<dyn Fn(u64, u64) -> Extent + 'a>,
    files: &'a [Arc<BlockFile>],
    /// For each file, the range that was asked about last, and whether it holds data.
    known: Vec<Known>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    start: u64,
    end: u64,
    data: bool,
}

impl<'a> DiskMap<'a> {
    /// The map of an engine whose layers are in `files`, the image's own first.
    pub fn of_engine(engine: &'a Engine, files: &'a [Arc<BlockFile>]) -> Self {
        Self::new(files, |at, end| engine.extent_at(at, end))
    }

    /// The map of a raw file or device.
    pub fn of_raw(file: &'a Arc<BlockFile>) -> Self {
        Self::new(std::slice::from_ref(file), |at, end| Extent {
            len: end - at,
            source: Source::Layer(LayerIndex::TOP, FileOffset(at)),
        })
    }

    fn new(files: &'a [Arc<BlockFile>], run_at: impl Fn(u64, u64) -> Extent + 'a) -> Self {
        Self {
            run_at: Box::new(run_at),
            files,
            known: vec![Known::default(); files.len()],
        }
    }

    /// The extents of `range`, in order and without gaps. Neighbours differ in holder or mark.
    ///
    /// # Panics
    /// The iterator, if the range is not on the disk.
    pub fn extents(self, range: DiskRange) -> DiskExtents<'a> {
        DiskExtents {
            map: self,
            at: range.start.0,
            end: range.end(),
            next: None,
        }
    }

    /// The extent from `at` on, not past `end`; what follows may say the same.
    fn extent_at(&mut self, at: u64, end: u64) -> io::Result<DiskExtent> {
        let Extent { len, source } = (self.run_at)(at, end);
        let (len, holder, zero) = match source {
            Source::Zero => (len, None, true),
            Source::Layer(layer, offset) => {
                let (data, until) = self.data_at(layer, offset.0, offset.0 + len)?;
                (until - offset.0, Some((layer, offset)), !data)
            }
        };
        Ok(DiskExtent {
            range: DiskRange {
                start: DiskOffset(at),
                len,
            },
            holder,
            zero,
        })
    }

    /// Whether a layer's file holds data at `start`, and up to where, not past `end`, the same holds.
    fn data_at(&mut self, layer: LayerIndex, start: u64, end: u64) -> io::Result<(bool, u64)> {
        let known = &mut self.known[layer.0];
        if !(known.start..known.end).contains(&start) {
            let file = &self.files[layer.0];
            // Asked to the end of the file, so that the answer serves for the runs that follow.
            let (data, until) = file.data_at(start, i64::MAX.cast_unsigned())?;
            *known = Known {
                start,
                end: until,
                data,
            };
        }
        Ok((known.data, known.end.min(end)))
    }
}

/// Iterates over the extents of a range. See [`DiskMap::extents`]. Nothing follows a failure.
pub struct DiskExtents<'a> {
    map: DiskMap<'a>,
    /// Where to ask next.
    at: u64,
    end: u64,
    /// Found already, and perhaps continued by what comes.
    next: Option<DiskExtent>,
}

impl DiskExtents<'_> {
    fn advance(&mut self) -> io::Result<Option<DiskExtent>> {
        while self.at < self.end {
            let found = self.map.extent_at(self.at, self.end)?;
            self.at = found.range.end();
            match &mut self.next {
                Some(extent) if extent.continues_as(&found) => extent.range.len += found.range.len,
                next => {
                    if let Some(complete) = next.replace(found) {
                        return Ok(Some(complete));
                    }
                }
            }
        }
        Ok(self.next.take())
    }
}

impl Iterator for DiskExtents<'_> {
    type Item = io::Result<DiskExtent>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.advance();
        if found.is_err() {
            self.at = self.end;
            self.next = None;
        }
        found.transpose()
    }
}
