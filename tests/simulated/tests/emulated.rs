//! QEMU reaches a disk that it emulates for an HVM guest by a socket, beside the guest's own driver.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use simulated::{PATIENCE, Rig, options};
use simxen::{BackendKind, Disk, Frontend};

/// The socket that the toolstack gives to QEMU.
fn socket_of(rig: &Rig, disk: &Disk) -> PathBuf {
    let node = disk.backend_node("physical-device-path");
    let path = rig.host.xenstore().read_text(&node).unwrap();
    assert!(path.ends_with(".sock"), "{path}");
    path.into()
}

/// Has QEMU's own block layer do this, as its emulated disk would: what it says, and whether all went well.
fn qemu(socket: &std::path::Path, commands: &[&str]) -> (String, bool) {
    let mut qemu = Command::new("qemu-io");
    for command in commands {
        qemu.args(["-c", command]);
    }
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let output = qemu.args(["-f", "raw", &uri]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    let is_well = output.status.success() && !said.contains("failed");
    (said, is_well)
}

fn assert_qemu(socket: &std::path::Path, commands: &[&str]) {
    let (said, is_well) = qemu(socket, commands);
    assert!(is_well, "{commands:?}: {said}");
}

#[test]
fn qemu_and_the_guest_see_one_disk() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let socket = socket_of(&rig, &disk);
    // Before the guest's driver is there.
    assert_qemu(&socket, &["write -P 0x11 0 64k", "read -P 0x11 0 64k"]);
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    assert_eq!(frontend.read(0, 4096).unwrap(), [0x11; 4096]);
    // And while it is.
    frontend.write(8, &[0x22; 4096]).unwrap();
    assert_qemu(
        &socket,
        &["read -P 0x22 4k 4k", "write -P 0x33 8k 4k", "flush"],
    );
    assert_eq!(frontend.read(16, 4096).unwrap(), [0x33; 4096]);
    let list = rig.list();
    assert!(list[0]["emulated_requests"].as_u64() > Some(4), "{list}");
    assert_eq!(list[0]["emulated_clients"], 0, "{list}");
    rig.detach(&disk, frontend);
    assert!(!socket.exists());
    rig.assert_clear();
    rig.assert_clean("vm.cow");
}

#[test]
fn the_next_daemon_listens_at_the_same_place() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let socket = socket_of(&rig, &disk);
    assert_qemu(&socket, &["write -P 0x11 0 64k"]);
    for kills in [true, false] {
        if kills {
            rig.daemon.kill().unwrap();
        } else {
            assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
        }
        rig.daemon.restart().unwrap();
        assert_eq!(frontend.read(0, 4096).unwrap(), [0x11; 4096]);
        assert_qemu(&socket, &["read -P 0x11 0 64k"]);
    }
    rig.detach(&disk, frontend);
    rig.assert_clear();
}

#[test]
fn a_client_holds_up_neither_the_guest_nor_the_end() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let socket = socket_of(&rig, &disk);
    let mut silent = UnixStream::connect(&socket).unwrap();
    frontend.write(0, &[1; 4096]).unwrap();
    assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
    rig.detach(&disk, frontend);
    // It was told so.
    let mut greeting = Vec::new();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    silent.read_to_end(&mut greeting).unwrap();
    assert!(greeting.starts_with(b"NBDMAGIC"), "{greeting:?}");
    assert!(!socket.exists());
    rig.assert_clear();
    rig.assert_clean("vm.cow");
}

#[test]
fn a_read_only_disk_is_so_for_qemu_too() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[5; 4096]).unwrap();
    rig.detach(&disk, frontend);
    let path = rig.path("vm.cow");
    let spec = rig.spec("xvda", path.to_str().unwrap()).read_only();
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let frontend = Frontend::connect(&disk, options()).unwrap();
    let socket = socket_of(&rig, &disk);
    // It refuses to open for writing what is offered for reading only.
    let (said, is_well) = qemu(&socket, &["write -P 1 0 4k"]);
    assert!(!is_well && said.contains("Permission denied"), "{said}");
    let reading = Command::new("qemu-io")
        .args(["-r", "-f", "raw", "-c", "read -P 5 0 4k"])
        .arg(format!("nbd+unix:///?socket={}", socket.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&reading.stdout);
    assert!(
        said.contains("read 4096/4096") && !said.contains("failed"),
        "{said}"
    );
    rig.detach(&disk, frontend);
}

#[test]
fn a_disk_that_grows_is_larger_for_the_next_client() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let socket = socket_of(&rig, &disk);
    assert!(!qemu(&socket, &["read 4M 4k"]).1);
    assert!(rig.resize("vm.cow", "8M").status().unwrap().success());
    assert_qemu(&socket, &["read -P 0 4M 4k", "write -P 9 7M 1M"]);
    rig.detach(&disk, frontend);
    rig.assert_clean("vm.cow");
}

#[test]
fn where_the_toolstack_has_no_use_for_a_socket_there_is_none() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let spec = rig
        .spec("xvda", &rig.overlay_target("vm.cow"))
        .backend_kind(BackendKind::Vbd);
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let node = disk.backend_node("physical-device-path");
    let path = rig.host.xenstore().read_text(&node).unwrap();
    assert_eq!(path, rig.path("vm.cow").display().to_string());
    assert_eq!(std::fs::read_dir(rig.path("run/nbd")).unwrap().count(), 0);
    rig.host
        .toolstack()
        .destroy_domain(&guest, [&disk])
        .unwrap();
}

/// What QEMU has under way when its guest's disk goes is finished, or told to nobody.
#[test]
fn a_disk_goes_while_qemu_writes() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let socket = socket_of(&rig, &disk);
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let mut writer = Command::new("qemu-img")
        .args([
            "bench", "-w", "-c", "1000000", "-d", "16", "-s", "4096", "-f", "raw", &uri,
        ])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while rig.list()[0]["emulated_requests"].as_u64() < Some(1000) {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    rig.detach(&disk, frontend);
    assert!(!writer.wait().unwrap().success());
    rig.assert_clear();
    rig.assert_clean("vm.cow");
}
