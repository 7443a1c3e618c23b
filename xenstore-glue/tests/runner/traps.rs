//! What would hang, leak, crash or be fooled.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use tokio::time::timeout;
use xenstore_glue::runner::{Connection, Order, Report, Runner, RunnerConfig, RunnerError};
use xenstore_rs::{AsyncWatch, AsyncXs};

use crate::fake::{Fake, in_own_process};
use crate::host::{DISK, Host, config, create, create_with, device, frontend, offer_ring};

/// More than the client's channel, the socket and everything between can hold.
const FLOOD: usize = 100_000;

/// Not a test of time: what hangs would hang for ever, and what does not never waits this long.
const FOR_EVER: Duration = Duration::from_secs(2);

#[test]
fn a_task_that_waits_for_an_answer_cannot_take_events() {
    in_own_process(
        "traps::a_task_that_waits_for_an_answer_cannot_take_events",
        || async {
            let (fake, xs) = Fake::start().await;
            let mut events = xs.watch("backend/vbd3").await.unwrap();
            assert_eq!(events.next().await.as_deref(), Some("backend/vbd3"));
            fake.write("domid", "0");
            fake.flood_before_answering("domid", 20);
            // This is the trap: nobody takes the events, so the answer does not come.
            assert!(timeout(FOR_EVER, xs.read("domid")).await.is_err());
        },
    );
}

#[test]
fn a_flood_of_events_does_not_stop_the_runner() {
    in_own_process(
        "traps::a_flood_of_events_does_not_stop_the_runner",
        || async {
            let mut host = Host::start().await;
            let xvda = device("backend/vbd3/1/51712");
            host.store.flood_before_answering(&xvda.node("mode"), FLOOD);
            host.connect(xvda).await;
        },
    );
}

#[test]
fn by_the_kernels_device_there_is_one_request_at_a_time() {
    in_own_process(
        "traps::by_the_kernels_device_there_is_one_request_at_a_time",
        || async {
            let (store, xs) = Fake::start().await;
            store.be_behind_the_kernel();
            let xvda = device("backend/vbd3/1/51712");
            let xvdb = device("backend/vbd3/1/51728");
            // It was there before, so only the first event of a watch can tell of it.
            create(&store, xvda);
            let mut host = Host::run_over(store, Connection::by_device(xs));
            host.store.wait_for(&xvda.node("state"), "2").await;
            host.connect(xvda).await;
            host.connect(xvdb).await;
            // Its watch ends a while later, in the middle of other things.
            host.store.remove(&xvdb.to_string());
            while !matches!(host.order().await, Order::Disconnect { .. }) {}
            host.report(Report::Disconnected { device: xvdb });
            while !matches!(host.order().await, Order::Close { .. }) {}
            host.report(Report::Closed { device: xvdb });
            host.store.wait_until(|store| store.watches() == 3).await;
            assert!(!host.store.overlapped());
        },
    );
}

#[test]
fn a_watch_that_the_kernel_refuses_ends_the_runner_with_a_reason() {
    in_own_process(
        "traps::a_watch_that_the_kernel_refuses_ends_the_runner_with_a_reason",
        || async {
            let (store, xs) = Fake::start().await;
            store.be_behind_the_kernel();
            let mut host = Host::run_over(store, Connection::by_device(xs));
            let xvda = device("backend/vbd3/1/51712");
            host.connect(xvda).await;
            host.store.refuse_watches();
            create(&host.store, device("backend/vbd3/2/51712"));
            let error = host.runner.await.unwrap().unwrap_err().to_string();
            assert!(
                error.contains("/local/domain/2/device/vbd/51712/state"),
                "{error}"
            );
            assert!(error.contains("did not take the watch"), "{error}");
        },
    );
}

#[test]
fn by_the_socket_requests_do_not_wait_for_each_other() {
    in_own_process(
        "traps::by_the_socket_requests_do_not_wait_for_each_other",
        || async {
            let (store, xs) = Fake::start().await;
            store.slow_down();
            let mut host = Host::run_over(store, Connection::by_socket(xs));
            host.connect(device("backend/vbd3/1/51712")).await;
            assert!(host.store.overlapped());
        },
    );
}

#[test]
fn the_script_may_be_faster_than_the_watch() {
    in_own_process("traps::the_script_may_be_faster_than_the_watch", || async {
        let mut host = Host::start().await;
        host.store.wait_until(|store| store.watches() == 2).await;
        assert_eq!(host.handle.snapshot().await, Ok(vec![]));
        host.store.mute(true);
        let xvda = device("backend/vbd3/1/51712");
        create(&host.store, xvda);
        let handle = host.handle.clone();
        let _add = tokio::spawn(async move { handle.hotplug_add(xvda).await });
        assert!(matches!(host.order().await, Order::Open { .. }));
        assert_eq!(host.store.read(&xvda.node("state")).as_deref(), Some("2"));
    });
}

#[test]
fn a_frontend_that_writes_nonsense_is_refused_and_may_begin_again() {
    in_own_process(
        "traps::a_frontend_that_writes_nonsense_is_refused_and_may_begin_again",
        || async {
            let xvda = device("backend/vbd3/1/51712");
            let mut host = Host::start().await;
            host.connect(xvda).await;
            host.store.write(&frontend(xvda, "state"), "5");
            assert!(matches!(host.order().await, Order::Disconnect { .. }));
            host.report(Report::Disconnected { device: xvda });
            host.store.write(&frontend(xvda, "state"), "1");
            host.store.wait_for(&xvda.node("state"), "2").await;

            host.store
                .write_bytes(&frontend(xvda, "ring-ref"), b"\xff\xfe");
            host.store.write(&frontend(xvda, "state"), "3");
            host.store.wait_for(&xvda.node("state"), "5").await;
            let error = host.store.read("error/backend/vbd3/1/51712/error");
            let expected = "5 frontend node ring-ref is not text";
            assert_eq!(error.as_deref(), Some(expected));

            // Flapping does not help it; closing does.
            host.store.write(&frontend(xvda, "state"), "4");
            offer_ring(&host.store, xvda, 8);
            host.store.write(&frontend(xvda, "state"), "6");
            host.store.wait_for(&xvda.node("state"), "6").await;
            host.store.write(&frontend(xvda, "state"), "1");
            host.store.wait_for(&xvda.node("state"), "2").await;
            offer_ring(&host.store, xvda, 9);
            assert!(matches!(host.order().await, Order::Connect { .. }));
        },
    );
}

#[test]
fn a_state_that_is_not_text_means_that_nobody_is_there() {
    in_own_process(
        "traps::a_state_that_is_not_text_means_that_nobody_is_there",
        || async {
            let xvda = device("backend/vbd3/1/51712");
            let mut host = Host::start().await;
            host.connect(xvda).await;
            host.store.write_bytes(&frontend(xvda, "state"), b"\xff");
            assert!(matches!(host.order().await, Order::Disconnect { .. }));
            host.report(Report::Disconnected { device: xvda });
            assert!(matches!(host.order().await, Order::Close { .. }));
            host.report(Report::Closed { device: xvda });
            host.store.wait_for(&xvda.node("state"), "6").await;
        },
    );
}

#[test]
fn a_frontend_that_began_again_unnoticed_is_connected_anew() {
    in_own_process(
        "traps::a_frontend_that_began_again_unnoticed_is_connected_anew",
        || async {
            let xvda = device("backend/vbd3/1/51712");
            let mut host = Host::start().await;
            host.connect(xvda).await;
            host.store.write(&frontend(xvda, "ring-ref"), "77");
            host.store.write(&frontend(xvda, "state"), "4");
            assert!(matches!(host.order().await, Order::Disconnect { .. }));
            host.report(Report::Disconnected { device: xvda });
            let Order::Connect { frontend, .. } = host.order().await else {
                panic!("not connected");
            };
            assert_eq!(frontend.queues[0].ring_refs[0].0, 77);
        },
    );
}

/// A host, and the folder of blkback's driver below this root of its sysfs.
async fn host_with_blkback(sysfs: &Path) -> (Host, PathBuf) {
    let (store, xs) = Fake::start().await;
    let runner = Runner::set_up(Connection::by_socket(xs), config(sysfs));
    let driver = sysfs.join("bus/xen-backend/drivers/vbd");
    (Host::run(store, runner), driver)
}

#[test]
fn the_kernel_is_unbound_from_our_devices_only() {
    in_own_process(
        "traps::the_kernel_is_unbound_from_our_devices_only",
        || async {
            let sysfs = tempfile::tempdir().unwrap();
            let (host, driver) = host_with_blkback(sysfs.path()).await;
            std::fs::create_dir_all(driver.join("vbd-1-51712")).unwrap();
            std::fs::create_dir_all(driver.join("vbd-1-51728")).unwrap();
            std::fs::write(driver.join("unbind"), "").unwrap();
            create_with(&host.store, device("backend/vbd/1/51728"), "block", &[]);
            let ours = device("backend/vbd/1/51712");
            create(&host.store, ours);
            host.store.wait_for(&ours.node("state"), "2").await;
            let unbound = std::fs::read_to_string(driver.join("unbind")).unwrap();
            assert_eq!(unbound, "vbd-1-51712");
        },
    );
}

/// Its module is loaded when our device is there already: it probes the device, and offers what it pleases.
#[test]
fn what_blkback_offers_on_our_devices_is_taken_back() {
    in_own_process(
        "traps::what_blkback_offers_on_our_devices_is_taken_back",
        || async {
            let sysfs = tempfile::tempdir().unwrap();
            let (host, driver) = host_with_blkback(sysfs.path()).await;
            let ours = device("backend/vbd/1/51712");
            create(&host.store, ours);
            host.store.wait_for(&ours.node("state"), "2").await;
            std::fs::create_dir_all(driver.join("vbd-1-51712")).unwrap();
            host.store.write(&ours.node("max-ring-page-order"), "9");
            host.store.write(&ours.node("state"), "2");
            // The driver has taken the device before it can be told to let go, here for longer than is waited.
            tokio::time::sleep(Duration::from_millis(150)).await;
            std::fs::write(driver.join("unbind"), "").unwrap();
            let order = ours.node("max-ring-page-order");
            let taken_back = host.store.wait_for(&order, "4");
            timeout(Duration::from_secs(10), taken_back).await.unwrap();
            let unbound = std::fs::read_to_string(driver.join("unbind")).unwrap();
            assert_eq!(unbound, "vbd-1-51712");
            assert_eq!(host.store.read(&ours.node("state")).as_deref(), Some("2"));
        },
    );
}

#[test]
fn writes_that_are_refused_are_tried_again() {
    in_own_process("traps::writes_that_are_refused_are_tried_again", || async {
        let host = Host::start().await;
        host.store.refuse_writes(true);
        let xvda = device("backend/vbd3/1/51712");
        create(&host.store, xvda);
        loop {
            let devices = host.handle.snapshot().await.unwrap();
            if devices.iter().any(|device| device.reason.is_some()) {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(host.store.read(&xvda.node("state")).as_deref(), Some("1"));
        host.store.refuse_writes(false);
        host.store.wait_for(&xvda.node("state"), "2").await;
    });
}

#[test]
fn a_dead_xenstored_ends_the_runner() {
    in_own_process("traps::a_dead_xenstored_ends_the_runner", || async {
        let host = Host::start().await;
        let xvda = device("backend/vbd3/1/51712");
        create(&host.store, xvda);
        host.store.wait_for(&xvda.node("state"), "2").await;
        host.store.hang_up();
        let ended = host.runner.await.unwrap();
        assert!(
            matches!(ended, Err(RunnerError::Xenstore { .. })),
            "{ended:?}"
        );
        assert_eq!(
            host.handle.hotplug_add(xvda).await,
            Err("the xenstore runner has ended".into())
        );
    });
}

#[test]
fn a_thousand_devices_are_found_although_they_cannot_be_listed() {
    in_own_process(
        "traps::a_thousand_devices_are_found_although_they_cannot_be_listed",
        || async {
            let device = |domid: u32| device(&format!("backend/vbd3/{domid}/51712"));
            let host = Host::start_after(|store| {
                for domid in 2001..=3000 {
                    create(store, device(domid));
                }
            })
            .await;
            for domid in 2001..=3000 {
                host.store.wait_for(&device(domid).node("state"), "2").await;
            }
            assert_eq!(host.handle.snapshot().await.unwrap().len(), 1000);
            for domid in 2001..=3000 {
                host.store.remove(&format!("backend/vbd3/{domid}"));
            }
            host.store.wait_until(|store| store.watches() == 2).await;
        },
    );
}

#[test]
fn what_was_there_is_taken_up_before_it_is_said_that_all_was_looked_through() {
    in_own_process(
        "traps::what_was_there_is_taken_up_before_it_is_said_that_all_was_looked_through",
        || async {
            let served = [
                device("backend/vbd/1/51712"),
                device("backend/vbd3/2/51712"),
            ];
            let mut host = Host::start_after(|store| {
                for device in served {
                    create(store, device);
                    // As an earlier daemon left it.
                    store.write(&device.node("hotplug-status"), "connected");
                    store.write(&device.node("state"), "2");
                }
            })
            .await;
            let mut opened = Vec::new();
            while opened.len() < 2 {
                match host.any_order().await {
                    Order::Open { device, .. } => opened.push(device),
                    other => panic!("{other:?} came before {opened:?}"),
                }
            }
            assert_eq!(host.any_order().await, Order::LookedThrough);
        },
    );
}

#[test]
fn a_disk_that_comes_and_goes_has_one_watch() {
    in_own_process(
        "traps::a_disk_that_comes_and_goes_has_one_watch",
        || async {
            let (store, xs) = Fake::start().await;
            let config = RunnerConfig {
                retire_watches_after: Duration::from_secs(3600),
                ..config(Path::new("/nonexistent"))
            };
            let mut host = Host::run(store, Runner::set_up(Connection::by_socket(xs), config));
            let xvda = device("backend/vbd3/1/51712");
            for _ in 0..5 {
                create(&host.store, xvda);
                host.store.wait_for(&xvda.node("state"), "2").await;
                let handle = host.handle.clone();
                let add = tokio::spawn(async move { handle.hotplug_add(xvda).await });
                assert!(matches!(host.order().await, Order::Open { .. }));
                let opened = Report::Opened {
                    device: xvda,
                    disk: DISK,
                };
                host.report(opened);
                assert_eq!(add.await.unwrap(), Ok(()));
                host.take_away(xvda).await;
                // Those of the backend directories, and that of the disk.
                assert_eq!(host.store.watches(), 3);
            }
            // It sees what it is there for.
            host.connect(xvda).await;
            host.store.write(&frontend(xvda, "state"), "5");
            assert!(matches!(host.order().await, Order::Disconnect { .. }));
            assert_eq!(host.store.watches(), 3);
        },
    );
}
