//! The command itself.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::server::*;

const SIZE: u64 = 16 << 20;

#[test]
fn it_says_what_it_serves_and_stops_cleanly() {
    for signal in ["-TERM", "-INT"] {
        let folder = Folder::new();
        let (image, socket) = (folder.create("vm.cow", SIZE, None), folder.path("a b.sock"));
        let server = Server::with(&image, &socket, &["--name", "root disk"]);
        let ready = &server.ready;
        assert_eq!(ready["ready"], true);
        assert_eq!(ready["size"], SIZE);
        assert_eq!(ready["read_only"], false);
        assert_eq!(ready["image"], image.to_str().unwrap());
        let wanted = socket.to_str().unwrap().replace(' ', "%20");
        assert_eq!(
            server.uri(),
            format!("nbd+unix:///root%20disk?socket={wanted}")
        );
        let mut client = UnixStream::connect(&socket).unwrap();
        client.read_exact(&mut [0; 18]).unwrap();
        server.stop(signal);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(!socket.exists());
        check(&image);
    }
}

#[test]
fn a_socket_that_is_in_use_is_refused_before_the_image_is_touched() {
    let folder = Folder::new();
    let (image, other) = (
        folder.create("vm.cow", SIZE, None),
        folder.create("other.cow", SIZE, None),
    );
    let socket = folder.path("sock");
    let server = Server::new(&image, &socket);
    let before = fs::read(&other).unwrap();
    let said = fails(cowback(["export", "--socket"]).arg(&socket).arg(&other), 1);
    assert!(said.contains("somebody listens"), "{said}");
    assert!(said.contains(socket.to_str().unwrap()), "{said}");
    assert!(fs::read(&other).unwrap() == before);
    UnixStream::connect(&socket).unwrap();
    server.stop("-TERM");
}

#[test]
fn what_a_killed_server_leaves_is_replaced() {
    let folder = Folder::new();
    let (image, socket) = (folder.create("vm.cow", SIZE, None), folder.path("sock"));
    Server::new(&image, &socket).kill();
    assert!(socket.exists());
    Server::new(&image, &socket).stop("-TERM");
    check(&image);
}

#[test]
fn what_cannot_be_served_is_named_and_leaves_nothing() {
    let folder = Folder::new();
    let socket = folder.path("sock");
    let said = fails(
        cowback(["export", "--socket"])
            .arg(&socket)
            .arg("/nowhere.cow"),
        1,
    );
    assert!(said.contains("/nowhere.cow"), "{said}");
    assert!(!socket.exists());
    let image = folder.create("vm.cow", SIZE, None);
    fs::write(&socket, "precious").unwrap();
    let said = fails(cowback(["export", "--socket"]).arg(&socket).arg(&image), 1);
    assert!(said.contains("not a socket"), "{said}");
    assert_eq!(fs::read(&socket).unwrap(), b"precious");
    let long = folder.path(&"x".repeat(120));
    let said = fails(cowback(["export", "--socket"]).arg(&long).arg(&image), 1);
    assert!(said.contains("cannot be the path of a socket"), "{said}");
    let name = "x".repeat(5000);
    let args = ["export", "--name", &name, "--socket"];
    fails(cowback(args).arg(folder.path("sock2")).arg(&image), 1);
    assert!(!folder.path("sock2").exists());
    check(&image);
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let folder = Folder::new();
    let image = folder.create("vm.cow", SIZE, None);
    let writer = Server::new(&image, &folder.path("1"));
    let mut second = cowback(["export", "--socket"]);
    let said = fails(second.arg(folder.path("2")).arg(&image), 1);
    assert!(said.contains("in use"), "{said}");
    writer.stop("-TERM");
    let readers = ["1", "2"].map(|name| Server::with(&image, &folder.path(name), &["--read-only"]));
    for server in readers {
        server.stop("-TERM");
    }
}

#[test]
fn it_can_end_with_its_last_client() {
    let folder = Folder::new();
    let (image, socket) = (folder.create("vm.cow", SIZE, None), folder.path("sock"));
    let server = Server::with(&image, &socket, &["--exit-with-last-client"]);
    // Somebody who only looks whether it is there does not count.
    fails(cowback(["export", "--socket"]).arg(&socket).arg(&image), 1);
    let mut client = UnixStream::connect(&socket).unwrap();
    client
        .write_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0")
        .unwrap();
    client.read_exact(&mut [0; 18 + 10]).unwrap();
    drop(client);
    assert!(server.wait().success());
    assert!(!socket.exists());
    check(&image);
}
