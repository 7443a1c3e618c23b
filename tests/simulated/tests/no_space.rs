//! The host runs out of space under a guest.
//!
//! The image is on a small file system of its own, which only root can mount.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use simulated::{PATIENCE, Rig, options};
use simxen::{Frontend, Request, RequestId};

/// A file system in memory, unmounted at the end.
struct SmallFileSystem(PathBuf);

impl SmallFileSystem {
    fn mount(path: PathBuf, options: &str) -> Self {
        std::fs::create_dir(&path).unwrap();
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "small"])
            .arg(&path));
        Self(path)
    }

    fn resize(&self, options: &str) {
        run(Command::new("mount").args(["-o", options]).arg(&self.0));
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily: after a failed test the daemon may still have the image open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(
        status.success(),
        "{command:?}: {status}; this test has to be run by root"
    );
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// How many bytes each write of [`fill`] has.
const PIECE: usize = 44 * 1024;

/// Has a guest write more than there is space for on a small file system, at once: which requests these are.
fn fill(frontend: &mut Frontend) -> Vec<RequestId> {
    let data = vec![7; PIECE];
    let mut write = |i: u64| {
        frontend.submit(&Request::Write {
            sector: i * 88,
            data: &data,
        })
    };
    (0..16).map(|i| write(i).unwrap()).collect()
}

/// Whether all of [`fill`] is there.
fn assert_filled(frontend: &mut Frontend) {
    for i in 0..16 {
        assert_eq!(frontend.read(i * 88, PIECE).unwrap(), [7; PIECE]);
    }
}

/// How many writes of the first disk wait for space.
fn waiting(rig: &Rig) -> u64 {
    rig.list()[0]["waiting_for_space"].as_u64().unwrap_or(0)
}

#[test]
fn the_guest_waits_and_goes_on_by_itself_when_there_is_space() {
    let mut rig = Rig::start();
    let small = SmallFileSystem::mount(rig.path("small"), "size=512k");
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "small/vm.cow");
    let ids = fill(&mut frontend);
    wait_until("some write waits for space", || waiting(&rig) > 0);
    let node = format!("{}/waiting", disk.backend_path());
    let shown = || rig.host.xenstore().read(&node);
    wait_until("xenstore says so", || shown().is_some());
    // What is there can be read meanwhile.
    frontend.read(0, 512).unwrap();
    small.resize("remount,size=16m");
    for id in ids {
        assert_eq!(frontend.wait(id).unwrap().status, 0);
    }
    frontend.flush().unwrap();
    wait_until("xenstore says that it is over", || shown().is_none());
    // To try again each second is not news.
    rig.daemon
        .wait_for_log("the guest goes on", PATIENCE)
        .unwrap();
    let log = rig.daemon.log();
    assert_eq!(log.matches("the guest waits until there is").count(), 1);
    assert_eq!(log.matches("the guest goes on").count(), 1);
    assert_filled(&mut frontend);
    rig.detach(&disk, frontend);
    rig.assert_clean("small/vm.cow");
}

#[test]
fn a_guest_that_is_destroyed_while_it_waits_is_let_go() {
    let rig = Rig::start();
    let _small = SmallFileSystem::mount(rig.path("small"), "size=512k");
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "small/vm.cow");
    fill(&mut frontend);
    wait_until("some write waits for space", || waiting(&rig) > 0);
    rig.destroy(&guest, &disk);
    rig.assert_clear();
}

#[test]
fn what_waits_for_space_is_left_to_the_next_daemon() {
    let mut rig = Rig::start();
    let small = SmallFileSystem::mount(rig.path("small"), "size=512k");
    let (full, other) = (rig.guest(1), rig.guest(2));
    let (stuck_disk, mut stuck) = rig.connect(&full, "xvda", "small/vm.cow");
    let (disk, mut frontend) = rig.connect(&other, "xvda", "other.cow");
    frontend.write(0, &[9; 4096]).unwrap();
    let ids = fill(&mut stuck);
    wait_until("some write waits for space", || waiting(&rig) > 0);
    assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
    rig.restart_until_it_answers();
    // It waits on.
    wait_until("it waits again", || waiting(&rig) > 0);
    small.resize("remount,size=16m");
    for id in ids {
        assert_eq!(stuck.wait(id).unwrap().status, 0);
    }
    assert_filled(&mut stuck);
    rig.detach(&stuck_disk, stuck);
    rig.assert_clean("small/vm.cow");
    // The other guest notices nothing.
    assert_eq!(frontend.read(0, 4096).unwrap(), [9; 4096]);
    frontend.write(8, &[8; 4096]).unwrap();
    rig.detach(&disk, frontend);
    rig.assert_clean("other.cow");
}

#[test]
fn a_disk_is_attached_while_one_daemon_ends_and_the_next_one_comes() {
    let mut rig = Rig::start();
    let _small = SmallFileSystem::mount(rig.path("small"), "size=512k");
    let (full, other) = (rig.guest(1), rig.guest(2));
    let (_stuck_disk, mut stuck) = rig.connect(&full, "xvda", "small/vm.cow");
    fill(&mut stuck);
    wait_until("some write waits for space", || waiting(&rig) > 0);
    let spec = rig.spec("xvda", &rig.overlay_target("other.cow"));
    // It ends only some seconds after this, since a disk waits for space.
    run(Command::new("kill").arg(rig.daemon.pid().to_string()));
    wait_until("the daemon is ending", || {
        rig.daemon.log().contains("stopping")
    });
    let disk = rig.host.toolstack().create_nodes(&other, &spec).unwrap();
    let mut add = Command::new(rig.commands().join("cowback"));
    add.args(["hotplug", "add", disk.xenbus_path(), "--socket"]);
    add.arg(rig.path("run/control.sock")).stderr(Stdio::piped());
    let at_once = Command::new(add.get_program())
        .args(add.get_args())
        .args(["--wait", "0"])
        .output();
    let sentence = String::from_utf8(at_once.unwrap().stderr).unwrap();
    assert!(
        sentence.contains("the daemon is shutting down"),
        "{sentence}"
    );
    let waiting_add = add.spawn().unwrap();
    assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
    rig.restart_until_it_answers();
    let added = waiting_add.wait_with_output().unwrap();
    assert!(added.status.success(), "{added:?}");
    rig.host.toolstack().hotplug_add(&disk).unwrap();
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    frontend.write(8, &[8; 4096]).unwrap();
    rig.detach(&disk, frontend);
}

#[test]
fn an_image_that_is_made_to_report_does_not_wait() {
    let rig = Rig::start();
    let _small = SmallFileSystem::mount(rig.path("small"), "size=512k");
    let image = rig.path("small/vm.cow");
    let base = rig.path("base.img");
    let created = rig.cowback(&[
        "create",
        image.to_str().unwrap(),
        "--base",
        base.to_str().unwrap(),
        "--on-enospc",
        "report",
    ]);
    assert!(created.status.success());
    let guest = rig.guest(1);
    let (_disk, mut frontend) = rig.connect(&guest, "xvda", "small/vm.cow");
    let data = vec![7; 44 * 1024];
    let failed = (0..16).find(|i| frontend.write(i * 88, &data).is_err());
    assert!(failed.is_some_and(|i| i > 4), "{failed:?}");
}

#[test]
fn an_operator_who_will_not_wait_has_the_guest_told() {
    let rig = Rig::start();
    let _small = SmallFileSystem::mount(rig.path("small"), "size=512k");
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "small/vm.cow");
    let ids = fill(&mut frontend);
    wait_until("some write waits for space", || waiting(&rig) > 0);
    let body = Some("{\"on_enospc\": \"report\"}");
    let answer = rig.ask("PATCH", "/v1/devices/vbd3/1/51712", body);
    assert_eq!(answer.json()["on_enospc"], "report", "{answer:?}");
    let statuses = ids.into_iter().map(|id| frontend.wait(id).unwrap().status);
    let failed = statuses.filter(|status| *status != 0).count();
    assert!(failed > 0, "none was told");
    assert_eq!(waiting(&rig), 0);
    rig.detach(&disk, frontend);
}
