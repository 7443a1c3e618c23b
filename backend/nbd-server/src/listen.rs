//! The unix socket that clients come to.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 64;

/// How long a server may take to greet before it is taken to be alive without greeting.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// How often a socket that closes connections at once is tried before it is taken to be alive.
const PROBES_MAX: u32 = 3;

/// Why clients cannot be listened for.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Another process has it.
    #[error("{}: somebody listens on this socket already", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket has that name.
    #[error("{}: exists, and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The path cannot be the address of a socket.
    #[error("{}: cannot be the path of a socket: {cause}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why not; most often it is too long.
        cause: io::Error,
    },
    /// The kernel refused something.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why not.
        cause: io::Error,
    },
}

/// A listening socket, which only its owner may connect to. Its name goes away with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of its name, to remove only that.
    identity: (u64, u64),
}

impl Socket {
    /// Listens on a new socket at `path`. A socket that a process left there which is gone is replaced.
    ///
    /// # Errors
    ///
    /// If somebody listens there, if something else has that name, or if the kernel refuses.
    pub fn listen(path: &Path) -> Result<Self, ListenError> {
        let address = SocketAddrUnix::new(path).map_err(|errno| ListenError::Path {
            path: path.to_owned(),
            cause: errno.into(),
        })?;
        // Two processes that find a stale socket at the same time must not remove each other's new one.
        let _turn = lock_folder_of(path)?;
        remove_if_stale(path)?;
        let failed = |action| move |errno: rustix::io::Errno| io_error(path, action, errno.into());
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(failed("make a socket"))?;
        rustix::net::bind(&socket, &address).map_err(failed("make its name"))?;
        // Nobody can connect before it listens, so there is no moment at which others could.
        let listening = rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)
            .and_then(|()| rustix::net::listen(&socket, BACKLOG))
            .map_err(failed("listen"))
            .and_then(|()| identity(path));
        match listening {
            Ok(identity) => Ok(Self {
                listener: UnixListener::from(socket),
                path: path.to_owned(),
                identity,
            }),
            Err(error) => {
                let _ = fs::remove_file(path);
                Err(error)
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity)
            && let Err(cause) = fs::remove_file(&self.path)
        {
            tracing::warn!("{}: cannot be removed: {cause}", self.path.display());
        }
    }
}

/// Holds a lock on the folder as long as the returned descriptor is open.
fn lock_folder_of(path: &Path) -> Result<rustix::fd::OwnedFd, ListenError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty())
        .and_then(|folder| {
            rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
            Ok(folder)
        })
        .map_err(|errno| io_error(folder, "lock this folder", errno.into()))
}

fn remove_if_stale(path: &Path) -> Result<(), ListenError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(io_error(path, "look at it", cause)),
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_owned()));
    }
    if somebody_listens(path)? {
        return Err(ListenError::InUse(path.to_owned()));
    }
    fs::remove_file(path).map_err(|cause| io_error(path, "remove this stale socket", cause))
}

/// Whether there is a living process behind a socket's name. The kernel lets go of the sockets of one that was killed a
/// moment after it, if io_uring watched them: connections to such a socket are made, never answered, and soon reset.
fn somebody_listens(path: &Path) -> Result<bool, ListenError> {
    let failed = |cause| io_error(path, "find out whether somebody listens", cause);
    for _ in 0..PROBES_MAX {
        let mut probe = match UnixStream::connect(path) {
            Ok(probe) => probe,
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionRefused => return Ok(false),
            Err(cause) => return Err(failed(cause)),
        };
        probe
            .set_read_timeout(Some(PROBE_PATIENCE))
            .map_err(failed)?;
        match probe.read(&mut [0]) {
            // The end, without a word: perhaps that of its owner.
            Ok(0) => {}
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionReset => {}
            // A greeting; or patience is over, and it may be a server that waits for us to begin.
            _ => return Ok(true),
        }
    }
    Ok(true)
}

fn identity(path: &Path) -> Result<(u64, u64), ListenError> {
    let metadata =
        fs::symlink_metadata(path).map_err(|cause| io_error(path, "look at it", cause))?;
    Ok((metadata.dev(), metadata.ino()))
}

fn io_error(path: &Path, action: &'static str, cause: io::Error) -> ListenError {
    ListenError::Io {
        path: path.to_owned(),
        action,
        cause,
    }
}
