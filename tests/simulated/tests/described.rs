//! The control API is as it describes itself: schemathesis makes requests from the description, good ones and bad ones, and
//! holds the answers against it.
//!
//! `make api-test` installs schemathesis and runs this.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use simulated::Rig;

/// Passes connections to a local port on to a unix socket, since schemathesis knows no such sockets. Returns the port.
fn bridge(socket: PathBuf) -> io::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(client) = client else { return };
            // A client whose connection cannot be passed on sees it closed.
            let _ = pass_on(client, &socket);
        }
    });
    Ok(port)
}

fn pass_on(client: TcpStream, socket: &Path) -> io::Result<()> {
    let server = UnixStream::connect(socket)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (mut from_server, mut to_client) = (server, client);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(std::net::Shutdown::Both);
    });
    Ok(())
}

#[test]
#[ignore = "needs schemathesis: make api-test"]
fn answers_are_as_described() {
    let schemathesis = std::env::var("SCHEMATHESIS").expect("the path of schemathesis");
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[7; 4096]).unwrap();
    let port = bridge(rig.path("run/control.sock")).unwrap();
    let url = format!("http://127.0.0.1:{port}");
    let ran = Command::new(schemathesis)
        // It leaves notes of its own where it runs.
        .current_dir(rig.path(""))
        .args(["run", &format!("{url}/v1/openapi.json"), "--url", &url])
        .args(["--checks", "all", "--max-examples", "100", "--seed", "1"])
        .args(["--request-timeout", "20", "--no-color"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let failed = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{said}\n{failed}");
    println!("{said}");
    // It may well have asked for the disk to be removed.
    assert_eq!(rig.ask("GET", "/v1/daemon", None).status, 200);
    drop((disk, frontend));
}
