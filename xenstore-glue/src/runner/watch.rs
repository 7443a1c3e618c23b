//! Watches, drained by tasks of their own.
//!
//! The client hands events to a stream through a channel of 8 and stops everything, answers to
//! requests included, while that is full. So whoever waits for an answer must not be the one who
//! takes the events: each stream has a task that does nothing else.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::connection::Connection;
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
pub(super) async fn watch_backend(xs: &Connection, directory: &str, sink: Sink) -> io::Result<()> {
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

/// The need of a watch on a frontend's state; it ends when this is dropped.
pub(super) struct FrontendWatch {
    _need: oneshot::Sender<()>,
}

/// The end of a need.
type NeedEnd = oneshot::Receiver<()>;

/// The watches on frontends' states: those that are needed, and those that were until lately.
///
/// A disk that comes and goes gets the watch back that it had: else each earlier one would be kept by the events of the
/// next, and would be told of every event too.
#[derive(Default)]
pub(super) struct FrontendWatches(HashMap<(DeviceId, String), mpsc::UnboundedSender<NeedEnd>>);

impl FrontendWatches {
    /// Watches the node until the returned value is dropped. There is an event at once, as of every watch.
    ///
    /// Guests write the node as often as they like, so no more than one event per frontend is ever in
    /// the sink; whoever takes it clears the flag first and looks afterwards.
    pub(super) async fn watch(
        &mut self,
        xs: &Connection,
        device: DeviceId,
        state_path: &str,
        quiet: Duration,
        sink: Sink,
    ) -> io::Result<FrontendWatch> {
        self.0.retain(|_, needs| !needs.is_closed());
        let (need, mut end) = oneshot::channel();
        let need = FrontendWatch { _need: need };
        let key = (device, state_path.to_owned());
        if let Some(needs) = self.0.get(&key) {
            match needs.send(end) {
                Ok(()) => return Ok(need),
                Err(mpsc::error::SendError(unsent)) => end = unsent,
            }
        }
        let stream = xs.watch(state_path).await?;
        let (needs, receiver) = mpsc::unbounded_channel();
        tokio::spawn(drain_frontend(stream, device, end, receiver, quiet, sink));
        self.0.insert(key, needs);
        Ok(need)
    }
}

async fn drain_frontend(
    mut stream: impl Stream<Item = Box<str>> + Unpin,
    device: DeviceId,
    mut end: NeedEnd,
    mut needs: mpsc::UnboundedReceiver<NeedEnd>,
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
            }
            Some(newer) = needs.recv() => end = newer,
            _ = &mut end => match needed_again(&mut stream, &mut needs, quiet).await {
                Some(newer) => end = newer,
                None => return,
            },
        }
        // Something happened, or it is needed anew, of which a watch tells as well.
        if !queued.swap(true, Ordering::AcqRel)
            && sink
                .send(Seen::Frontend(device, Arc::clone(&queued)))
                .is_err()
        {
            return;
        }
    }
}

/// Waits until a watch is needed again, or can be given up.
///
/// If an event meets a dropped stream before the client has sent the unwatch, the client forgets the watch and never sends
/// it, and xenstored keeps it for ever. So it is given up when nothing has come for a while.
async fn needed_again(
    stream: &mut (impl Stream<Item = Box<str>> + Unpin),
    needs: &mut mpsc::UnboundedReceiver<NeedEnd>,
    quiet: Duration,
) -> Option<NeedEnd> {
    loop {
        tokio::select! {
            biased;
            Some(newer) = needs.recv() => return Some(newer),
            event = timeout(quiet, stream.next()) => match event {
                Ok(Some(_)) => {}
                // The connection is dead, which other streams say too.
                Ok(None) => return None,
                Err(_) => {
                    // Nobody can need it any more, who has not said so by now.
                    needs.close();
                    return needs.try_recv().ok();
                }
            },
        }
    }
}
