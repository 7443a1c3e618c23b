//! Reading and writing xenstore, with the traps of the client taken out.
//!
//! `xenstore-rs` notices a dead xenstored only when a write to the socket fails: a request that was
//! sent before that is never answered, and watch streams never end. So nothing here waits without
//! asking again whether anybody is there.

use std::io;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::{sleep, timeout};

use super::api::RunnerError;
use super::connection::Connection;
use crate::frontend::Node;

/// Requests sent at once. The client has room for 32 and the connection may be shared.
const BATCH: usize = 16;
/// How long an answer may take before the connection is suspected.
const PROBE_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Store {
    pub(super) xs: Connection,
    patience: Duration,
}

/// What became of a write.
pub(super) enum Write {
    Done,
    /// Xenstored refused it.
    Refused(io::Error),
}

impl Store {
    pub(super) fn new(xs: Connection, patience: Duration) -> Self {
        Self { xs, patience }
    }

    /// The node's value. What cannot be read for whatever reason of its own is malformed: the guest
    /// owns some of these nodes and decides on their permissions.
    pub(super) async fn read(&self, path: &str) -> Result<Node, RunnerError> {
        let doing = || format!("reading {path}");
        match self.alive(doing, self.xs.read(path)).await? {
            Ok(value) => Ok(Node::Value(value.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Node::Missing),
            Err(_) => Ok(Node::Malformed),
        }
    }

    /// Several values. The requests are sent, and answered by xenstored, in this order.
    pub(super) async fn read_all(&self, paths: &[String]) -> Result<Vec<Node>, RunnerError> {
        let mut nodes = Vec::with_capacity(paths.len());
        for batch in paths.chunks(BATCH) {
            for node in join_all(batch.iter().map(|path| self.read(path))).await {
                nodes.push(node?);
            }
        }
        Ok(nodes)
    }

    /// Writes unless the value is there already: writing wakes everybody who watches.
    pub(super) async fn write(&self, path: &str, value: &str) -> Result<Write, RunnerError> {
        if self.read(path).await? == Node::Value(value.to_owned()) {
            return Ok(Write::Done);
        }
        self.write_anew(path, value).await
    }

    /// Writes, and so wakes everybody who watches, whatever the value was.
    pub(super) async fn write_anew(&self, path: &str, value: &str) -> Result<Write, RunnerError> {
        let doing = || format!("writing {path}");
        Ok(match self.alive(doing, self.xs.write(path, value)).await? {
            Ok(()) => Write::Done,
            Err(error) => Write::Refused(error),
        })
    }

    /// Several values; no order among them is promised.
    pub(super) async fn write_all(
        &self,
        values: &[(String, String)],
    ) -> Result<Write, RunnerError> {
        for batch in values.chunks(BATCH) {
            let writes = batch.iter().map(|(path, value)| self.write(path, value));
            for write in join_all(writes).await {
                if let Write::Refused(error) = write? {
                    return Ok(Write::Refused(error));
                }
            }
        }
        Ok(Write::Done)
    }

    /// The names in a directory; none if there is no such directory, `None` if they do not fit into
    /// one message (the client cannot ask for the rest).
    pub(super) async fn list(&self, path: &str) -> Result<Option<Vec<String>>, RunnerError> {
        let doing = || format!("listing {path}");
        match self.alive(doing, self.xs.directory(path)).await? {
            Ok(names) => Ok(Some(names.into_iter().map(String::from).collect())),
            Err(error) if error.to_string().contains("E2BIG") => Ok(None),
            Err(_) => Ok(Some(Vec::new())),
        }
    }

    /// Lists many directories at once; those that do not exist are empty.
    pub(super) async fn list_all(
        &self,
        paths: &[String],
    ) -> Result<Vec<Option<Vec<String>>>, RunnerError> {
        let mut lists = Vec::with_capacity(paths.len());
        for batch in paths.chunks(BATCH) {
            for list in join_all(batch.iter().map(|path| self.list(path))).await {
                lists.push(list?);
            }
        }
        Ok(lists)
    }

    /// Removes a node of our own; that it is not there is as good.
    pub(super) async fn remove(&self, path: &str) -> Result<(), RunnerError> {
        let doing = || format!("removing {path}");
        self.alive(doing, self.xs.rm(path)).await.map(drop)
    }

    /// Fails if nobody is there.
    pub(super) async fn heartbeat(&self) -> Result<(), RunnerError> {
        self.read("domid").await.map(drop)
    }

    /// Waits for an answer as long as there is somebody who may give it.
    pub(super) async fn alive<T>(
        &self,
        doing: impl Fn() -> String,
        request: impl Future<Output = io::Result<T>>,
    ) -> Result<io::Result<T>, RunnerError> {
        let lost = |source| RunnerError::Xenstore {
            doing: doing(),
            source,
        };
        let answer = timeout(self.patience, async {
            tokio::select! {
                answer = request => answer,
                dead = self.probe() => Err(dead),
            }
        });
        match answer.await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(lost(error)),
            Ok(answer) => Ok(answer),
            Err(_) => Err(lost(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no answer within {:?}", self.patience),
            ))),
        }
    }

    /// Returns only when the connection turns out to be dead: what the client sends fails once its
    /// sender has met the closed socket.
    async fn probe(&self) -> io::Error {
        loop {
            sleep(PROBE_AFTER).await;
            if let Ok(Err(error)) = timeout(PROBE_AFTER, self.xs.read("domid")).await
                && error.kind() == io::ErrorKind::BrokenPipe
            {
                return error;
            }
        }
    }
}
