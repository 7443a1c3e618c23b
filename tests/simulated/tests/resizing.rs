//! A disk grows while its guest uses it.

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use simulated::{BASE_SIZE, PATIENCE, Rig, base_content, options};
use simxen::{Disk, Frontend};

const MIB: u64 = 1 << 20;

fn resize(rig: &Rig, image: &str, size: &str) -> Output {
    rig.resize(image, size).output().unwrap()
}

fn resized(rig: &Rig, image: &str, size: &str) -> Value {
    let output = resize(rig, image, size);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The sentence, which is in the JSON as well.
fn refused(rig: &Rig, image: &str, size: &str) -> String {
    let output = resize(rig, image, size);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let sentence = document["error"].as_str().unwrap().to_owned();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, format!("cowback: {sentence}\n"));
    sentence
}

fn wait_for_sectors(rig: &Rig, disk: &Disk, bytes: u64) {
    let sectors = (bytes / 512).to_string();
    let node = disk.backend_node("sectors");
    rig.host
        .xenstore()
        .wait_for_value(&node, &sectors, PATIENCE)
        .unwrap();
}

/// How often the backend has written state 4: once when it connected, and again for each size that it told.
fn writes_of_state_4(rig: &Rig) -> usize {
    rig.daemon.log().matches("goes to state 4").count()
}

fn wait_for_writes_of_state_4(rig: &mut Rig, count: usize) {
    let begun = std::time::Instant::now();
    while writes_of_state_4(rig) < count {
        assert!(begun.elapsed() < PATIENCE, "{}", rig.daemon.log());
        std::thread::yield_now();
    }
}

#[test]
fn a_guest_is_told_and_uses_what_is_new() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let old_end = BASE_SIZE as u64 / 512;
    frontend.write(0, &[1; 4096]).unwrap();
    assert!(frontend.write(old_end, &[2; 512]).is_err());
    assert!(frontend.read(old_end - 1, 1024).is_err());

    // By another name of the image than the toolstack's.
    std::os::unix::fs::symlink(rig.path("vm.cow"), rig.path("link.cow")).unwrap();
    let done = resized(&rig, "link.cow", "16M");
    let expected = json!({
        "image": rig.path("link.cow"),
        "device": "backend/vbd3/1/51712",
        "virtual_size_bytes_before": BASE_SIZE,
        "virtual_size_bytes": 16 * MIB,
    });
    assert_eq!(done, expected);
    wait_for_sectors(&rig, &disk, 16 * MIB);
    wait_for_writes_of_state_4(&mut rig, 2);
    assert_eq!(frontend.refresh_info().sectors, 16 * MIB / 512);
    assert_eq!(rig.list()[0]["virtual_size_bytes"], 16 * MIB);

    let new_end = 16 * MIB / 512;
    assert_eq!(frontend.read(old_end, 4096).unwrap(), [0; 4096]);
    frontend.write(new_end - 8, &[3; 4096]).unwrap();
    frontend.write(old_end - 4, &[4; 4096]).unwrap();
    assert!(frontend.write(new_end, &[5; 512]).is_err());
    frontend.flush().unwrap();
    let mut expected = base_content();
    expected[..4096].fill(1);
    expected[BASE_SIZE - 2048..].fill(4);
    assert!(frontend.read(0, BASE_SIZE).unwrap() == expected);

    // Again, by a difference, and once more to the size that it has.
    assert_eq!(
        resized(&rig, "vm.cow", "+4M")["virtual_size_bytes"],
        20 * MIB
    );
    wait_for_sectors(&rig, &disk, 20 * MIB);
    assert_eq!(
        resized(&rig, "vm.cow", "20M")["virtual_size_bytes_before"],
        20 * MIB
    );
    assert_eq!(frontend.read(new_end - 8, 4096).unwrap(), [3; 4096]);
    frontend.write(20 * MIB / 512 - 1, &[6; 512]).unwrap();
    rig.detach(&disk, frontend);
    rig.assert_clear();
    rig.assert_clean("vm.cow");

    // Nobody uses it now, and the daemon, which is there, does not know it any more.
    let done = resized(&rig, "vm.cow", "24M");
    assert_eq!(done["device"], Value::Null);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    assert_eq!(frontend.info().sectors, 24 * MIB / 512);
    assert_eq!(frontend.read(20 * MIB / 512 - 1, 512).unwrap(), [6; 512]);
    rig.detach(&disk, frontend);
}

#[test]
fn a_disk_without_a_frontend_grows_as_well() {
    let rig = Rig::start();
    let guest = rig.guest(1);
    let spec = rig.spec("xvda", &rig.overlay_target("vm.cow"));
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let done = resized(&rig, "vm.cow", "8M");
    assert_eq!(done["device"], "backend/vbd3/1/51712");
    assert_eq!(writes_of_state_4(&rig), 0);
    let mut frontend = Frontend::connect(&disk, options()).unwrap();
    assert_eq!(frontend.info().sectors, 8 * MIB / 512);
    frontend.write(8 * MIB / 512 - 1, &[1; 512]).unwrap();
    // While the guest changes its driver, too.
    frontend.close().unwrap();
    resized(&rig, "vm.cow", "9M");
    let frontend = Frontend::connect(&disk, options()).unwrap();
    assert_eq!(frontend.info().sectors, 9 * MIB / 512);
    rig.detach(&disk, frontend);
}

#[test]
fn what_is_not_possible_is_refused_with_device_image_and_cause() {
    let rig = Rig::start();
    let image = |name: &str| rig.path(name).display().to_string();
    for create in [
        vec!["small.cow", "--size", "4M", "--headroom", "8M"],
        vec!["large-sectors.cow", "--size", "4M", "--sector-size", "4096"],
    ] {
        let path = image(create[0]);
        let mut arguments = vec!["create", &path];
        arguments.extend(&create[1..]);
        let output = rig.cowback(&arguments);
        assert!(output.status.success(), "{output:?}");
    }
    let guest = rig.guest(1);
    let attach = |vdev: &str, target: &str| {
        let spec = rig.spec(vdev, target);
        rig.host.toolstack().attach(&guest, &spec).unwrap()
    };
    let disks = [
        attach("xvda", &image("small.cow")),
        attach("xvdb", &image("large-sectors.cow")),
    ];
    for (name, size, device, cause) in [
        (
            "small.cow",
            "1M",
            51712,
            "cannot be made smaller, from 4194304 to 1048576",
        ),
        (
            "small.cow",
            "1T",
            51712,
            "its bitmap has room for a disk of",
        ),
        (
            "large-sectors.cow",
            "4195328",
            51728,
            "guests see sectors of 4096 bytes",
        ),
        ("small.cow", "100T", 51712, "cannot"),
    ] {
        let sentence = refused(&rig, name, size);
        for part in [&format!("backend/vbd3/1/{device}: "), &image(name), cause] {
            assert!(sentence.contains(part), "{size}: {sentence}");
        }
    }
    let list = rig.list();
    for listed in list.as_array().unwrap() {
        assert_eq!(listed["virtual_size_bytes"], 4 * MIB, "{list}");
    }
    for disk in &disks {
        rig.host.toolstack().detach(disk).unwrap();
    }
    rig.assert_clean("small.cow");

    let spec = rig.spec("xvdc", &image("small.cow")).read_only();
    let disk = rig.host.toolstack().attach(&guest, &spec).unwrap();
    let sentence = refused(&rig, "small.cow", "6M");
    let read_only = format!(
        "backend/vbd3/1/51744: {}: is served read-only, so the disk cannot grow",
        image("small.cow")
    );
    assert_eq!(sentence, read_only);
    // What is nobody's disk is looked at without the daemon.
    let sentence = refused(&rig, "nothing.cow", "6M");
    assert!(
        sentence.ends_with("nothing.cow: does not exist"),
        "{sentence}"
    );
    rig.host.toolstack().detach(&disk).unwrap();
}

#[test]
fn an_image_whose_guest_waits_for_a_daemon_is_left_alone() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    for is_killed in [true, false] {
        let waiting = if is_killed {
            rig.daemon.kill().unwrap();
            "a guest that waits"
        } else {
            assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
            "guests that wait"
        };
        let before = std::fs::read(rig.path("vm.cow")).unwrap();
        let sentence = refused(&rig, "vm.cow", "8M");
        assert!(sentence.contains(waiting), "{sentence}");
        assert!(std::fs::read(rig.path("vm.cow")).unwrap() == before);
        rig.daemon.restart().unwrap();
        frontend.write(0, &[1; 4096]).unwrap();
    }
    resized(&rig, "vm.cow", "8M");
    wait_for_sectors(&rig, &disk, 8 * MIB);
    rig.detach(&disk, frontend);
}

#[test]
fn the_next_daemon_tells_what_a_killed_one_did_not() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    resized(&rig, "vm.cow", "8M");
    wait_for_writes_of_state_4(&mut rig, 2);
    rig.daemon.kill().unwrap();
    // As if it had died between the header and xenstore.
    let sectors = disk.backend_node("sectors");
    let xenstore = rig.host.xenstore().clone();
    xenstore
        .write(&sectors, (BASE_SIZE / 512).to_string())
        .unwrap();
    rig.daemon.restart().unwrap();
    wait_for_sectors(&rig, &disk, 8 * MIB);
    wait_for_writes_of_state_4(&mut rig, 3);
    frontend.write(8 * MIB / 512 - 1, &[1; 512]).unwrap();
    // One that finds nothing to tell says nothing.
    rig.daemon.kill().unwrap();
    rig.daemon.restart().unwrap();
    assert_eq!(frontend.read(8 * MIB / 512 - 1, 512).unwrap(), [1; 512]);
    assert_eq!(writes_of_state_4(&rig), 3);
    rig.detach(&disk, frontend);
    rig.assert_clean("vm.cow");
}

/// Blocks that the disk grows by each time.
const STEP: u64 = 256 << 10;

#[test]
fn a_daemon_may_end_at_any_moment_of_a_resize() {
    let mut rig = Rig::start();
    let guest = rig.guest(1);
    let (disk, mut frontend) = rig.connect(&guest, "xvda", "vm.cow");
    let mut size = BASE_SIZE as u64;
    let (mut grown, mut not_grown) = (0, 0);
    for round in 0..40u64 {
        let fill = u8::try_from(round).unwrap() + 1;
        let wanted = size + STEP;
        let mut command = rig.resize("vm.cow", &wanted.to_string());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut resizing = command.spawn().unwrap();
        // From before the request until after the answer.
        std::thread::sleep(Duration::from_micros(round * 997 % 16_000));
        if round % 4 == 3 {
            assert!(rig.daemon.terminate(PATIENCE).unwrap().success());
        } else {
            rig.daemon.kill().unwrap();
        }
        let told = resizing.wait().unwrap().success();
        rig.daemon.restart().unwrap();
        // Answered by the new daemon, which has opened the image by then.
        frontend.write(size / 512 - 8, &[fill; 4096]).unwrap();
        let now = rig.list()[0]["virtual_size_bytes"].as_u64().unwrap();
        assert!(now == wanted || now == size && !told, "{now}, told: {told}");
        wait_for_sectors(&rig, &disk, now);
        if now == wanted {
            grown += 1;
            assert_eq!(frontend.read(size / 512, 4096).unwrap(), [0; 4096]);
            frontend.write(now / 512 - 8, &[fill; 4096]).unwrap();
        } else {
            not_grown += 1;
            assert!(frontend.read(size / 512, 512).is_err());
        }
        assert_eq!(frontend.read(size / 512 - 8, 4096).unwrap(), [fill; 4096]);
        size = now;
    }
    println!("grown {grown} times, not grown {not_grown} times");
    assert_eq!(
        resized(&rig, "vm.cow", "32M")["virtual_size_bytes"],
        32 * MIB
    );
    rig.detach(&disk, frontend);
    rig.assert_clear();
    rig.assert_clean("vm.cow");
}
