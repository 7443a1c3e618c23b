//! The connection to xenstore.
//!
//! dom0 reaches xenstored by its socket. Any other domain has the kernel's device for it, and there only one request may be
//! under way: the kernel passes a request on some time after it took it, out of the buffer that the next one goes into, so
//! that one sent too early takes the place of the one before. Xenstored then answers with EINVAL, or with another node.
//! The kernel also tells of a new watch's first event before it answers that the watch is there, and the client has
//! forgotten that event by then.
//!
//! Source: `drivers/xen/xenbus/xenbus_dev_frontend.c` and `xenbus_xs.c` of Linux 6.12.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;
use xenstore_rs::tokio::XsTokio;
use xenstore_rs::{AsyncWatch, AsyncXs};

/// Where the client looks for the socket, and what names another place.
const SOCKET: &str = "/run/xenstored/socket";
const SOCKET_VARIABLE: &str = "XENSTORED_PATH";

/// By the device, a watch that is not there by then was refused: the kernel answers when xenstored has.
const WATCHED_AFTER: Duration = Duration::from_secs(5);

/// A connection to xenstore, to be cloned at will.
#[derive(Clone)]
pub struct Connection {
    xs: XsTokio,
    /// Held from a request to its answer, where there may be one at a time.
    turn: Option<Arc<Mutex<()>>>,
}

impl Connection {
    /// Connects to xenstored's socket, or to the kernel's device if there is none.
    ///
    /// # Errors
    /// If there is neither.
    pub async fn open() -> io::Result<Self> {
        let before = has_socket().await;
        let xs = XsTokio::new().await?;
        // The client does not tell which it found. Where that is not sure, what the device needs is right for both.
        Ok(if before && has_socket().await {
            Self::by_socket(xs)
        } else {
            Self::by_device(xs)
        })
    }

    /// A connection that xenstored itself is at the other end of.
    pub fn by_socket(xs: XsTokio) -> Self {
        Self { xs, turn: None }
    }

    /// A connection by the kernel's device: one request at a time.
    pub fn by_device(xs: XsTokio) -> Self {
        let turn = Some(Arc::default());
        Self { xs, turn }
    }

    pub(super) async fn read(&self, path: &str) -> io::Result<Box<str>> {
        let _turn = self.turn().await;
        self.xs.read(path).await
    }

    pub(super) async fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let _turn = self.turn().await;
        self.xs.write(path, value).await
    }

    pub(super) async fn directory(&self, path: &str) -> io::Result<Vec<Box<str>>> {
        let _turn = self.turn().await;
        self.xs.directory(path).await
    }

    pub(super) async fn rm(&self, path: &str) -> io::Result<()> {
        let _turn = self.turn().await;
        self.xs.rm(path).await
    }

    pub(super) async fn watch(&self, path: &str) -> io::Result<Events> {
        let _turn = self.turn().await;
        let watching = self.xs.watch(path);
        let stream = if self.turn.is_some() {
            let watched = timeout(WATCHED_AFTER, watching).await;
            watched.map_err(|_| refused_by_the_kernel())??
        } else {
            watching.await?
        };
        Ok(Events {
            first: self.turn.as_ref().map(|_| path.into()),
            stream: Some(Box::pin(stream)),
            turn: self.turn.clone(),
        })
    }

    async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        let turn = self.turn.as_ref()?;
        Some(Arc::clone(turn).lock_owned().await)
    }
}

/// Whether xenstored's socket is there.
async fn has_socket() -> bool {
    let socket = std::env::var_os(SOCKET_VARIABLE).unwrap_or_else(|| SOCKET.into());
    UnixStream::connect(socket).await.is_ok()
}

/// The kernel refuses a watch by failing the client's write, which ends the client without a word to whoever waits.
fn refused_by_the_kernel() -> io::Error {
    io::Error::new(
        io::ErrorKind::BrokenPipe,
        "the kernel did not take the watch; perhaps this domain has as many as xenstored allows it",
    )
}

type Paths = Pin<Box<dyn Stream<Item = Box<str>> + Send>>;

/// The events of a watch, by their paths. The watch ends when this is dropped.
pub(super) struct Events {
    /// The event that every watch begins with, where the client has missed it.
    first: Option<Box<str>>,
    /// `None` during the drop only.
    stream: Option<Paths>,
    turn: Option<Arc<Mutex<()>>>,
}

impl Stream for Events {
    type Item = Box<str>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Box<str>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        match &mut self.stream {
            Some(stream) => stream.as_mut().poll_next(context),
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Events {
    /// The client sends a request of its own when the stream goes.
    fn drop(&mut self) {
        if let (Some(mut stream), Some(turn)) = (self.stream.take(), self.turn.take())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move {
                let mut waiting = pin!(turn.lock());
                // Its events must not fill up meanwhile: the client would stop, and with it whoever has the turn.
                let _turn = loop {
                    tokio::select! {
                        turn = &mut waiting => break turn,
                        event = stream.next() => if event.is_none() { return },
                    }
                };
                drop(stream);
            });
        }
    }
}
