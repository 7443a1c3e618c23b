//! Watches, drained by tasks of their own.
//!
//! The client hands events to a stream through a channel of 8 and stops everything, answers to
//! requests included, while that is full. So whoever waits for an answer must not be the one who
//! takes the events: each stream has a task that does nothing else.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use xenstore_rs::AsyncWatch;
use xenstore_rs::tokio::XsTokio;

use crate::types::DeviceId;

/// What a watch saw.
#[derive(Debug)]
pub(super) enum Seen {
    /// Something at this path below one of the backend directories.
    Backend(Box<str>),
    /// The state of this device's frontend.
    Frontend(DeviceId, Arc<AtomicBool>),
    /// A stream ended, so the connection is dead.
    Ended,
}

pub(super) type Sink = mpsc::UnboundedSender<Seen>;

/// Watches a backend directory, which need not exist yet, for as long as the sink lives.
pub(super) async fn watch_backend(xs: &XsTokio, directory: &str, sink: Sink) -> io::Result<()> {
    let mut stream = xs.watch(directory).await?;
    tokio::spawn(async move {
        while let Some(path) = stream.next().await {
            if sink.send(Seen::Backend(path)).is_err() {
                return;
            }
        }
        sink.send(Seen::Ended).ok();
    });
    Ok(())
}

/// A watch on a frontend's state; dropping it retires it.
pub(super) struct FrontendWatch {
    _retire: oneshot::Sender<()>,
}

/// Watches the node until the returned value is dropped.
///
/// Guests write the node as often as they like, so no more than one event per frontend is ever in
/// the sink; whoever takes it clears the flag first and looks afterwards.
pub(super) async fn watch_frontend(
    xs: &XsTokio,
    device: DeviceId,
    state_path: &str,
    quiet: Duration,
    sink: Sink,
) -> io::Result<FrontendWatch> {
    let stream = xs.watch(state_path).await?;
    let (retire, retired) = oneshot::channel();
    tokio::spawn(drain_frontend(stream, device, retired, quiet, sink));
    Ok(FrontendWatch { _retire: retire })
}

async fn drain_frontend(
    mut stream: impl Stream<Item = Box<str>> + Unpin,
    device: DeviceId,
    mut retired: oneshot::Receiver<()>,
    quiet: Duration,
    sink: Sink,
) {
    let queued = Arc::new(AtomicBool::new(false));
    loop {
        tokio::select! {
            event = stream.next() => {
                if event.is_none() {
                    sink.send(Seen::Ended).ok();
                    return;
                }
                if !queued.swap(true, Ordering::AcqRel)
                    && sink.send(Seen::Frontend(device, Arc::clone(&queued))).is_err()
                {
                    return;
                }
            }
            _ = &mut retired => break,
        }
    }
    // If an event meets a dropped stream before the client has sent the unwatch, the client forgets
    // the watch and never sends it, and xenstored keeps it for ever. So leave when nothing comes.
    while let Ok(Some(_)) = timeout(quiet, stream.next()).await {}
}
