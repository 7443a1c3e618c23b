//! The whole simulation with a small backend: toolstack, handshake, ring, grants and channels work together.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use simxen::frontend::Operation;
use simxen::{
    Abi, BackendAccount, Daemon, DaemonCommand, Disk, DiskSpec, Error, Frontend, FrontendOptions,
    Host, Hotplug, HotplugCommand, Request,
};

const TIMEOUT: Duration = Duration::from_secs(10);
const DISK_BYTES: u64 = 16 << 20;

struct Setup {
    /// Dropped before the host.
    daemon: Daemon,
    image: PathBuf,
    host: Host,
}

fn start(mode: &str) -> Setup {
    let host = Host::start().unwrap();
    let image = host.directory().join("disk.img");
    File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
    let command = DaemonCommand::new(env!("CARGO_BIN_EXE_simxen-ramdisk"))
        .arg(&image)
        .arg(mode);
    let mut daemon = host.start_daemon(command).unwrap();
    daemon.wait_for_log("ready", TIMEOUT).unwrap();
    Setup {
        daemon,
        image,
        host,
    }
}

fn attach(setup: &Setup, domain: u16) -> Disk {
    let guest = setup.host.new_domain(domain).unwrap();
    let spec = DiskSpec::new("xvda", "dscow:/a:/b");
    setup.host.toolstack().attach(&guest, &spec).unwrap()
}

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    let mixed = |index: usize| (index * 31 + index / 512 + seed) & 0xff;
    (0..bytes)
        .map(|index| u8::try_from(mixed(index)).unwrap())
        .collect()
}

fn total(accounts: &[BackendAccount]) -> (usize, usize) {
    accounts.iter().fold((0, 0), |(grants, channels), one| {
        (grants + one.grants_mapped, channels + one.channels_bound)
    })
}

#[test]
fn what_is_written_is_read_in_every_way_of_reaching_pages() {
    for mode in ["map", "persistent", "copy"] {
        let setup = start(mode);
        let disk = attach(&setup, 1);
        let mut frontend = Frontend::connect(&disk, FrontendOptions::default()).unwrap();
        assert_eq!(frontend.info().sectors, 32_768);
        assert_eq!(frontend.info().persistent, mode == "persistent");
        assert_eq!(disk.backend_state(), 4);
        assert_eq!(disk.frontend_state(), 4);
        let data = pattern(300 * 1024 + 512, 1);
        frontend.write(9, &data).unwrap();
        frontend.flush().unwrap();
        assert_eq!(frontend.read(9, data.len()).unwrap(), data, "{mode}");
        let mut on_disk = vec![0; data.len()];
        let file = File::open(&setup.image).unwrap();
        file.read_exact_at(&mut on_disk, 9 * 512).unwrap();
        assert_eq!(on_disk, data, "{mode}");
        frontend.discard(9, 8).unwrap();
        assert_eq!(frontend.read(9, 4096).unwrap(), vec![0; 4096]);

        let (grants, channels) = total(&setup.host.accounts());
        assert_eq!(channels, 1);
        assert_eq!(grants > 1, mode == "persistent", "{mode}: {grants}");
        let toolstack = setup.host.toolstack();
        toolstack.detach_connected(&disk, frontend).unwrap();
        assert_eq!(total(&setup.host.accounts()), (0, 0));
        assert_eq!(setup.host.xenstore().ls(disk.backend_path()), None);
        assert_eq!(setup.host.xenstore().ls(disk.frontend_path()), None);
    }
}

#[test]
fn all_abis_ring_sizes_and_queues_work() {
    let setup = start("persistent");
    let disk = attach(&setup, 1);
    let variants = [
        (Abi::X86_64, 0, 1, true),
        (Abi::X86_32, 0, 1, false),
        (Abi::Arm, 1, 2, false),
        (Abi::X86_32, 4, 4, false),
        (Abi::X86_64, 4, 4, false),
    ];
    for (seed, (abi, ring_order, queues, numbered_ring_refs)) in variants.into_iter().enumerate() {
        let options = FrontendOptions {
            abi,
            ring_order,
            queues,
            numbered_ring_refs,
            segments_max: 11,
            ..FrontendOptions::default()
        };
        let mut frontend = Frontend::connect(&disk, options).unwrap();
        let data = pattern(1 << 20, seed);
        frontend.write(0, &data).unwrap();
        assert_eq!(frontend.read(0, data.len()).unwrap(), data, "{abi:?}");
        // The driver reboots: closed from the guest's side, connected anew.
        frontend.close().unwrap();
        assert_eq!(disk.backend_state(), 6);
        assert_eq!(total(&setup.host.accounts()), (0, 0));
        for name in [
            "ring-ref",
            "ring-ref0",
            "ring-page-order",
            "multi-queue-num-queues",
        ] {
            disk.xenstore().rm(&disk.frontend_node(name)).unwrap();
        }
    }
}

#[test]
fn the_layout_of_nodes_is_libxls() {
    let setup = start("map");
    let disk = attach(&setup, 3);
    let store = setup.host.xenstore();
    let backend = |name: &str| store.read_text(&disk.backend_node(name));
    let frontend = |name: &str| store.read_text(&disk.frontend_node(name));
    assert_eq!(disk.backend_path(), "/local/domain/0/backend/vbd3/3/51712");
    assert_eq!(disk.frontend_path(), "/local/domain/3/device/vbd/51712");
    for (name, value) in [
        ("params", "aio:dscow:/a:/b"),
        ("script", "/etc/xen/scripts/block-cow"),
        ("frontend", "/local/domain/3/device/vbd/51712"),
        ("frontend-id", "3"),
        ("online", "1"),
        ("dev", "xvda"),
        ("type", "tap"),
        ("mode", "w"),
        ("device-type", "disk"),
        ("discard-enable", "1"),
        ("hotplug-status", "connected"),
        ("state", "2"),
    ] {
        assert_eq!(backend(name).as_deref(), Some(value), "{name}");
    }
    for (name, value) in [
        ("backend", "/local/domain/0/backend/vbd3/3/51712"),
        ("backend-id", "0"),
        ("state", "1"),
        ("virtual-device", "51712"),
    ] {
        assert_eq!(frontend(name).as_deref(), Some(value), "{name}");
    }
}

#[test]
fn a_killed_backend_is_taken_over_by_the_next() {
    let mut setup = start("persistent");
    let disk = attach(&setup, 1);
    let mut frontend = Frontend::connect(&disk, FrontendOptions::default()).unwrap();
    let data = pattern(4096, 7);
    frontend.write(0, &data).unwrap();

    let first_pid = setup.daemon.pid();
    setup.daemon.kill().unwrap();
    let accounts = setup
        .host
        .wait_for_accounts("the daemon to be gone", <[_]>::is_empty, TIMEOUT);
    accounts.unwrap();
    // Nobody answers now, but the guest does not know.
    let id = frontend
        .submit(&Request::Write {
            sector: 8,
            data: &data,
        })
        .unwrap();
    assert_eq!(frontend.in_flight(), 1);
    frontend.set_timeout(Duration::from_millis(50));
    let error = frontend.wait(id).unwrap_err().to_string();
    assert!(
        error.ends_with("in flight: write of 4096 bytes at sector 8"),
        "{error}"
    );
    frontend.set_timeout(TIMEOUT);

    setup.daemon.restart().unwrap();
    assert_eq!(frontend.wait(id).unwrap().status, 0);
    assert_eq!(frontend.read(0, 4096).unwrap(), data);
    assert_eq!(frontend.read(8, 4096).unwrap(), data);
    assert_ne!(setup.daemon.pid(), first_pid);
    assert_eq!(disk.backend_state(), 4);
    let toolstack = setup.host.toolstack();
    toolstack.detach_connected(&disk, frontend).unwrap();
    setup.host.wait_until_clear(TIMEOUT).unwrap();
}

#[test]
fn a_destroyed_domain_leaves_nothing_behind() {
    let setup = start("persistent");
    let disk = attach(&setup, 1);
    let mut frontend = Frontend::connect(&disk, FrontendOptions::default()).unwrap();
    frontend.write(0, &[1; 4096]).unwrap();
    let toolstack = setup.host.toolstack();
    toolstack.destroy_domain(disk.domain(), [&disk]).unwrap();
    setup.host.wait_until_clear(TIMEOUT).unwrap();
    let store = setup.host.xenstore();
    assert_eq!(store.ls("/local/domain/1"), None);
    assert_eq!(store.ls("/local/domain/0/backend/vbd3/1"), Some(Vec::new()));
    setup.host.new_domain(1).unwrap();
}

#[test]
fn raw_requests_get_raw_answers() {
    let setup = start("map");
    let disk = attach(&setup, 1);
    let mut frontend = Frontend::connect(&disk, FrontendOptions::default()).unwrap();
    let handle = frontend.handle();
    assert_eq!(handle, 51_712);
    let flush = Operation::Flush.code();
    let entry = frontend.abi().encode_transfer(flush, handle, 5, 0, &[]);
    frontend.submit_raw(0, 5, &entry).unwrap();
    let unknown = frontend.abi().encode_transfer(77, handle, 6, 0, &[]);
    frontend.submit_raw(0, 6, &unknown).unwrap();
    let response = frontend.next_raw_response().unwrap();
    assert_eq!(
        (response.id, response.operation, response.status),
        (5, 3, 0)
    );
    let response = frontend.next_raw_response().unwrap();
    assert_eq!(
        (response.id, response.operation, response.status),
        (6, 77, -1)
    );
    // A response that nobody waits for makes the frontend give up, as Linux does.
    let entry = frontend.abi().encode_transfer(flush, handle, 8, 0, &[]);
    frontend.submit_raw(0, 7, &entry).unwrap();
    let error = frontend.next_raw_response().unwrap_err();
    assert!(matches!(error, Error::Protocol(_)), "{error}");
}

#[test]
fn a_request_beyond_the_disk_fails_by_its_name() {
    let setup = start("copy");
    let disk = attach(&setup, 1);
    let mut frontend = Frontend::connect(&disk, FrontendOptions::default()).unwrap();
    let error = frontend.read(32_768, 512).unwrap_err().to_string();
    assert_eq!(
        error,
        "read of 512 bytes at sector 32768 failed with blkif status -1"
    );
}

#[test]
fn the_hotplug_command_gets_what_libxl_gives_and_its_failure_shows() {
    let setup = start("map");
    let guest = setup.host.new_domain(1).unwrap();
    let seen = setup.host.directory().join("seen");
    let script = r#"echo "$@ $script $XENBUS_TYPE $XENBUS_PATH $XENBUS_BASE_PATH" >> "$SEEN"; echo /run/nbd"#;
    let command = HotplugCommand::new("/bin/sh")
        .arg("-c")
        .arg(script)
        .arg("hotplug")
        .env("SEEN", &seen);
    let spec = DiskSpec::new("xvdb", "dscow:/a:/b").hotplug(Hotplug::Command(command));
    let toolstack = setup.host.toolstack();
    let disk = toolstack.attach(&guest, &spec).unwrap();
    let path = disk.backend_node("physical-device-path");
    assert_eq!(setup.host.xenstore().read_text(&path).unwrap(), "/run/nbd");
    toolstack.detach(&disk).unwrap();
    let mut text = String::new();
    File::open(&seen)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(
        text,
        "add backend/vbd3/1/51728 /etc/xen/scripts/block-cow vbd3 backend/vbd3/1/51728 backend\n\
         remove backend/vbd3/1/51728 /etc/xen/scripts/block-cow vbd3 backend/vbd3/1/51728 backend\n"
    );

    let failing = HotplugCommand::new("/bin/sh")
        .arg("-c")
        .arg("echo no such image >&2; exit 3");
    let spec = DiskSpec::new("xvdc", "dscow:/a:/b").hotplug(Hotplug::Command(failing));
    let error = toolstack.attach(&guest, &spec).unwrap_err().to_string();
    assert_eq!(
        error,
        "hotplug add for /local/domain/0/backend/vbd3/1/51744 failed: exit status: 3: no such image"
    );
    let node = "/local/domain/0/backend/vbd3/1/51744/hotplug-error";
    assert_eq!(
        setup.host.xenstore().read_text(node).unwrap(),
        "exit status: 3: no such image"
    );
}

#[test]
fn a_daemon_that_dies_is_reported_with_its_log() {
    let host = Host::start().unwrap();
    let command = DaemonCommand::new(env!("CARGO_BIN_EXE_simxen-ramdisk"));
    let mut daemon = host.start_daemon(command).unwrap();
    let error = daemon.wait_for_log("ready", TIMEOUT).unwrap_err();
    assert!(
        error.to_string().contains("usage: simxen-ramdisk"),
        "{error}"
    );
    assert!(matches!(error, Error::DaemonEnded { .. }));
}

#[test]
fn a_backend_that_keeps_pages_mapped_or_maps_too_much_is_caught() {
    let setup = start("leak");
    let disk = attach(&setup, 1);
    let mut frontend = Frontend::connect(&disk, FrontendOptions::default()).unwrap();
    // Pages to be written to the disk are granted for reading only, and this backend maps them writable.
    let error = frontend.write(0, &[1; 512]).unwrap_err().to_string();
    assert_eq!(
        error,
        "write of 512 bytes at sector 0 failed with blkif status -1"
    );
    let error = frontend.read(0, 512).unwrap_err();
    assert!(
        matches!(error, Error::GrantStillMapped { mappings: 1, .. }),
        "{error}"
    );
}

#[test]
fn domain_zero_can_have_disks_too() {
    let setup = start("persistent");
    let toolstack = setup.host.toolstack();
    let spec = DiskSpec::new("xvda", "dscow:/a:/b");
    let disk = toolstack.attach(setup.host.domain_zero(), &spec).unwrap();
    assert_eq!(disk.backend_path(), "/local/domain/0/backend/vbd3/0/51712");
    let mut frontend = Frontend::connect(&disk, FrontendOptions::default()).unwrap();
    frontend.write(0, &[3; 512]).unwrap();
    assert_eq!(frontend.read(0, 512).unwrap(), [3; 512]);
    toolstack.detach_connected(&disk, frontend).unwrap();
}

#[test]
fn more_than_the_backend_offers_is_refused() {
    let setup = start("map");
    let disk = attach(&setup, 1);
    let options = FrontendOptions {
        queues: 5,
        ..FrontendOptions::default()
    };
    let error = Frontend::connect(&disk, options).unwrap_err().to_string();
    assert_eq!(
        error,
        "not possible on this connection: 5 queues, of 4 that the backend offers"
    );
}

#[test]
fn a_daemon_can_be_told_to_end_and_sees_xenstore_vanish() {
    use std::os::unix::process::ExitStatusExt;
    let mut setup = start("map");
    let status = setup.daemon.terminate(TIMEOUT).unwrap();
    assert_eq!(status.signal(), Some(15));
    setup.daemon.restart().unwrap();
    setup.daemon.wait_for_log("ready", TIMEOUT).unwrap();
    setup.host.disconnect_xenstore_clients();
    // This backend cannot go on without its store.
    assert_eq!(setup.daemon.wait(TIMEOUT).unwrap().code(), Some(1));
    assert!(!setup.daemon.is_running());
}
