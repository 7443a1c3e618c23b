//! Drives an image through the engine and an executor, with nothing above them: the product without its protocols.

#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blockio::buffer::{AlignedBuf, Buffer};
use blockio::disk::{Disk, DiskNumber, DiskOptions, Finished};
use blockio::executor::{Event, Executor};
use blockio::image::{Image, ImageAccess, ImageError};
use dscow::engine::{Errno, OnNoSpace, Request, Token};
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::DeviceCounts;
use crate::pattern::{SplitMix, Step};

/// Names opening, closing and single requests; the requests are named by their slot, which is lower.
const CONTROL: Token = Token(u64::MAX);

/// Why an image could not be measured.
#[derive(Debug, Error)]
pub enum DirectError {
    /// The image could not be opened.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The executor is broken.
    #[error("the executor failed: {0}")]
    Executor(#[source] io::Error),
    /// A request failed.
    #[error("{what} failed with errno {}", errno.0)]
    Request {
        /// Which.
        what: String,
        /// How.
        errno: Errno,
    },
    /// What the device or the file system counts could not be found out.
    #[error("cannot find out the counts of {}: {cause}", path.display())]
    Counts {
        /// The device's `stat`, or the image.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
}

/// What was measured, from the first request to the last answer. Opening and closing are not in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Reads and writes.
    pub requests: u64,
    /// Flushes.
    pub flushes: u64,
    /// Wall time, in nanoseconds.
    pub elapsed_ns: u64,
    /// CPU time of the one thread that drives the image, in nanoseconds.
    pub cpu_ns: u64,
    /// What reached the device, if it was asked for.
    pub device: Option<DeviceCounts>,
    /// Storage that the image's file takes when the last request is answered, in bytes; closing gives some of it back.
    pub storage: u64,
}

impl Measured {
    /// Reads and writes in a second.
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 / Duration::from_nanos(self.elapsed_ns).as_secs_f64()
    }

    /// CPU time for each read or write, in nanoseconds.
    pub fn cpu_ns_per_request(&self) -> f64 {
        self.cpu_ns as f64 / self.requests as f64
    }
}

/// An open image and the executor that serves it.
pub struct Session {
    image: PathBuf,
    disk: Disk,
    executor: Box<dyn Executor>,
    events: Vec<Event>,
}

impl Session {
    /// Opens the image at `path`.
    ///
    /// # Errors
    /// If it cannot be opened for this access.
    pub fn open(
        path: &Path,
        access: ImageAccess,
        executor: Box<dyn Executor>,
    ) -> Result<Self, DirectError> {
        Self::open_with(path, access, DiskOptions::default(), executor)
    }

    /// The same, driven in another way than is usual.
    ///
    /// # Errors
    /// If it cannot be opened for this access.
    pub fn open_with(
        path: &Path,
        access: ImageAccess,
        options: DiskOptions,
        mut executor: Box<dyn Executor>,
    ) -> Result<Self, DirectError> {
        let (engine, files) = Image::open(path, access)?.into_engine(OnNoSpace::Report);
        let mut disk = Disk::new(DiskNumber(0), engine, files, options, executor.as_mut());
        disk.open(executor.as_mut(), CONTROL);
        let mut session = Self {
            image: path.to_owned(),
            disk,
            executor,
            events: Vec::new(),
        };
        session.wait_for_control("opening the image")?;
        Ok(session)
    }

    /// Executes the steps, `depth` of them at a time, and measures. A flush takes a place among them like any other
    /// step, and nothing waits for it. `stat` is the `stat` file of the device whose counts are wanted.
    ///
    /// # Errors
    /// If a step or the executor fails.
    pub fn run(
        &mut self,
        steps: &[Step],
        depth: usize,
        stat: Option<&Path>,
    ) -> Result<Measured, DirectError> {
        let mut buffers = buffers(steps, depth);
        let mut free: Vec<usize> = (0..depth).collect();
        let counts_before = stat.map(counts).transpose()?;
        let (cpu_before, started) = (thread_cpu(), Instant::now());

        let mut left = steps.iter();
        let mut finished = Vec::new();
        loop {
            while let Some(slot) = free.pop() {
                let Some(step) = left.next() else {
                    free.push(slot);
                    break;
                };
                self.submit(slot, *step, &buffers[slot]);
                self.take_finished(&mut finished)?;
                free.append(&mut finished);
            }
            if free.len() == depth {
                break;
            }
            self.wait()?;
            self.take_finished(&mut finished)?;
            free.append(&mut finished);
        }

        let elapsed = started.elapsed();
        let cpu = thread_cpu() - cpu_before;
        let device = match (stat, counts_before) {
            (Some(stat), Some(before)) => Some(counts(stat)?.since(before)),
            _ => None,
        };
        buffers.clear();
        let flushes = steps.iter().filter(|step| **step == Step::Flush).count() as u64;
        Ok(Measured {
            requests: steps.len() as u64 - flushes,
            flushes,
            elapsed_ns: nanoseconds(elapsed),
            cpu_ns: nanoseconds(cpu),
            device,
            storage: self.storage()?,
        })
    }

    fn storage(&self) -> Result<u64, DirectError> {
        let found = self.image.metadata().map_err(|cause| DirectError::Counts {
            path: self.image.clone(),
            cause,
        })?;
        // stat(2) counts in units of 512 bytes, whatever the file system's block is.
        Ok(found.blocks() * 512)
    }

    /// Makes one request and waits for it. The buffer is as long as its range.
    ///
    /// # Errors
    /// If it or the executor fails.
    pub fn request(&mut self, request: Request, buffer: Buffer) -> Result<(), DirectError> {
        self.disk
            .submit(self.executor.as_mut(), CONTROL, request, buffer);
        self.wait_for_control("a request")
    }

    /// The disk, to ask about its state.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Commits and closes the image.
    ///
    /// # Errors
    /// If that fails; the image stays marked as in use then.
    pub fn close(mut self) -> Result<(), DirectError> {
        self.disk.close(self.executor.as_mut(), CONTROL);
        self.wait_for_control("closing the image")?;
        self.disk.release(self.executor.as_mut());
        Ok(())
    }

    fn submit(&mut self, slot: usize, step: Step, buffer: &Buffer) {
        let (request, buffer) = match step {
            Step::Read(range) => (Request::Read(range), part(buffer, range.len)),
            Step::Write(range) => (Request::Write(range), part(buffer, range.len)),
            Step::Flush => (Request::Flush, Buffer::empty()),
        };
        self.disk
            .submit(self.executor.as_mut(), Token(slot as u64), request, buffer);
    }

    /// Appends the slots whose steps have ended.
    fn take_finished(&mut self, slots: &mut Vec<usize>) -> Result<(), DirectError> {
        for Finished { token, result, .. } in self.disk.take_finished() {
            result.map_err(|errno| DirectError::Request {
                what: format!("the request in slot {}", token.0),
                errno,
            })?;
            slots.push(usize::try_from(token.0).expect("it was made from a slot"));
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), DirectError> {
        let mut events = std::mem::take(&mut self.events);
        self.executor
            .wait(None, &mut events)
            .map_err(DirectError::Executor)?;
        for event in events.drain(..) {
            if let Event::Done { key, result } = event {
                let (_, op) = DiskNumber::of_key(key);
                self.disk.complete(self.executor.as_mut(), op, result);
            }
        }
        self.events = events;
        Ok(())
    }

    fn wait_for_control(&mut self, what: &str) -> Result<(), DirectError> {
        loop {
            for finished in self.disk.take_finished() {
                if finished.token == CONTROL {
                    return finished.result.map_err(|errno| DirectError::Request {
                        what: what.to_owned(),
                        errno,
                    });
                }
            }
            self.wait()?;
        }
    }
}

/// One buffer for each slot, as long as the longest request, of bytes that nothing can take for zeros.
fn buffers(steps: &[Step], depth: usize) -> Vec<Buffer> {
    let longest = steps.iter().map(|step| match step {
        Step::Read(range) | Step::Write(range) => range.len,
        Step::Flush => 0,
    });
    let len = usize::try_from(longest.max().unwrap_or(0)).expect("requests are held in memory");
    let mut random = SplitMix(0xb10c);
    (0..depth)
        .map(|_| {
            let mut buffer = AlignedBuf::zeroed(len);
            for word in buffer.as_mut_slice().chunks_exact_mut(8) {
                word.copy_from_slice(&random.next_u64().to_le_bytes());
            }
            buffer.into_buffer()
        })
        .collect()
}

fn part(buffer: &Buffer, len: u64) -> Buffer {
    buffer.slice(
        0,
        usize::try_from(len).expect("it is at most the buffer's length"),
    )
}

fn counts(stat: &Path) -> Result<DeviceCounts, DirectError> {
    DeviceCounts::read(stat).map_err(|cause| DirectError::Counts {
        path: stat.to_owned(),
        cause,
    })
}

/// CPU time of this thread so far, in user and kernel mode.
pub fn thread_cpu() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(tv_sec).expect("it counts from zero"),
        u32::try_from(tv_nsec).expect("it is below a second"),
    )
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("nobody measures for centuries")
}
