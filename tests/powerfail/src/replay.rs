//! Reads a log of writes, and does what it says to a file that stands for the device.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use blockio::file::{Access, BlockFile, Caching};

use crate::content::SECTOR;
use crate::error::{Error, IoContext};
use crate::log::{Effect, Entry, LogError, SUPER_LEN, parse_entry, parse_super};
use crate::states::Kept;

/// Bytes that are moved at a time.
const CHUNK: usize = 256 << 10;

/// A log of writes on a device or in a file.
pub struct Log {
    file: BlockFile,
    /// Its entries, in their order.
    pub entries: Vec<Entry>,
}

impl Log {
    /// Reads all entries of the log at `path`; the data stays where it is.
    ///
    /// # Errors
    /// If it cannot be read, or is not a log.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = open_block(path, Access::ReadOnly)?;
        let len = file.size().context(path, "find out the size of")?;
        let entries = read_entries(&file, len)?;
        Ok(Self { file, entries })
    }

    /// Does to `target` what an entry did to the device, or as much of it as is kept.
    ///
    /// # Errors
    /// If the entry reaches beyond the target, or either cannot be used.
    pub fn apply(&self, entry: &Entry, kept: Kept, target: &Target) -> Result<(), Error> {
        let (offset, len) = match &entry.effect {
            Effect::Nothing => return Ok(()),
            Effect::Write { offset, data } => (*offset, data.end - data.start),
            Effect::Discard { offset, len } => (*offset, *len),
        };
        let part = part(len, kept);
        target.check(offset, len)?;
        for start in part.clone().step_by(CHUNK) {
            let count = (CHUNK as u64).min(part.end - start);
            let mut bytes = vec![0; usize::try_from(count).expect("a chunk is small")];
            if let Effect::Write { data, .. } = &entry.effect {
                self.file
                    .read_exact_at(&mut bytes, data.start + start)
                    .context(self.file.path(), "read")?;
            }
            target.write(&bytes, offset + start)?;
        }
        Ok(())
    }
}

/// Which of the `len` bytes of an entry are kept.
fn part(len: u64, kept: Kept) -> Range<u64> {
    match kept {
        Kept::All => 0..len,
        Kept::Nothing => 0..0,
        Kept::First(sectors) => 0..len.min(sectors * SECTOR as u64),
        Kept::After(sectors) => len.min(sectors * SECTOR as u64)..len,
    }
}

fn read_entries(file: &BlockFile, len: u64) -> Result<Vec<Entry>, Error> {
    let bad = |cause| Error::Log {
        path: file.path().to_owned(),
        cause,
    };
    let truncated = |what, offset| bad(LogError::Truncated { what, offset, len });
    let mut bytes = [0; SUPER_LEN];
    if len < SUPER_LEN as u64 {
        return Err(truncated("the super block", 0));
    }
    file.read_exact_at(&mut bytes, 0)
        .context(file.path(), "read")?;
    let super_block = parse_super(&bytes, len).map_err(bad)?;
    let size = u64::from(super_block.sector_size);
    let mut sector = vec![0; super_block.sector_size as usize];
    let mut entries = Vec::new();
    let mut at = size;
    for index in 0..super_block.entries {
        if at + size > len {
            return Err(truncated("an entry", at));
        }
        file.read_exact_at(&mut sector, at)
            .context(file.path(), "read")?;
        let parsed = parse_entry(index, &sector, at, len).map_err(bad)?;
        entries.push(parsed.entry);
        at = parsed.next;
    }
    Ok(entries)
}

fn open_block(path: &Path, access: Access) -> Result<BlockFile, Error> {
    BlockFile::open(path, access, Caching::Buffered)
        .map_err(|cause| Error::Usage(cause.to_string()))
}

/// A file that stands for the device.
pub struct Target {
    file: File,
    path: PathBuf,
    len: u64,
}

impl Target {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// If it cannot be opened for writing.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .context(path, "open")?;
        let len = file.metadata().context(path, "find out the size of")?.len();
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
        })
    }

    /// Gives it the content of `source`: by sharing its blocks where the file system can, else by copying.
    ///
    /// # Errors
    /// If neither works.
    pub fn become_like(&mut self, source: &Target) -> Result<(), Error> {
        if rustix::fs::ioctl_ficlone(&self.file, &source.file).is_err() {
            self.copy_data_of(source)?;
        }
        self.len = source.len;
        Ok(())
    }

    fn copy_data_of(&self, source: &Target) -> Result<(), Error> {
        for len in [0, source.len] {
            self.file
                .set_len(len)
                .context(&self.path, "set the length of")?;
        }
        let from = open_block(&source.path, Access::ReadOnly)?;
        let failed = "read";
        for extent in from.extents().context(&source.path, failed)? {
            let extent = extent.context(&source.path, failed)?;
            let end = extent.offset + extent.len;
            for at in (extent.offset..end).step_by(CHUNK) {
                let mut bytes = vec![
                    0;
                    usize::try_from((CHUNK as u64).min(end - at))
                        .expect("a chunk is small")
                ];
                from.read_exact_at(&mut bytes, at)
                    .context(&source.path, failed)?;
                self.write(&bytes, at)?;
            }
        }
        Ok(())
    }

    /// Reads what is at `offset`.
    pub(crate) fn read(&self, bytes: &mut [u8], offset: u64) -> Result<(), Error> {
        self.file
            .read_exact_at(bytes, offset)
            .context(&self.path, "read")
    }

    fn write(&self, bytes: &[u8], offset: u64) -> Result<(), Error> {
        self.file
            .write_all_at(bytes, offset)
            .context(&self.path, "write")
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            let path = self.path.display();
            let size = self.len;
            return Err(Error::Usage(format!(
                "the log has {len} bytes at {offset}, beyond the {size} bytes of {path}"
            )));
        }
        Ok(())
    }
}
