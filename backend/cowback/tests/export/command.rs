//! The command itself.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

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

#[test]
fn where_nobody_can_be_told_nothing_is_served_and_nothing_is_left() {
    for options in [
        &["export", "--socket"][..],
        &["export", "--json", "--socket"],
    ] {
        for is_full in [true, false] {
            let folder = Folder::new();
            let (image, socket) = (folder.create("vm.cow", SIZE, None), folder.path("sock"));
            let stdout = match is_full {
                true => Stdio::from(full()),
                false => Stdio::from(io::pipe().unwrap().1),
            };
            let mut command = cowback(options.iter().copied());
            command.arg(&socket).arg(&image).stdout(stdout);
            let error = fails(&mut command, 1);
            assert_eq!(
                error.contains("cannot write the output"),
                is_full,
                "{error}"
            );
            assert!(!socket.exists());
            check(&image);
        }
    }
}

/// A log that is written at every step.
fn logging(image: &Path, socket: &Path, log: File) -> Server {
    let mut command = Server::command(image, socket);
    command.env("COWBACK_LOG", "trace").stderr(log);
    let server = Server::start(&mut command);
    // A client that goes away without a word is worth a line.
    let mut client = UnixStream::connect(socket).unwrap();
    client.write_all(&[0xff; 64]).unwrap();
    client.read_to_end(&mut Vec::new()).unwrap();
    server
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    let folder = Folder::new();
    let (image, socket) = (folder.create("vm.cow", SIZE, None), folder.path("sock"));
    logging(&image, &socket, full()).stop("-TERM");
    check(&image);
}

#[test]
fn a_log_is_plain_text() {
    let folder = Folder::new();
    let (image, socket) = (folder.create("vm.cow", SIZE, None), folder.path("sock"));
    let log = folder.path("log");
    logging(&image, &socket, File::create(&log).unwrap()).stop("-TERM");
    let log = fs::read_to_string(log).unwrap();
    assert!(!log.is_empty());
    assert!(!log.contains('\x1b'), "{log}");
}

#[test]
fn paths_that_are_no_text_are_served() {
    let folder = Folder::new();
    let path = |name| folder.path("").join(OsStr::from_bytes(name));
    let (image, socket) = (path(b"v\xffm.cow"), path(b"s\xfeck"));
    succeeds(cowback(["create", "--size", "1M"]).arg(&image));
    let server = Server::new(&image, &socket);
    let said = server.ready["image"].as_str().unwrap();
    assert!(said.ends_with("v\u{fffd}m.cow"), "{said}");
    // The address has it as it is.
    assert!(server.uri().ends_with("s%FEck"), "{}", server.uri());
    server.stop("-TERM");
    check(&image);
}

/// Every write to it finds no space.
fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}
