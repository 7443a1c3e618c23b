//! The daemon stops and another one takes over; the guests do not notice.

use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use simulated::{PATIENCE, Rig, base_sector, options};
use simxen::{Frontend, Request};

#[test]
fn guests_go_on_across_a_restart() {
    let mut rig = Rig::start();
    let (one, two) = (rig.guest(1), rig.guest(2));
    let (first, mut fe1) = rig.connect(&one, "xvda", "one.cow");
    let (second, mut fe2) = rig.connect(&two, "xvda", "two.cow");
    for round in 0..5u64 {
        for i in 0..20u64 {
            let data = [u8::try_from(round * 20 + i).unwrap(); 4096];
            let sector = i * 8;
            let write = Request::Write {
                sector,
                data: &data,
            };
            fe1.submit(&write).unwrap();
        }
        // Not one of them was waited for: some are answered by this daemon, some by the next.
        assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
        rig.assert_clear();
        let state = rig.host.xenstore().read_text(&first.backend_node("state"));
        assert_eq!(state.as_deref(), Some("4"));
        rig.daemon.restart().unwrap();
        fe1.complete_all().unwrap();
        let last = u8::try_from(round * 20 + 19).unwrap();
        assert_eq!(fe1.read(19 * 8, 4096).unwrap(), [last; 4096]);
        assert_eq!(
            fe2.read(round, 512).unwrap(),
            base_sector(usize::try_from(round).unwrap())
        );
    }
    rig.detach(&first, fe1);
    rig.detach(&second, fe2);
    rig.assert_clear();
    rig.assert_clean("one.cow");
    rig.assert_clean("two.cow");
}

#[test]
fn a_disk_is_attached_by_a_daemon_that_starts_later() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
    let toolstack = rig.host.toolstack();
    let disk = toolstack.create_nodes(&guest, &spec).unwrap();
    let add = || {
        let mut command = Command::new(rig.commands().join("cowback"));
        command.args(["hotplug", "add", disk.xenbus_path(), "--socket"]);
        command.arg(rig.path("run/control.sock"));
        command
    };
    let refused = add().args(["--wait", "0"]).output().unwrap();
    let sentence = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && sentence.contains("is cowbackd running?"));
    let mut waiting = add().stderr(Stdio::piped()).spawn().unwrap();
    // Long enough to have asked.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(waiting.try_wait().unwrap(), None, "it waits");
    rig.daemon.restart().unwrap();
    let waited = waiting.wait_with_output().unwrap();
    assert!(waited.status.success(), "{waited:?}");
    toolstack.hotplug_add(&disk).unwrap();
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    assert_eq!(frontend.read(9, 512).unwrap(), base_sector(9));
    rig.detach(&disk, frontend);
}

#[test]
fn a_stopped_daemon_leaves_clean_images() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (_disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
    rig.assert_clean("vm.cow");
}

#[test]
fn a_guest_that_goes_while_no_daemon_runs_is_cleaned_up_by_the_next() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
    rig.host.xenstore().rm(disk.frontend_path()).unwrap();
    rig.daemon.restart().unwrap();
    rig.host
        .xenstore()
        .wait_for_value(&disk.backend_node("state"), "6", PATIENCE)
        .unwrap();
    rig.assert_clear();
}

#[test]
fn guests_go_on_when_the_daemon_is_killed() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for round in 0..20u8 {
        for i in 0..20u64 {
            let write = Request::Write {
                sector: i * 8,
                data: &[round; 4096],
            };
            frontend.submit(&write).unwrap();
        }
        rig.daemon.kill().unwrap();
        rig.assert_clear();
        rig.daemon.restart().unwrap();
        frontend.complete_all().unwrap();
        for i in 0..20 {
            assert_eq!(frontend.read(i * 8, 4096).unwrap(), [round; 4096]);
        }
    }
    rig.detach(&disk, frontend);
    rig.assert_clear();
    rig.assert_clean("vm.cow");
}

#[test]
fn a_ring_is_not_served_without_what_the_killed_daemon_left() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    frontend.flush().unwrap();
    rig.daemon.kill().unwrap();
    rig.assert_clear();
    std::fs::remove_dir_all(rig.path("run/disks")).unwrap();
    rig.daemon.restart().unwrap();
    // Which requests were answered is not known, so the guest is told to close.
    let xenstore = rig.host.xenstore();
    xenstore
        .wait_for_value(&disk.backend_node("state"), "5", PATIENCE)
        .unwrap();
    rig.destroy(&guest, &disk);
    rig.assert_clear();
    // What it had flushed is there for the next.
    let guest = rig.guest(2);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
    rig.detach(&disk, frontend);
}

#[test]
fn a_second_daemon_does_not_start() {
    let rig = Rig::start();
    let mut command = rig.host.command(rig_binary()).unwrap();
    command.arg("--runtime-dir").arg(rig.path("run"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("another cowbackd is running"), "{log}");
}

/// Whichever comes first stays, and the others harm nothing.
#[test]
fn of_daemons_that_start_at_once_one_stays() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    rig.daemon.kill().unwrap();
    for _ in 0..5 {
        let start = || {
            let mut command = rig.host.command(rig_binary()).unwrap();
            command.arg("--runtime-dir").arg(rig.path("run"));
            command.stderr(Stdio::null()).spawn().unwrap()
        };
        let mut running = vec![start(), start(), start()];
        let begun = Instant::now();
        while running.len() > 1 {
            running.retain_mut(|daemon| daemon.try_wait().unwrap().is_none());
            assert!(begun.elapsed() < PATIENCE, "{} stay", running.len());
            std::thread::yield_now();
        }
        assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
        let [last] = &mut running[..] else {
            panic!("none stays")
        };
        last.kill().unwrap();
        last.wait().unwrap();
    }
    rig.daemon.restart().unwrap();
    rig.detach(&disk, frontend);
    rig.assert_clear();
}

fn rig_binary() -> std::path::PathBuf {
    simxen::locate::built_file("cowbackd", "cargo build -p cowbackd").unwrap()
}

#[test]
fn an_overlay_that_was_committed_while_no_daemon_ran_shows_the_same() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
    let image = rig.path("vm.cow");
    let image = image.to_str().unwrap();
    let committed = rig.cowback(&["commit", "--sole-overlay", image]);
    assert!(committed.status.success(), "{committed:?}");
    rig.daemon.restart().unwrap();
    assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
    // Also when what was noted before is looked at once more.
    rig.daemon.kill().unwrap();
    rig.daemon.restart().unwrap();
    assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
    frontend.write(8, &[2; 4096]).unwrap();
    rig.detach(&disk, frontend);
    rig.assert_clean("vm.cow");
}

#[test]
fn an_image_that_somebody_else_has_marked_as_clean_is_not_gone_on_with() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    rig.daemon.kill().unwrap();
    rig.assert_clear();
    let image = rig.path("vm.cow");
    let repaired = rig.cowback(&["check", "--repair", image.to_str().unwrap()]);
    assert!(repaired.status.success(), "{repaired:?}");
    rig.daemon.restart().unwrap();
    let xenstore = rig.host.xenstore();
    xenstore
        .wait_for_value(&disk.backend_node("state"), "5", PATIENCE)
        .unwrap();
}

#[test]
fn what_a_daemon_of_another_version_left_is_not_touched() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    rig.daemon.kill().unwrap();
    let left = std::fs::read_dir(rig.path("run/disks")).unwrap();
    let path = left.map(|entry| entry.unwrap().path()).next().unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&9u32.to_ne_bytes(), 8).unwrap();
    let mut command = rig.host.command(rig_binary()).unwrap();
    command.arg("--runtime-dir").arg(rig.path("run"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in [
        path.to_str().unwrap(),
        "version 9",
        "vbd3/1/51712",
        "nothing is lost",
    ] {
        assert!(log.contains(part), "{log}");
    }
    // The one that knows it goes on.
    file.write_all_at(&1u32.to_ne_bytes(), 8).unwrap();
    rig.daemon.restart().unwrap();
    assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
    rig.detach(&disk, frontend);
    rig.assert_clean("vm.cow");
}

/// The package's scripts ask it before an upgrade or a removal, whose end these disks would not survive.
#[test]
fn what_the_daemon_keeps_tells_the_package_whose_disks_are_served() {
    let rig = Rig::start();
    let guest = rig.guest(7);
    let (disk, frontend) = rig.connect(&guest, "xvda", "vm.cow");
    std::fs::create_dir_all(rig.path("etc/cowback")).unwrap();
    std::fs::write(
        rig.path("etc/cowback/cowbackd.toml"),
        "runtime-dir = \"/run\"\n",
    )
    .unwrap();
    // The commands of no Xen are there: xenstore does not say that the guest is gone.
    let output = Command::new("sh")
        .args(["-c", ". \"$0\" && run_states"])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../packaging/debian/run-states.sh"
        ))
        .env("DPKG_ROOT", rig.path(""))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let fields: Vec<&str> = said.trim_end().split('\t').collect();
    assert_eq!(fields.len(), 4, "{said:?}, and {output:?}");
    assert!(fields[0].parse::<u32>().is_ok(), "{said}");
    assert_eq!(fields[1], disk.xenbus_path());
    assert_eq!(fields[2], "guest of domain 7");
    assert!(std::path::Path::new(fields[3]).is_file(), "{said}");
    rig.detach(&disk, frontend);
}

#[test]
fn a_base_that_is_away_for_a_while_costs_nothing_after_a_kill() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    rig.daemon.kill().unwrap();
    let (base, away) = (rig.path("base.img"), rig.path("away.img"));
    std::fs::rename(&base, &away).unwrap();
    rig.daemon.restart().unwrap();
    rig.daemon
        .wait_for_log("base.img: does not exist", PATIENCE)
        .unwrap();
    std::fs::rename(&away, &base).unwrap();
    // It is tried again by itself.
    assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
    rig.detach(&disk, frontend);
    rig.assert_clean("vm.cow");
}

#[test]
fn what_a_guest_wrote_before_a_kill_is_there_for_the_next_guest() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    // Answered, and not flushed: its bits are in the run state only.
    frontend.write(0, &[1; 4096]).unwrap();
    rig.daemon.kill().unwrap();
    let xenstore = rig.host.xenstore();
    for path in [disk.frontend_path(), disk.backend_path()] {
        xenstore.rm(path).unwrap();
    }
    rig.daemon.restart().unwrap();
    let guest = rig.guest(2);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
    rig.detach(&disk, frontend);
    rig.assert_clean("vm.cow");
}

#[test]
fn an_image_whose_guest_waits_for_a_daemon_is_not_changed() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    frontend.write(0, &[1; 4096]).unwrap();
    let image = rig.path("vm.cow").display().to_string();
    let runtime_dir = rig.path("run").display().to_string();
    let refusal = |rig: &Rig, command: &[&str]| {
        let arguments = [command, &[&image, "--runtime-dir", &runtime_dir]].concat();
        let output = rig.cowback(&arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let socket = rig.path("export.sock").display().to_string();
    let commands: [&[&str]; 4] = [
        &["commit", "--sole-overlay"],
        &["check", "--repair"],
        &["rebase", "--no-base"],
        &["export", "--socket", &socket],
    ];
    for is_killed in [true, false] {
        if is_killed {
            rig.daemon.kill().unwrap();
        } else {
            assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
        }
        let before = std::fs::read(rig.path("vm.cow")).unwrap();
        for command in commands {
            let sentence = refusal(&rig, command);
            assert!(sentence.contains("start cowbackd first"), "{sentence}");
        }
        // A file is not replaced by these anyhow, but a device would be.
        for command in [
            &["create", "--force", "--size", "1M"][..],
            &["convert", "--force", "/dev/zero"],
        ] {
            let sentence = refusal(&rig, command);
            assert!(sentence.contains("start cowbackd first"), "{sentence}");
        }
        assert!(std::fs::read(rig.path("vm.cow")).unwrap() == before);
        rig.daemon.restart().unwrap();
        assert_eq!(frontend.read(0, 4096).unwrap(), [1; 4096]);
    }
    for command in commands {
        let sentence = refusal(&rig, command);
        assert!(sentence.contains("in use by"), "{sentence}");
    }
    rig.detach(&disk, frontend);
    let committed = rig.cowback(&[
        "commit",
        "--sole-overlay",
        &image,
        "--runtime-dir",
        &runtime_dir,
    ]);
    assert!(committed.status.success(), "{committed:?}");
}
