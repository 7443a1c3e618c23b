//! The hypervisor's socket: one thread for each backend process.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    SocketAddrUnix, SocketFlags, SocketType,
};

use super::wire::{DESCRIPTORS_MAX, PACKET_BYTES_MAX, Reply, Request};
use crate::error::{Error, Result};
use crate::hypervisor::Hypervisor;

const BACKLOG: i32 = 16;

/// The listening socket and the processes that came by it. Dropping it disconnects them.
#[derive(Debug)]
pub(crate) struct Server {
    socket_path: PathBuf,
    connections: Arc<Mutex<Vec<OwnedFd>>>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(socket_path: &Path, hypervisor: &Arc<Hypervisor>) -> Result<Self> {
        let listener = listen(socket_path)
            .map_err(Error::os(format!("listen on {}", socket_path.display())))?;
        let connections = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = std::thread::spawn({
            let (hypervisor, connections, stopping) = (
                Arc::clone(hypervisor),
                Arc::clone(&connections),
                Arc::clone(&stopping),
            );
            move || accept_backends(&listener, &hypervisor, &connections, &stopping)
        });
        Ok(Self {
            socket_path: socket_path.to_owned(),
            connections,
            stopping,
            acceptor: Some(acceptor),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // Wakes the acceptor, which then sees the flag.
        let woken = connect(&self.socket_path).is_ok();
        if let Some(acceptor) = self.acceptor.take().filter(|_| woken) {
            let _ = acceptor.join();
        }
        for connection in self
            .connections
            .lock()
            .expect("no thread panicked")
            .drain(..)
        {
            // It fails only if the process has gone by itself.
            let _ = rustix::net::shutdown(&connection, Shutdown::Both);
        }
    }
}

fn new_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

fn listen(socket_path: &Path) -> Result<OwnedFd, Errno> {
    let listener = new_socket()?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(socket_path)?)?;
    rustix::net::listen(&listener, BACKLOG)?;
    Ok(listener)
}

fn connect(socket_path: &Path) -> Result<OwnedFd, Errno> {
    let socket = new_socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(socket_path)?)?;
    Ok(socket)
}

fn accept_backends(
    listener: &OwnedFd,
    hypervisor: &Arc<Hypervisor>,
    connections: &Mutex<Vec<OwnedFd>>,
    stopping: &AtomicBool,
) {
    loop {
        let accepted = rustix::net::accept_with(listener, SocketFlags::CLOEXEC);
        if stopping.load(Ordering::Acquire) {
            return;
        }
        // A process that fails while connecting is as good as one that never came.
        let Ok(connection) = accepted else { continue };
        let Ok(copy) = connection.try_clone() else {
            continue;
        };
        connections.lock().expect("no thread panicked").push(copy);
        let hypervisor = Arc::clone(hypervisor);
        std::thread::spawn(move || serve_backend(&connection, &hypervisor));
    }
}

fn serve_backend(connection: &OwnedFd, hypervisor: &Hypervisor) {
    let pid = rustix::net::sockopt::socket_peercred(connection)
        .map_or(0, |credentials| credentials.pid.as_raw_nonzero().get());
    let backend = hypervisor.add_backend(pid);
    let mut packet = vec![0; PACKET_BYTES_MAX];
    // An error and the end of the stream both mean that the process is gone.
    while let Ok((bytes @ 1.., _)) =
        rustix::net::recv(connection, &mut packet[..], RecvFlags::empty())
    {
        let (reply, descriptors) = match Request::from_packet(&packet[..bytes]) {
            Ok(request) => hypervisor.serve(backend, &request),
            Err(_) => (Reply::Failed(Errno::INVAL.raw_os_error()), Vec::new()),
        };
        if send(connection, &reply, &descriptors).is_err() {
            break;
        }
    }
    hypervisor.remove_backend(backend);
}

fn send(connection: &OwnedFd, reply: &Reply, descriptors: &[OwnedFd]) -> Result<(), Errno> {
    let packet = reply.to_packet();
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        assert!(
            control.push(SendAncillaryMessage::ScmRights(&borrowed)),
            "the space is for the greatest number of descriptors"
        );
    }
    let parts = [IoSlice::new(&packet)];
    rustix::net::sendmsg(connection, &parts, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
