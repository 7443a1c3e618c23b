//! What the workload did, in order: the promises that a crash must not break are computed from it. It is kept outside
//! of the device whose writes are logged, one event a line.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::content::WriteId;
use crate::error::{Error, IoContext};

/// Something that happened. Its number is its place in the journal, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The virtual disk has this many sectors, all zeros. The first event.
    Disk {
        /// How many.
        sectors: u64,
    },
    /// A write is about to be submitted.
    Write {
        /// Its number.
        id: WriteId,
        /// First sector.
        first: u64,
        /// How many sectors.
        count: u64,
    },
    /// A request that makes these sectors zeros is about to be submitted.
    Zero {
        /// Its number; it is counted with the writes.
        id: WriteId,
        /// First sector.
        first: u64,
        /// How many sectors.
        count: u64,
    },
    /// A barrier is about to be submitted: a write, perhaps of nothing, that is durable when it is acknowledged, after
    /// everything that was submitted before and before anything that is submitted later.
    Barrier {
        /// Its number; it is counted with the writes.
        id: WriteId,
        /// First sector.
        first: u64,
        /// How many sectors; may be 0.
        count: u64,
    },
    /// A write, a request for zeros, or a barrier was acknowledged.
    Written {
        /// Its number.
        id: WriteId,
    },
    /// A flush is about to be submitted.
    Flush {
        /// Its number; flushes are counted apart from writes.
        id: u32,
    },
    /// A flush was acknowledged.
    Flushed {
        /// Its number.
        id: u32,
    },
    /// The image is about to be created.
    Creating,
    /// The image was created, and must be there from now on.
    Created,
    /// Everything before was there, durably, before logging began.
    Prepared,
    /// The image is about to be opened for writing.
    Opening,
    /// The image is about to be closed.
    Closing,
    /// The image was closed: it is clean, and all of it is durable.
    Closed,
}

/// The journal, being written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: BufWriter<File>,
    events: usize,
}

impl Journal {
    /// Begins a new journal at `path`, in the place of an earlier one.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let file = File::create(path).context(path, "create")?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
            events: 0,
        })
    }

    /// Goes on with the journal at `path`. Returns what is in it too.
    ///
    /// # Errors
    /// As [`load`].
    pub fn append(path: &Path) -> Result<(Self, Vec<Event>), Error> {
        let before = load(path)?;
        let file = OpenOptions::new()
            .append(true)
            .open(path)
            .context(path, "open")?;
        let journal = Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
            events: before.len(),
        };
        Ok((journal, before))
    }

    /// Appends an event.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn record(&mut self, event: Event) -> Result<(), Error> {
        let mut line = serde_json::to_vec(&event).expect("events are plain data");
        line.push(b'\n');
        self.file
            .write_all(&line)
            .context(&self.path, "append to")?;
        self.events += 1;
        Ok(())
    }

    /// How many events have been recorded: all of the numbers below this.
    pub fn events(&self) -> usize {
        self.events
    }

    /// Writes out what is still in memory.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        self.file.flush().context(&self.path, "append to")
    }
}

/// All events of the journal at `path`.
///
/// # Errors
/// If it cannot be read, or a line is not an event.
pub fn load(path: &Path) -> Result<Vec<Event>, Error> {
    let text = fs::read_to_string(path).context(path, "read")?;
    (1..)
        .zip(text.lines())
        .map(|(line, event)| {
            serde_json::from_str(event).map_err(|cause| Error::Journal {
                path: path.to_owned(),
                line,
                cause,
            })
        })
        .collect()
}
