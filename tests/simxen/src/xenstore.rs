//! An in-memory xenstore: on a unix socket for the processes under test, directly for the tests themselves.

mod path;
mod server;
mod store;
mod tree;
mod wire;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

pub use wire::XsError;

use crate::error::{Error, Result};
use crate::ids::DomId;
use path::Path;
pub(crate) use server::Server;
use store::{Change, ConnectionId, Store, TransactionId};

/// The store and a signal for those who wait for a change of it.
#[derive(Debug)]
pub(crate) struct Shared {
    store: Mutex<Store>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().expect("no thread panicked in the store")
    }
}

/// Direct access to the store, with the rights of domain 0. Paths are as on the wire: absolute, or relative to
/// `/local/domain/0`. Clones are the same store.
#[derive(Clone, Debug)]
pub struct Xenstore {
    shared: Arc<Shared>,
}

impl Xenstore {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                store: Mutex::new(Store::new()),
                changed: Condvar::new(),
            }),
        }
    }

    pub(crate) fn serve(&self, socket_path: &std::path::Path) -> Result<Server> {
        Server::start(socket_path, &self.shared)
    }

    /// The value of a node, or `None` if there is no such node.
    ///
    /// # Panics
    /// If the path is malformed: that is a mistake in the test.
    #[must_use]
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let path = well_formed(path);
        self.shared
            .lock()
            .node(&path)
            .map(|node| node.value.clone())
    }

    /// The value of a node as text, with bytes that are not UTF-8 replaced; `None` if there is no such node.
    ///
    /// # Panics
    /// As [`Self::read`].
    #[must_use]
    pub fn read_text(&self, path: &str) -> Option<String> {
        self.read(path)
            .map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// The names of a node's children, in order; `None` if there is no such node.
    ///
    /// # Panics
    /// As [`Self::read`].
    #[must_use]
    pub fn ls(&self, path: &str) -> Option<Vec<String>> {
        let path = well_formed(path);
        let store = self.shared.lock();
        let names = store.node(&path)?.children();
        Some(
            names
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect(),
        )
    }

    /// All nodes at and beneath a path with their values, in the order of their paths.
    ///
    /// # Panics
    /// As [`Self::read`].
    #[must_use]
    pub fn dump(&self, path: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let Some(value) = self.read_text(path) else {
            return found;
        };
        found.push((path.to_owned(), value));
        for name in self.ls(path).unwrap_or_default() {
            found.extend(self.dump(&format!("{}/{name}", path.trim_end_matches('/'))));
        }
        found
    }

    /// Stores a value, making missing parents.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path.
    pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<()> {
        self.change("write", path, |path| {
            Change::Write(path, value.as_ref().to_vec())
        })
    }

    /// Makes a node, and missing parents, with empty values.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path.
    pub fn mkdir(&self, path: &str) -> Result<()> {
        self.change("mkdir", path, Change::Make)
    }

    /// Removes a node and all beneath it; one that is missing is no error.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path.
    pub fn rm(&self, path: &str) -> Result<()> {
        match self.change("rm", path, Change::Remove) {
            Err(Error::Xenstore {
                source: XsError::Enoent,
                ..
            }) => Ok(()),
            outcome => outcome,
        }
    }

    /// Sets a node's permissions, given as xenstore writes them, e.g. `["n0", "r5"]`.
    ///
    /// # Errors
    /// `ENOENT` if there is no such node.
    pub fn set_permissions(&self, path: &str, permissions: &[&str]) -> Result<()> {
        let on_wire: Vec<u8> = permissions
            .iter()
            .flat_map(|entry| entry.bytes().chain([0]))
            .collect();
        self.change("set permissions of", path, |path| {
            Change::SetPermissions(path, on_wire)
        })
    }

    fn change(
        &self,
        operation: &'static str,
        path: &str,
        change: impl FnOnce(Path) -> Change,
    ) -> Result<()> {
        Path::resolve(path.as_bytes())
            .and_then(|resolved| self.shared.lock().change_now(&[change(resolved)]))
            .map_err(|source| Error::Xenstore {
                operation,
                path: path.to_owned(),
                source,
            })?;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Begins a transaction. It is given up when dropped uncommitted.
    #[must_use]
    pub fn transaction(&self) -> Transaction {
        let mut store = self.shared.lock();
        // Nothing is ever sent to this connection, as it sets no watches.
        let (outbox, _) = mpsc::channel();
        let connection = store.connect(outbox);
        let id = store
            .start_transaction(connection)
            .expect("the connection was made just now");
        drop(store);
        Transaction {
            store: self.clone(),
            connection,
            id,
        }
    }

    /// Waits until the value of a node (`None`: missing) satisfies the predicate, and returns that value.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last value.
    ///
    /// # Panics
    /// As [`Self::read`].
    pub fn wait_for(
        &self,
        path: &str,
        predicate: impl Fn(Option<&[u8]>) -> bool,
        timeout: Duration,
    ) -> Result<Option<Vec<u8>>> {
        let resolved = well_formed(path);
        let last_seen = |store: &Store| store.node(&resolved).map(|node| node.value.clone());
        self.wait_until(&format!("a change of {path}"), timeout, |store| {
            let value = last_seen(store);
            if predicate(value.as_deref()) {
                return Ok(value);
            }
            Err(value.map_or("no such node".to_owned(), |value| {
                format!("{:?}", String::from_utf8_lossy(&value))
            }))
        })
    }

    /// Waits until a node has exactly this value.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last value.
    ///
    /// # Panics
    /// As [`Self::read`].
    pub fn wait_for_value(&self, path: &str, value: &str, timeout: Duration) -> Result<()> {
        self.wait_for(path, |now| now == Some(value.as_bytes()), timeout)
            .map(drop)
            .map_err(|error| match error {
                Error::Timeout { waited, last, .. } => Error::Timeout {
                    what: format!("{path} to be {value:?}"),
                    waited,
                    last,
                },
                other => other,
            })
    }

    /// Waits until all clients together have at least `count` watches: then a client that sets that many is listening.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the count reached.
    pub fn wait_for_watches(&self, count: usize, timeout: Duration) -> Result<()> {
        self.wait_until(&format!("{count} watches"), timeout, |store| {
            let now = store.watch_count();
            if now >= count {
                return Ok(());
            }
            Err(format!("{now} watches"))
        })
    }

    /// Evaluates `look` now and after each change until it succeeds; its error says what was seen.
    fn wait_until<T>(
        &self,
        what: &str,
        timeout: Duration,
        look: impl Fn(&Store) -> Result<T, String>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        let mut store = self.shared.lock();
        loop {
            let last = match look(&store) {
                Ok(found) => return Ok(found),
                Err(last) => last,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout {
                    what: what.to_owned(),
                    waited: timeout,
                    last,
                });
            }
            let (guard, _) = self
                .shared
                .changed
                .wait_timeout(store, left)
                .expect("no thread panicked in the store");
            store = guard;
        }
    }

    /// Tells the store that a domain is there: fires `@introduceDomain`.
    pub fn introduce(&self, domain: DomId) {
        self.shared.lock().introduce(domain);
    }

    /// Tells the store that a domain is gone: fires `@releaseDomain`.
    pub fn release(&self, domain: DomId) {
        self.shared.lock().release(domain);
    }
}

fn well_formed(path: &str) -> Path {
    Path::resolve(path.as_bytes())
        .unwrap_or_else(|_| panic!("{path:?} is not a valid xenstore path"))
}

/// A transaction of the tests' own: all of its changes happen at once, or none.
#[derive(Debug)]
pub struct Transaction {
    store: Xenstore,
    connection: ConnectionId,
    id: TransactionId,
}

impl Transaction {
    /// The value of a node as the transaction sees it, or `None` if there is no such node.
    ///
    /// # Panics
    /// As [`Xenstore::read`].
    #[must_use]
    pub fn read(&self, path: &str) -> Option<Vec<u8>> {
        let path = well_formed(path);
        let mut store = self.store.shared.lock();
        let node = store.look(self.connection, Some(self.id), &path);
        node.ok().map(|node| node.value.clone())
    }

    /// Stores a value.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path.
    pub fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<()> {
        self.change("write", path, |path| {
            Change::Write(path, value.as_ref().to_vec())
        })
    }

    /// Makes a node.
    ///
    /// # Errors
    /// `EINVAL` for a malformed path.
    pub fn mkdir(&self, path: &str) -> Result<()> {
        self.change("mkdir", path, Change::Make)
    }

    /// Removes a node and all beneath it.
    ///
    /// # Errors
    /// `ENOENT` if not even its parent exists; `EINVAL` for a malformed path.
    pub fn rm(&self, path: &str) -> Result<()> {
        self.change("rm", path, Change::Remove)
    }

    /// Sets a node's permissions, as [`Xenstore::set_permissions`].
    ///
    /// # Errors
    /// `ENOENT` if there is no such node.
    pub fn set_permissions(&self, path: &str, permissions: &[&str]) -> Result<()> {
        let on_wire: Vec<u8> = permissions
            .iter()
            .flat_map(|entry| entry.bytes().chain([0]))
            .collect();
        self.change("set permissions of", path, |path| {
            Change::SetPermissions(path, on_wire)
        })
    }

    fn change(
        &self,
        operation: &'static str,
        path: &str,
        change: impl FnOnce(Path) -> Change,
    ) -> Result<()> {
        Path::resolve(path.as_bytes())
            .and_then(|resolved| {
                let mut store = self.store.shared.lock();
                store.change(self.connection, Some(self.id), change(resolved))
            })
            .map_err(|source| Error::Xenstore {
                operation,
                path: path.to_owned(),
                source,
            })
    }

    /// Makes the changes visible, all at once. Returns whether it did: if not, something that the transaction has read
    /// was changed by another, and it has to be done again.
    ///
    /// # Errors
    /// None that a correct caller meets; the type is that of the other operations.
    pub fn commit(self) -> Result<bool> {
        let outcome = self
            .store
            .shared
            .lock()
            .end_transaction(self.connection, self.id, true);
        self.store.shared.changed.notify_all();
        match outcome {
            Ok(()) => Ok(true),
            Err(XsError::Eagain) => Ok(false),
            Err(source) => Err(Error::Xenstore {
                operation: "commit",
                path: "of a transaction".to_owned(),
                source,
            }),
        }
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.store.shared.lock().disconnect(self.connection);
    }
}
