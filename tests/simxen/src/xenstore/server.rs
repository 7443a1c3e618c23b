//! The socket of the store: one thread reads each client's requests, another writes its replies and events, so that a
//! client that does not read never holds up the others.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

use super::Shared;
use super::path::Path;
use super::store::{Change, ConnectionId, Store, TransactionId};
use super::wire::{MessageType, PAYLOAD_BYTES_MAX, RawRequest, XsError, message};
use crate::error::{Error, Result};
use crate::ids::DomId;

/// The listening socket and the clients that came by it. Dropping it disconnects them all.
#[derive(Debug)]
pub(crate) struct Server {
    socket_path: PathBuf,
    streams: Arc<Mutex<Vec<UnixStream>>>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(socket_path: &FilePath, shared: &Arc<Shared>) -> Result<Self> {
        let listener = UnixListener::bind(socket_path)
            .map_err(Error::io(format!("listen on {}", socket_path.display())))?;
        let streams = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = std::thread::spawn({
            let (shared, streams, stopping) = (
                Arc::clone(shared),
                Arc::clone(&streams),
                Arc::clone(&stopping),
            );
            move || accept_clients(&listener, &shared, &streams, &stopping)
        });
        Ok(Self {
            socket_path: socket_path.to_owned(),
            streams,
            stopping,
            acceptor: Some(acceptor),
        })
    }

    /// Cuts every client's connection, as a restart of xenstored would.
    pub(crate) fn disconnect_all(&self) {
        for stream in self.streams.lock().expect("no thread panicked").drain(..) {
            // It fails only if the client has gone by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the acceptor, which then sees the flag.
        let woken = UnixStream::connect(&self.socket_path).is_ok();
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken) {
            let _ = acceptor.join();
        }
        self.disconnect_all();
    }
}

fn accept_clients(
    listener: &UnixListener,
    shared: &Arc<Shared>,
    streams: &Mutex<Vec<UnixStream>>,
    stopping: &AtomicBool,
) {
    for stream in listener.incoming() {
        if stopping.load(Ordering::Acquire) {
            return;
        }
        // A client that fails while connecting is as good as one that never came.
        let Ok(stream) = stream else { continue };
        let Ok(copy) = stream.try_clone() else {
            continue;
        };
        streams.lock().expect("no thread panicked").push(copy);
        let shared = Arc::clone(shared);
        std::thread::spawn(move || serve_client(stream, &shared));
    }
}

fn serve_client(mut stream: UnixStream, shared: &Shared) {
    let Ok(mut writing) = stream.try_clone() else {
        return;
    };
    let (outbox, messages) = mpsc::channel::<Vec<u8>>();
    let writer = std::thread::spawn(move || {
        for message in messages {
            if writing.write_all(&message).is_err() {
                break;
            }
        }
        // Also ends the reader, if the client has stopped reading for good.
        let _ = writing.shutdown(Shutdown::Both);
    });
    let id = shared.lock().connect(outbox);
    while let Ok(request) = RawRequest::read_from(&mut stream) {
        answer(&mut shared.lock(), id, &request);
        shared.changed.notify_all();
    }
    shared.lock().disconnect(id);
    let _ = writer.join();
}

fn answer(store: &mut Store, id: ConnectionId, request: &RawRequest) {
    let Some(message_type) = MessageType::of_request(request.code) else {
        return refuse(store, id, request, XsError::Enosys);
    };
    // A watch's first event follows the acknowledgement, so it is not a plain reply.
    if message_type == MessageType::Watch {
        return match start_watch(store, id, &request.payload) {
            Ok(first_event) => {
                store.send(id, message(message_type, request.tag, b"OK\0"));
                store.send(id, first_event);
            }
            Err(error) => refuse(store, id, request, error),
        };
    }
    match execute(store, id, message_type, request) {
        Ok(payload) if payload.len() > PAYLOAD_BYTES_MAX => {
            refuse(store, id, request, XsError::E2big);
        }
        Ok(payload) => store.send(id, message(message_type, request.tag, &payload)),
        Err(error) => refuse(store, id, request, error),
    }
}

fn refuse(store: &Store, id: ConnectionId, request: &RawRequest, error: XsError) {
    let name = format!("{error}\0");
    store.send(
        id,
        message(MessageType::Error, request.tag, name.as_bytes()),
    );
}

fn execute(
    store: &mut Store,
    id: ConnectionId,
    message_type: MessageType,
    request: &RawRequest,
) -> Result<Vec<u8>, XsError> {
    let payload = &request.payload[..];
    let transaction = Some(TransactionId(request.tag.transaction_id)).filter(|id| id.0 != 0);
    match message_type {
        MessageType::Read => {
            let node = store.look(id, transaction, &only_path(payload)?)?;
            Ok(node.value.clone())
        }
        MessageType::Directory => {
            let node = store.look(id, transaction, &only_path(payload)?)?;
            Ok(name_list(node.children()))
        }
        MessageType::DirectoryPart => directory_part(store, id, transaction, payload),
        MessageType::GetPerms => {
            let node = store.look(id, transaction, &only_path(payload)?)?;
            Ok(node.permissions.clone())
        }
        MessageType::Write | MessageType::Mkdir | MessageType::Rm | MessageType::SetPerms => {
            store.change(id, transaction, requested_change(message_type, payload)?)?;
            Ok(b"OK\0".to_vec())
        }
        MessageType::Unwatch => {
            let (path, token) = two_strings(payload)?;
            store.unwatch(id, path, token).map(|()| b"OK\0".to_vec())
        }
        MessageType::ResetWatches => store.reset(id).map(|()| b"OK\0".to_vec()),
        MessageType::TransactionStart if transaction.is_some() => Err(XsError::Ebusy),
        MessageType::TransactionStart => {
            let started = store.start_transaction(id)?;
            Ok(format!("{}\0", started.0).into_bytes())
        }
        MessageType::TransactionEnd => {
            let commit = match payload {
                b"T\0" => true,
                b"F\0" => false,
                _ => return Err(XsError::Einval),
            };
            let transaction = transaction.ok_or(XsError::Enoent)?;
            store.end_transaction(id, transaction, commit)?;
            Ok(b"OK\0".to_vec())
        }
        MessageType::GetDomainPath => {
            let domain = domain_id(payload)?;
            Ok(format!("/local/domain/{domain}\0").into_bytes())
        }
        MessageType::IsDomainIntroduced => {
            let introduced = store.is_introduced(domain_id(payload)?);
            Ok(if introduced { b"T\0" } else { b"F\0" }.to_vec())
        }
        MessageType::Watch | MessageType::WatchEvent | MessageType::Error => Err(XsError::Einval),
    }
}

fn requested_change(message_type: MessageType, payload: &[u8]) -> Result<Change, XsError> {
    match message_type {
        MessageType::Write => {
            let (path, value) = split_at_nul(payload)?;
            Ok(Change::Write(Path::resolve(path)?, value.to_vec()))
        }
        MessageType::Mkdir => Ok(Change::Make(only_path(payload)?)),
        MessageType::Rm => Ok(Change::Remove(only_path(payload)?)),
        MessageType::SetPerms => {
            let (path, permissions) = split_at_nul(payload)?;
            check_permissions(permissions)?;
            Ok(Change::SetPermissions(
                Path::resolve(path)?,
                permissions.to_vec(),
            ))
        }
        _ => Err(XsError::Einval),
    }
}

/// Each entry is a letter of access and a domain, with a zero byte at its end.
fn check_permissions(permissions: &[u8]) -> Result<(), XsError> {
    let entries = permissions.strip_suffix(b"\0").ok_or(XsError::Einval)?;
    for entry in entries.split(|&c| c == 0) {
        let (access, domain) = entry.split_first().ok_or(XsError::Einval)?;
        if !b"wrbn".contains(access) || !domain.iter().all(u8::is_ascii_digit) || domain.is_empty()
        {
            return Err(XsError::Einval);
        }
    }
    Ok(())
}

/// A part of a long list of children: as many whole names from the byte offset as fit, and an empty one at the end.
fn directory_part(
    store: &mut Store,
    id: ConnectionId,
    transaction: Option<TransactionId>,
    payload: &[u8],
) -> Result<Vec<u8>, XsError> {
    let (path, offset) = two_strings(payload)?;
    let offset: usize = number(offset)?;
    let node = store.look(id, transaction, &Path::resolve(path)?)?;
    let names = name_list(node.children());
    let rest = names.get(offset..).ok_or(XsError::Einval)?;
    let mut part = format!("{}\0", node.generation).into_bytes();
    // One byte stays free for the mark of the end.
    let room = PAYLOAD_BYTES_MAX - part.len() - 1;
    if rest.len() <= room {
        part.extend_from_slice(rest);
        part.push(0);
    } else {
        let last_whole = rest[..room].iter().rposition(|&c| c == 0);
        part.extend_from_slice(&rest[..=last_whole.ok_or(XsError::E2big)?]);
    }
    Ok(part)
}

fn start_watch(store: &mut Store, id: ConnectionId, payload: &[u8]) -> Result<Vec<u8>, XsError> {
    let (path, token) = two_strings(payload)?;
    store.watch(id, path, token)
}

fn name_list<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
    names
        .flat_map(|name| name.iter().copied().chain([0]))
        .collect()
}

fn split_at_nul(payload: &[u8]) -> Result<(&[u8], &[u8]), XsError> {
    let nul = payload.iter().position(|&c| c == 0);
    let nul = nul.ok_or(XsError::Einval)?;
    Ok((&payload[..nul], &payload[nul + 1..]))
}

fn one_string(payload: &[u8]) -> Result<&[u8], XsError> {
    match split_at_nul(payload)? {
        (string, b"") => Ok(string),
        _ => Err(XsError::Einval),
    }
}

fn two_strings(payload: &[u8]) -> Result<(&[u8], &[u8]), XsError> {
    let (first, rest) = split_at_nul(payload)?;
    Ok((first, one_string(rest)?))
}

fn only_path(payload: &[u8]) -> Result<Path, XsError> {
    Path::resolve(one_string(payload)?)
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Result<T, XsError> {
    let text = std::str::from_utf8(text).map_err(|_| XsError::Einval)?;
    text.parse().map_err(|_| XsError::Einval)
}

fn domain_id(payload: &[u8]) -> Result<DomId, XsError> {
    Ok(DomId(number(one_string(payload)?)?))
}
