//! Who may ask for what: whoever reaches the socket may look, and the daemon's own user and root may change things.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use super::refusal::Refusal;

/// Makes a socket with this mode. One that an earlier daemon left behind is replaced.
pub(super) fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

/// The user at the other end of a connection, if the kernel tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|peer| peer.uid()))
    }
}

impl Peer {
    fn may(self, method: &Method) -> bool {
        let own = rustix::process::geteuid().as_raw();
        matches!(*method, Method::GET | Method::HEAD)
            || self.0.is_some_and(|user| user == 0 || user == own)
    }
}

/// Refuses what the peer may not ask for.
pub(super) async fn check(
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if peer.may(request.method()) {
        return next.run(request).await;
    }
    let error = "only root may change anything; other users may look";
    Refusal::new(StatusCode::FORBIDDEN, &error).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_may_look_and_not_change() {
        let own = rustix::process::geteuid().as_raw();
        for (user, may_change) in [
            (Some(0), true),
            (Some(own), true),
            (Some(own + 1), false),
            (None, false),
        ] {
            assert!(Peer(user).may(&Method::GET) && Peer(user).may(&Method::HEAD));
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                assert_eq!(Peer(user).may(&method), may_change, "{user:?} {method}");
            }
        }
    }

    #[tokio::test]
    async fn the_socket_has_the_mode_and_replaces_an_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        for mode in [0o600, 0o660] {
            let listener = listen(&path, mode).unwrap();
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                mode
            );
            drop(listener);
        }
    }
}
