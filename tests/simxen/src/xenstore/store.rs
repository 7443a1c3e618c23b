//! The state of the store: tree, watches and transactions. Single-threaded; the caller locks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc;

use super::path::{DOM0_HOME, Path};
use super::tree::{Generation, Node, Removal, Tree};
use super::wire::{XsError, watch_event};
use crate::ids::DomId;

/// Fires when a domain is introduced.
pub(crate) const INTRODUCE_DOMAIN: &[u8] = b"@introduceDomain";
/// Fires when a domain is shut down, crashes or is destroyed.
pub(crate) const RELEASE_DOMAIN: &[u8] = b"@releaseDomain";

/// Names a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// Names a transaction of one connection; zero on the wire means none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TransactionId(pub(crate) u32);

/// A change that a client asks for.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(Path, Vec<u8>),
    Make(Path),
    Remove(Path),
    SetPermissions(Path, Vec<u8>),
}

/// A change that has happened, for matching against watches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happened {
    /// Concerns watches on the path and on its ancestors.
    At(Path),
    /// A node that vanished with an ancestor: concerns only watches on exactly that path.
    Under(Path),
}

#[derive(Debug, PartialEq, Eq)]
enum Watched {
    Node {
        path: Path,
        /// Registered relative to domain 0's home, so events are told in the same form.
        relative: bool,
    },
    Special(Vec<u8>),
}

#[derive(Debug)]
struct Watch {
    watched: Watched,
    token: Vec<u8>,
}

impl Watch {
    /// The event path in the form in which the watch was registered, if the change concerns the watch.
    fn event_path<'p>(&self, happened: &'p Happened) -> Option<&'p [u8]> {
        let Watched::Node { path, relative } = &self.watched else {
            return None;
        };
        let (changed, concerned) = match happened {
            Happened::At(changed) => (changed, changed.is_at_or_below(path)),
            Happened::Under(changed) => (changed, changed == path),
        };
        let prefix_bytes = if *relative { DOM0_HOME.len() + 1 } else { 0 };
        concerned.then(|| &changed.as_bytes()[prefix_bytes..])
    }
}

#[derive(Debug)]
struct Transaction {
    /// The store when the transaction began.
    base: Tree,
    /// The store as the transaction sees it.
    view: Tree,
    changes: Vec<Change>,
    /// Nodes whose state at the beginning the transaction has looked at.
    observed: BTreeSet<Path>,
}

/// One client: where messages to it go, and what it has set up.
#[derive(Debug)]
struct Connection {
    outbox: mpsc::Sender<Vec<u8>>,
    watches: Vec<Watch>,
    transactions: BTreeMap<TransactionId, Transaction>,
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    tree: Tree,
    generation: Generation,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
    next_transaction: u32,
    introduced: BTreeSet<DomId>,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            tree: Tree::new(),
            generation: 0,
            connections: BTreeMap::new(),
            next_connection: 1,
            next_transaction: 1,
            introduced: BTreeSet::new(),
        }
    }

    pub(crate) fn connect(&mut self, outbox: mpsc::Sender<Vec<u8>>) -> ConnectionId {
        let id = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.connections.insert(
            id,
            Connection {
                outbox,
                watches: Vec::new(),
                transactions: BTreeMap::new(),
            },
        );
        id
    }

    pub(crate) fn disconnect(&mut self, id: ConnectionId) {
        self.connections.remove(&id);
    }

    /// Queues a message to a client; to one that is gone, drops it.
    pub(crate) fn send(&self, id: ConnectionId, message: Vec<u8>) {
        if let Some(connection) = self.connections.get(&id) {
            // A send fails only when the writer is gone, and then the reader is about to disconnect.
            let _ = connection.outbox.send(message);
        }
    }

    /// How many watches all clients together have.
    pub(crate) fn watch_count(&self) -> usize {
        self.connections
            .values()
            .map(|connection| connection.watches.len())
            .sum()
    }

    fn connection(&mut self, id: ConnectionId) -> Result<&mut Connection, XsError> {
        self.connections.get_mut(&id).ok_or(XsError::Einval)
    }

    fn transaction(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
    ) -> Result<&mut Transaction, XsError> {
        self.connection(id)?
            .transactions
            .get_mut(&transaction)
            .ok_or(XsError::Enoent)
    }

    /// Looks at a node, in a transaction or outside of one.
    ///
    /// # Errors
    /// `ENOENT` for a missing node or transaction.
    pub(crate) fn look(
        &mut self,
        id: ConnectionId,
        transaction: Option<TransactionId>,
        path: &Path,
    ) -> Result<&Node, XsError> {
        let Some(transaction) = transaction else {
            return self.node(path).ok_or(XsError::Enoent);
        };
        let transaction = self.transaction(id, transaction)?;
        transaction.observed.insert(path.clone());
        transaction.view.get(path).ok_or(XsError::Enoent)
    }

    /// Looks at a node outside of any transaction.
    pub(crate) fn node(&self, path: &Path) -> Option<&Node> {
        self.tree.get(path)
    }

    /// Makes a change, in a transaction or outside of one.
    ///
    /// # Errors
    /// As the change itself: `ENOENT` or `EINVAL`.
    pub(crate) fn change(
        &mut self,
        id: ConnectionId,
        transaction: Option<TransactionId>,
        change: Change,
    ) -> Result<(), XsError> {
        let Some(transaction) = transaction else {
            return self.change_now(&[change]);
        };
        self.generation += 1;
        let generation = self.generation;
        let transaction = self.transaction(id, transaction)?;
        let outcome = apply(&mut transaction.view, &change, generation);
        match outcome {
            Ok(_) => transaction.changes.push(change),
            // The client was told that something is missing, so that must still hold at the end.
            Err(_) => transaction.observed.extend(parent_and_self(&change)),
        }
        outcome.map(drop)
    }

    /// Makes changes at once: all of them or, on an error, none.
    pub(crate) fn change_now(&mut self, changes: &[Change]) -> Result<(), XsError> {
        self.generation += 1;
        let happened = match changes {
            // A single change does nothing if it fails, so it needs no copy of the nodes on its way.
            [change] => apply(&mut self.tree, change, self.generation)?,
            changes => {
                let mut tree = self.tree.clone();
                let happened = apply_all(&mut tree, changes, self.generation)?;
                self.tree = tree;
                happened
            }
        };
        for event in &happened {
            self.fire(event);
        }
        Ok(())
    }

    fn fire(&self, happened: &Happened) {
        for (id, connection) in &self.connections {
            for watch in &connection.watches {
                if let Some(path) = watch.event_path(happened) {
                    self.send(*id, watch_event(path, &watch.token));
                }
            }
        }
    }

    fn fire_special(&self, name: &[u8]) {
        for (id, connection) in &self.connections {
            for watch in &connection.watches {
                if watch.watched == Watched::Special(name.to_vec()) {
                    self.send(*id, watch_event(name, &watch.token));
                }
            }
        }
    }

    /// Records that a domain is there, and fires `@introduceDomain`.
    pub(crate) fn introduce(&mut self, domain: DomId) {
        self.introduced.insert(domain);
        self.fire_special(INTRODUCE_DOMAIN);
    }

    /// Records that a domain is gone, and fires `@releaseDomain`.
    pub(crate) fn release(&mut self, domain: DomId) {
        self.introduced.remove(&domain);
        self.fire_special(RELEASE_DOMAIN);
    }

    pub(crate) fn is_introduced(&self, domain: DomId) -> bool {
        self.introduced.contains(&domain)
    }

    /// Sets a watch. The caller acknowledges, and then sends the first event, which is returned.
    ///
    /// # Errors
    /// `EINVAL` for a bad path, `EEXIST` for the same path and token again.
    pub(crate) fn watch(
        &mut self,
        id: ConnectionId,
        registered: &[u8],
        token: &[u8],
    ) -> Result<Vec<u8>, XsError> {
        let watched = watched(registered)?;
        let connection = self.connection(id)?;
        if connection
            .watches
            .iter()
            .any(|watch| same_target(&watch.watched, &watched) && watch.token == token)
        {
            return Err(XsError::Eexist);
        }
        connection.watches.push(Watch {
            watched,
            token: token.to_vec(),
        });
        Ok(watch_event(registered, token))
    }

    /// Ends a watch.
    ///
    /// # Errors
    /// `EINVAL` for a bad path, `ENOENT` if there is no such watch.
    pub(crate) fn unwatch(
        &mut self,
        id: ConnectionId,
        registered: &[u8],
        token: &[u8],
    ) -> Result<(), XsError> {
        let watched = watched(registered)?;
        let watches = &mut self.connection(id)?.watches;
        let index = watches
            .iter()
            .position(|watch| same_target(&watch.watched, &watched) && watch.token == token)
            .ok_or(XsError::Enoent)?;
        watches.remove(index);
        Ok(())
    }

    /// Ends all watches and transactions of a client.
    pub(crate) fn reset(&mut self, id: ConnectionId) -> Result<(), XsError> {
        let connection = self.connection(id)?;
        connection.watches.clear();
        connection.transactions.clear();
        Ok(())
    }

    pub(crate) fn start_transaction(&mut self, id: ConnectionId) -> Result<TransactionId, XsError> {
        let transaction = TransactionId(self.next_transaction);
        // Zero means "no transaction" on the wire.
        self.next_transaction = self.next_transaction.checked_add(1).unwrap_or(1);
        let base = self.tree.clone();
        self.connection(id)?.transactions.insert(
            transaction,
            Transaction {
                view: base.clone(),
                base,
                changes: Vec::new(),
                observed: BTreeSet::new(),
            },
        );
        Ok(transaction)
    }

    /// Ends a transaction. Committing repeats its changes on the store of now, which is the same as having run the
    /// whole transaction now, as long as all that it looked at is unchanged.
    ///
    /// # Errors
    /// `ENOENT` if there is no such transaction; `EAGAIN` if something that it looked at has changed since.
    pub(crate) fn end_transaction(
        &mut self,
        id: ConnectionId,
        transaction: TransactionId,
        commit: bool,
    ) -> Result<(), XsError> {
        let transaction = self
            .connection(id)?
            .transactions
            .remove(&transaction)
            .ok_or(XsError::Enoent)?;
        if !commit || transaction.changes.is_empty() {
            return Ok(());
        }
        let unchanged = transaction.observed.iter().all(|path| {
            let then = transaction.base.get(path).map(|node| node.generation);
            let now = self.tree.get(path).map(|node| node.generation);
            then == now
        });
        if !unchanged {
            return Err(XsError::Eagain);
        }
        self.change_now(&transaction.changes)
            .map_err(|_| XsError::Eagain)
    }
}

fn parent_and_self(change: &Change) -> impl Iterator<Item = Path> + use<> {
    let (Change::Write(path, _)
    | Change::Make(path)
    | Change::Remove(path)
    | Change::SetPermissions(path, _)) = change;
    path.parent().into_iter().chain([path.clone()])
}

/// Applies changes in their order; what happened several times is told once.
fn apply_all(
    tree: &mut Tree,
    changes: &[Change],
    generation: Generation,
) -> Result<Vec<Happened>, XsError> {
    let mut happened = Vec::new();
    for change in changes {
        for event in apply(tree, change, generation)? {
            if !happened.contains(&event) {
                happened.push(event);
            }
        }
    }
    Ok(happened)
}

fn apply(
    tree: &mut Tree,
    change: &Change,
    generation: Generation,
) -> Result<Vec<Happened>, XsError> {
    match change {
        Change::Write(path, value) => {
            tree.write(path, value, generation);
            Ok(vec![Happened::At(path.clone())])
        }
        Change::Make(path) => {
            let made = tree.make(path, generation);
            Ok(made
                .then(|| Happened::At(path.clone()))
                .into_iter()
                .collect())
        }
        Change::SetPermissions(path, permissions) => {
            tree.set_permissions(path, permissions, generation)?;
            Ok(vec![Happened::At(path.clone())])
        }
        Change::Remove(path) => match tree.remove(path, generation)? {
            Removal::Absent => Ok(Vec::new()),
            Removal::Removed { descendants } => {
                let mut happened = vec![Happened::At(path.clone())];
                happened.extend(descendants.into_iter().map(Happened::Under));
                Ok(happened)
            }
        },
    }
}

fn watched(registered: &[u8]) -> Result<Watched, XsError> {
    if registered.first() == Some(&b'@') {
        return Ok(Watched::Special(registered.to_vec()));
    }
    Ok(Watched::Node {
        path: Path::resolve(registered)?,
        relative: registered.first() != Some(&b'/'),
    })
}

/// Whether two watches are on the same thing, in whichever form it was given.
fn same_target(one: &Watched, other: &Watched) -> bool {
    match (one, other) {
        (Watched::Node { path: one, .. }, Watched::Node { path: other, .. }) => one == other,
        (one, other) => one == other,
    }
}
