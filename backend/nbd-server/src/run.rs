//! The loop of a process that serves one export.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use blockio::executor::{Event, Executor};
use dscow::engine::Errno;
use thiserror::Error;

use crate::export::{Export, Status};

/// Key of the watch on the request to stop; those of the export begin with the number of its disk.
const STOP: u64 = u64::MAX;

/// Until when to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until told to stop.
    Stopped,
    /// Until told to stop, or until a client was there (one that has finished its negotiation) and none is left.
    LastClientGone,
}

/// Why serving ended other than well.
#[derive(Debug, Error)]
pub enum RunError {
    /// The executor is broken.
    #[error("cannot wait for anything to happen: {0}")]
    Executor(#[from] io::Error),
    /// The image could not be opened.
    #[error("the image cannot be opened for writing: {}", describe(*.0))]
    Open(Errno),
    /// The image could not be closed.
    #[error("the image was not closed cleanly: {}; what was flushed is in it", describe(*.0))]
    Close(Errno),
}

/// Serves until `stop` becomes readable, or the last client is gone if `until` says so; then finishes what was taken
/// and closes the image. `ready` is called once, when the image is open and clients are served.
///
/// The export's disk must not have the number `u32::MAX`.
///
/// # Errors
///
/// If the image cannot be opened or closed, or the executor breaks.
pub fn run(
    mut export: Export,
    executor: &mut dyn Executor,
    stop: BorrowedFd<'_>,
    until: Until,
    mut ready: impl FnMut(&Export),
) -> Result<(), RunError> {
    executor.watch(STOP, stop)?;
    let mut events = Vec::new();
    let mut was_ready = false;
    export.settle(executor);
    loop {
        match export.status() {
            Status::Serving if !was_ready => {
                was_ready = true;
                ready(&export);
            }
            Status::Closed(result) => {
                executor.unwatch(STOP);
                export.release(executor);
                return result.map_err(|errno| match was_ready {
                    true => RunError::Close(errno),
                    false => RunError::Open(errno),
                });
            }
            _ => {}
        }
        let timeout = export
            .next_tick()
            .map(|tick| tick.saturating_duration_since(Instant::now()));
        executor.wait(timeout, &mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Readable { key: STOP } => {
                    executor.unwatch(STOP);
                    export.stop(executor);
                }
                event => export.handle(event, executor),
            }
        }
        export.tick(executor);
        export.settle(executor);
        if until == Until::LastClientGone
            && export.statistics().clients > 0
            && export.clients() == 0
        {
            export.stop(executor);
            export.settle(executor);
        }
    }
}

fn describe(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}
