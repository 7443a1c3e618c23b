//! The least of a xenstored: one connection, no permissions, no transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use xenstore_rs::tokio::XsTokio;

const HOME: &str = "/local/domain/0/";
const SOCKET: &str = "XENSTORED_PATH";

/// How long a slow answer takes.
const ANSWER_AFTER: Duration = Duration::from_millis(2);

const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const UNWATCH: u32 = 5;
const WRITE: u32 = 11;
const RM: u32 = 13;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

/// Runs the body in a process of its own, because the client finds xenstored by an environment
/// variable, which a process should not change while it runs. `name` is the test's full name.
pub(crate) fn in_own_process<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(SOCKET).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(body());
    }
    let directory = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(SOCKET, directory.path().join("socket"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{complaints}");
    assert!(text.contains("1 passed"), "no test of this name: {name}");
}

struct Message {
    kind: u32,
    request: u32,
    payload: Vec<u8>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Vec<u8>>,
    watches: BTreeSet<(String, String)>,
    /// What the client wrote, as relative paths where they are below its home.
    written: Vec<(String, String)>,
    /// Before the answer to a read of this path, that many events.
    flood: Option<(String, usize)>,
    /// Answers take a moment.
    is_slow: bool,
    /// A watch's first event comes before its answer.
    events_first: bool,
    /// Watches get no answer.
    refuses_watches: bool,
    /// Requests without an answer; not those to end a watch, which the kernel answers by itself.
    unanswered: usize,
    /// A request came while another had no answer.
    overlapped: bool,
    /// Events are swallowed.
    mute: bool,
    refuse_writes: bool,
}

/// A running xenstored; the methods are what others than the client do to it.
#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    out: mpsc::UnboundedSender<Message>,
    hang_up: Arc<Notify>,
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') || path.starts_with('@') {
        path.to_owned()
    } else {
        format!("{HOME}{path}")
    }
}

impl Fake {
    /// Starts one and connects a client to it.
    pub(crate) async fn start() -> (Self, XsTokio) {
        let socket = PathBuf::from(std::env::var_os(SOCKET).unwrap());
        let listener = UnixListener::bind(socket).unwrap();
        let (client, server) = tokio::join!(XsTokio::new(), listener.accept());
        let (out, outgoing) = mpsc::unbounded_channel();
        let fake = Self {
            state: Arc::default(),
            changed: Arc::default(),
            out,
            hang_up: Arc::default(),
        };
        let (stream, _) = server.unwrap();
        tokio::spawn(fake.clone().serve(stream, outgoing));
        (fake, client.unwrap())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Writes several nodes in one transaction.
    pub(crate) fn write_all(&self, nodes: &[(&str, &str)]) {
        for (path, value) in nodes {
            let value = value.as_bytes().to_vec();
            self.state().nodes.insert(absolute(path), value);
        }
        for (path, _) in nodes {
            self.fire(&absolute(path), false);
        }
    }

    pub(crate) fn write(&self, path: &str, value: &str) {
        self.write_all(&[(path, value)]);
    }

    pub(crate) fn write_bytes(&self, path: &str, value: &[u8]) {
        self.state().nodes.insert(absolute(path), value.to_vec());
        self.fire(&absolute(path), false);
    }

    /// Removes a directory with all that is in it.
    pub(crate) fn remove(&self, path: &str) {
        let path = absolute(path);
        let below = format!("{path}/");
        let is_below = |name: &str| name == path || name.starts_with(&below);
        self.state().nodes.retain(|name, _| !is_below(name));
        self.fire(&path, true);
    }

    pub(crate) fn read(&self, path: &str) -> Option<String> {
        let state = self.state();
        let value = state.nodes.get(&absolute(path))?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Waits until the node has the value.
    pub(crate) async fn wait_for(&self, path: &str, value: &str) {
        self.wait_until(|fake| fake.read(path).as_deref() == Some(value))
            .await;
    }

    /// Waits until something is true of it.
    pub(crate) async fn wait_until(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }

    /// Takes what the client wrote so far.
    pub(crate) fn take_written(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.state().written)
    }

    /// How many writes [`Fake::take_written`] would take.
    pub(crate) fn written_count(&self) -> usize {
        self.state().written.len()
    }

    pub(crate) fn watches(&self) -> usize {
        self.state().watches.len()
    }

    pub(crate) fn flood_before_answering(&self, path: &str, events: usize) {
        self.state().flood = Some((absolute(path), events));
    }

    /// Takes a moment for each answer from now on, so that requests that do not wait for one overlap.
    pub(crate) fn slow_down(&self) {
        self.state().is_slow = true;
    }

    /// Is reached by the kernel's device from now on: answers take a moment, and events overtake them.
    pub(crate) fn be_behind_the_kernel(&self) {
        self.slow_down();
        self.state().events_first = true;
    }

    /// Gives watches no answer from now on, which is all that the client sees when the kernel refuses one.
    pub(crate) fn refuse_watches(&self) {
        self.state().refuses_watches = true;
    }

    pub(crate) fn overlapped(&self) -> bool {
        self.state().overlapped
    }

    pub(crate) fn mute(&self, mute: bool) {
        self.state().mute = mute;
    }

    pub(crate) fn refuse_writes(&self, refuse: bool) {
        self.state().refuse_writes = refuse;
    }

    /// Closes the connection.
    pub(crate) fn hang_up(&self) {
        self.hang_up.notify_one();
    }

    /// Tells the watches at, above, and (of a removal) below the path.
    fn fire(&self, path: &str, removal: bool) {
        self.changed.notify_waiters();
        let state = self.state();
        if state.mute {
            return;
        }
        for (watched, token) in &state.watches {
            let at = absolute(watched);
            let below = path == at || path.starts_with(&format!("{at}/"));
            let event = if below {
                path
            } else if removal && at.starts_with(&format!("{path}/")) {
                &at
            } else {
                continue;
            };
            self.send_event(watched, token, event);
        }
    }

    fn send_event(&self, watched: &str, token: &str, path: &str) {
        let path = match path.strip_prefix(HOME) {
            Some(relative) if !watched.starts_with('/') => relative,
            _ => path,
        };
        self.send(WATCH_EVENT, 0, format!("{path}\0{token}\0").into_bytes());
    }

    fn send(&self, kind: u32, request: u32, payload: Vec<u8>) {
        let message = Message {
            kind,
            request,
            payload,
        };
        self.out.send(message).ok();
    }

    async fn serve(self, stream: UnixStream, outgoing: mpsc::UnboundedReceiver<Message>) {
        let (reader, writer) = stream.into_split();
        let writing = tokio::spawn(send_all(writer, outgoing));
        tokio::select! {
            () = self.receive_all(reader) => {}
            () = self.hang_up.notified() => {}
        }
        writing.abort();
    }

    async fn receive_all(&self, mut reader: OwnedReadHalf) {
        loop {
            let mut header = [0_u8; 16];
            if reader.read_exact(&mut header).await.is_err() {
                return;
            }
            let field =
                |at: usize| u32::from_ne_bytes(header[4 * at..4 * at + 4].try_into().unwrap());
            let mut payload = vec![0; field(3) as usize];
            reader.read_exact(&mut payload).await.unwrap();
            self.request(field(0), field(1), &payload);
        }
    }

    fn request(&self, kind: u32, request: u32, payload: &[u8]) {
        let text = String::from_utf8_lossy(payload);
        let mut parts = text.split('\0');
        let first = parts.next().unwrap_or_default().to_owned();
        let second = parts.next().unwrap_or_default().to_owned();
        if kind == WATCH && self.state().refuses_watches {
            return;
        }
        let answer = match kind {
            DIRECTORY => self.directory(&absolute(&first)),
            READ => self.answer_read(&absolute(&first)),
            WRITE => self.client_writes(&first, &second),
            RM => {
                self.remove(&first);
                Ok(b"OK\0".to_vec())
            }
            WATCH | UNWATCH => {
                let entry = (first.clone(), second.clone());
                if kind == WATCH {
                    self.state().watches.insert(entry);
                } else {
                    self.state().watches.remove(&entry);
                }
                Ok(b"OK\0".to_vec())
            }
            _ => Err("ENOSYS"),
        };
        let (kind_of_answer, payload) = match answer {
            Ok(payload) => (kind, payload),
            Err(error) => (ERROR, format!("{error}\0").into_bytes()),
        };
        let counts = usize::from(kind != UNWATCH);
        let mut state = self.state();
        state.overlapped |= state.unanswered > 0;
        state.unanswered += counts;
        let (is_slow, events_first) = (state.is_slow, state.events_first);
        drop(state);
        if kind == WATCH && events_first {
            self.send_event(&first, &second, &absolute(&first));
        }
        let fake = self.clone();
        let send = move || {
            fake.state().unanswered -= counts;
            fake.send(kind_of_answer, request, payload);
            if kind == WATCH && !events_first {
                fake.send_event(&first, &second, &absolute(&first));
            }
            fake.changed.notify_waiters();
        };
        if is_slow {
            tokio::spawn(async move {
                tokio::time::sleep(ANSWER_AFTER).await;
                send();
            });
        } else {
            send();
        }
    }

    fn answer_read(&self, path: &str) -> Result<Vec<u8>, &'static str> {
        let flood = self.state().flood.take_if(|(flooded, _)| flooded == path);
        for _ in 0..flood.map_or(0, |(_, events)| events) {
            self.fire(&absolute("backend/vbd3/7/1/feature"), false);
        }
        self.state().nodes.get(path).cloned().ok_or("ENOENT")
    }

    fn client_writes(&self, path: &str, value: &str) -> Result<Vec<u8>, &'static str> {
        if self.state().refuse_writes {
            return Err("EACCES");
        }
        let entry = (path.to_owned(), value.to_owned());
        self.state().written.push(entry);
        self.write(path, value);
        Ok(b"OK\0".to_vec())
    }

    fn directory(&self, path: &str) -> Result<Vec<u8>, &'static str> {
        let below = format!("{path}/");
        let state = self.state();
        let names: BTreeSet<&str> = state
            .nodes
            .range(below.clone()..)
            .take_while(|(name, _)| name.starts_with(&below))
            .filter_map(|(name, _)| name[below.len()..].split('/').next())
            .collect();
        if names.is_empty() && !state.nodes.contains_key(path) {
            return Err("ENOENT");
        }
        let mut payload = Vec::new();
        for name in names {
            payload.extend_from_slice(name.as_bytes());
            payload.push(0);
        }
        if payload.len() > 4096 {
            return Err("E2BIG");
        }
        Ok(payload)
    }
}

async fn send_all(mut writer: OwnedWriteHalf, mut outgoing: mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = outgoing.recv().await {
        let length = u32::try_from(message.payload.len()).unwrap();
        let mut bytes = Vec::new();
        for field in [message.kind, message.request, 0, length] {
            bytes.extend_from_slice(&field.to_ne_bytes());
        }
        bytes.extend_from_slice(&message.payload);
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
