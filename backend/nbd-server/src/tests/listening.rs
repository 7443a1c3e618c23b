//! The socket's name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use tempfile::TempDir;

use crate::{ListenError, Socket};

#[test]
fn only_the_owner_may_connect_and_the_name_goes_away() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sock");
    let socket = Socket::listen(&path).unwrap();
    assert_eq!(socket.path(), path);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    UnixStream::connect(&path).unwrap();
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn a_socket_of_the_dead_is_replaced_and_one_of_the_living_is_not() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sock");
    let living = UnixListener::bind(&path).unwrap();
    let error = Socket::listen(&path).unwrap_err();
    assert!(matches!(error, ListenError::InUse(_)), "{error}");
    assert!(error.to_string().starts_with(path.to_str().unwrap()));
    // Nor is one whose owner does not speak first, or closes connections at once.
    let closing = living.try_clone().unwrap();
    let closer = std::thread::spawn(move || (0..3).for_each(|_| drop(closing.accept().unwrap())));
    // One probe is in the queue already.
    let error = Socket::listen(&path).unwrap_err();
    assert!(matches!(error, ListenError::InUse(_)), "{error}");
    closer.join().unwrap();
    drop(living);
    assert!(path.exists());
    let _socket = Socket::listen(&path).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn what_is_not_a_socket_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("precious");
    fs::write(&path, "data").unwrap();
    let error = Socket::listen(&path).unwrap_err();
    assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"data");
    // Nor is a link followed to something.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(
        Socket::listen(&link),
        Err(ListenError::NotASocket(_))
    ));
}

#[test]
fn a_name_that_was_taken_over_is_not_removed() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("sock");
    let socket = Socket::listen(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "somebody else's").unwrap();
    drop(socket);
    assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
}

#[test]
fn impossible_names_are_errors() {
    let folder = TempDir::new().unwrap();
    let long = folder.path().join("x".repeat(108));
    assert!(matches!(
        Socket::listen(&long),
        Err(ListenError::Path { .. })
    ));
    let nowhere = folder.path().join("nowhere/sock");
    let error = Socket::listen(&nowhere).unwrap_err();
    assert!(matches!(error, ListenError::Io { .. }), "{error}");
}
