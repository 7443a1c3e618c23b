//! The data plane: worker threads, each with one executor, serving the rings of the vbds it was given.
//!
//! A vbd lives on exactly one worker, with all of its queues, so nothing here needs a lock. The control plane
//! talks to a worker in messages that own their data, and hears back in [`Report`]s.

mod channel;
mod clock;
mod foreign;
mod guest_pages;
mod link;
mod message;
mod patience;
mod run;
mod vbd;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::mpsc::UnboundedSender;
use xenstore_glue::runner::Report;

pub(crate) use link::{accepted, advertised};
pub(crate) use message::{Belongings, FailedConnects, OpenImage, Opening, Survey, ToWorker};

use run::Worker;

use crate::OpenExecutor;

/// The control plane's end of a worker.
pub(crate) struct WorkerHandle {
    sender: Sender<ToWorker>,
    wake: Arc<OwnedFd>,
    thread: JoinHandle<()>,
}

impl WorkerHandle {
    /// Starts a worker thread with an executor of its own. It reports through `reports`.
    ///
    /// # Errors
    /// If the thread, its executor or its eventfd cannot be made.
    pub(crate) fn start(
        index: usize,
        reports: UnboundedSender<Report>,
        open_executor: OpenExecutor,
    ) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (sender, receiver) = mpsc::channel();
        let (started, outcome) = mpsc::sync_channel(1);
        let worker_wake = Arc::clone(&wake);
        let thread = std::thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                match open_executor().and_then(|executor| {
                    Worker::new(executor, receiver, reports, worker_wake.as_fd())
                }) {
                    Ok(mut worker) => {
                        let _ = started.send(Ok(()));
                        worker.run();
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            })?;
        outcome
            .recv()
            .map_err(|_| io::Error::other("the worker thread ended before it started"))??;
        Ok(Self {
            sender,
            wake,
            thread,
        })
    }

    /// Hands the worker a message.
    pub(crate) fn send(&self, message: ToWorker) {
        // A worker ends only when it is told to, or together with the process.
        let _ = self.sender.send(message);
        if let Err(error) = rustix::io::write(&self.wake, &1u64.to_ne_bytes()) {
            tracing::error!("cannot wake a worker: {error}");
        }
    }

    /// Tells the worker to end, and waits for it.
    pub(crate) fn stop(self) {
        self.send(ToWorker::Stop);
        let _ = self.thread.join();
    }
}
