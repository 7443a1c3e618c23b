//! A device's life as libxl, scripts and guests make it.

use xenstore_glue::frontend::{FrontendConfig, Protocol, QueueConfig};
use xenstore_glue::runner::{BackendConfig, DeviceMode, Order, Report};
use xenstore_glue::{DeviceId, DiskProperties, DomId, EventChannel, GrantRef, XenbusState};

use crate::fake::in_own_process;
use crate::host::{DISK, Host, create, create_with, device, frontend, offer_ring, set_offline};

#[test]
fn a_disk_is_attached_used_and_detached() {
    in_own_process("life::a_disk_is_attached_used_and_detached", || async {
        let mut host = Host::start().await;
        let xvda = device("backend/vbd3/1/51712");
        host.store.write("/local/domain/1/vm", "/vm/an-uuid");
        create(&host.store, xvda);
        host.store.wait_for("backend/vbd3/1/51712/state", "2").await;
        let written = host.store.take_written();
        let nodes: Vec<&str> = written.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(
            nodes,
            [
                "backend/vbd3/1/51712/feature-discard",
                "backend/vbd3/1/51712/max-ring-page-order",
                "backend/vbd3/1/51712/state",
            ]
        );

        let handle = host.handle.clone();
        let add = tokio::spawn(async move { handle.hotplug_add(xvda).await });
        assert_eq!(
            host.order().await,
            Order::Open {
                device: xvda,
                config: BackendConfig {
                    params: "dscow:/images/vm1.cow:/images/debian.img".into(),
                    mode: DeviceMode::Writable,
                    device_type: "disk".into(),
                    vdev: "xvda".into(),
                    frontend_domid: DomId::new(1).unwrap(),
                    removable: false,
                    discard_enable: true,
                    domain_name: None,
                    vm: Some("/vm/an-uuid".into()),
                },
            }
        );
        host.report(Report::Opened {
            device: xvda,
            disk: DISK,
        });
        assert_eq!(add.await.unwrap(), Ok(()));

        host.store.write(&xvda.node("hotplug-status"), "connected");
        offer_ring(&host.store, xvda, 8);
        assert_eq!(
            host.order().await,
            Order::Connect {
                device: xvda,
                frontend: FrontendConfig {
                    protocol: Protocol::X86_64,
                    persistent_grants: false,
                    queues: vec![QueueConfig {
                        ring_refs: vec![GrantRef(8)],
                        event_channel: EventChannel(15),
                    }],
                },
                adopt: false,
            }
        );
        host.report(Report::Connected { device: xvda });
        host.store.wait_for(&xvda.node("state"), "4").await;
        for (node, value) in [
            ("sectors", "2048"),
            ("info", "0"),
            ("sector-size", "512"),
            ("physical-sector-size", "4096"),
        ] {
            assert_eq!(host.store.read(&xvda.node(node)).as_deref(), Some(value));
        }
        let written = host.store.take_written();
        assert_eq!(written.last().unwrap().0, xvda.node("state"));
        host.store.write(&frontend(xvda, "state"), "4");

        // The guest loads another driver.
        host.store.write(&frontend(xvda, "state"), "5");
        let disconnect = Order::Disconnect {
            device: xvda,
            handover: false,
        };
        assert_eq!(host.order().await, disconnect);
        host.report(Report::Disconnected { device: xvda });
        host.store.wait_for(&xvda.node("state"), "5").await;
        host.store.write(&frontend(xvda, "state"), "6");
        host.store.wait_for(&xvda.node("state"), "6").await;
        host.store.write(&frontend(xvda, "state"), "1");
        host.store.wait_for(&xvda.node("state"), "2").await;
        offer_ring(&host.store, xvda, 9);
        assert!(matches!(
            host.order().await,
            Order::Connect { adopt: false, .. }
        ));
        host.report(Report::Connected { device: xvda });
        host.store.wait_for(&xvda.node("state"), "4").await;
        host.store.write(&frontend(xvda, "state"), "4");

        // The domain is destroyed.
        host.store.remove("/local/domain/1");
        set_offline(&host.store, xvda);
        assert_eq!(host.order().await, disconnect);
        host.report(Report::Disconnected { device: xvda });
        let close = Order::Close {
            device: xvda,
            handover: false,
        };
        assert_eq!(host.order().await, close);
        assert_eq!(host.store.read(&xvda.node("state")).as_deref(), Some("5"));
        host.report(Report::Closed { device: xvda });
        host.store.wait_for(&xvda.node("state"), "6").await;
        assert_eq!(host.handle.hotplug_remove(xvda).await, Ok(()));
        host.store.remove("backend/vbd3/1");
        assert_eq!(host.order().await, Order::Forgotten { device: xvda });
        assert_eq!(host.handle.snapshot().await, Ok(vec![]));

        // None twice: what we write comes back as an event, and changes nothing.
        assert_eq!(host.take_states(xvda), ["5", "6", "2", "4", "6"]);
        // The watch on the frontend is given back.
        host.store.wait_until(|store| store.watches() == 2).await;
    });
}

#[test]
fn a_guest_that_uses_its_disk_keeps_it_until_it_lets_go() {
    in_own_process(
        "life::a_guest_that_uses_its_disk_keeps_it_until_it_lets_go",
        || async {
            let mut host = Host::start().await;
            let xvdb = device("backend/vbd/3/51728");
            host.connect(xvdb).await;
            host.store.take_written();
            set_offline(&host.store, xvdb);
            host.store.write(&frontend(xvdb, "state"), "5");
            assert!(matches!(host.order().await, Order::Disconnect { .. }));
            host.report(Report::Disconnected { device: xvdb });
            assert!(matches!(host.order().await, Order::Close { .. }));
            host.report(Report::Closed { device: xvdb });
            host.store.wait_for(&xvdb.node("state"), "6").await;
            assert_eq!(host.take_states(xvdb), ["6"]);
        },
    );
}

#[test]
fn an_image_that_does_not_open_fails_the_script() {
    in_own_process(
        "life::an_image_that_does_not_open_fails_the_script",
        || async {
            let mut host = Host::start().await;
            let xvda = device("backend/vbd3/1/51712");
            create(&host.store, xvda);
            host.store.wait_for(&xvda.node("state"), "2").await;
            let handle = host.handle.clone();
            let add = tokio::spawn(async move { handle.hotplug_add(xvda).await });
            assert!(matches!(host.order().await, Order::Open { .. }));
            let reason = "opening /images/debian.img: no such file".to_owned();
            host.report(Report::OpenFailed {
                device: xvda,
                reason: reason.clone(),
            });
            assert_eq!(add.await.unwrap(), Err(reason.clone()));
            assert_eq!(
                host.store.read("error/backend/vbd3/1/51712/error"),
                Some(format!("5 {reason}"))
            );
            let devices = host.handle.snapshot().await.unwrap();
            assert_eq!(devices[0].reason.as_ref(), Some(&reason));
            assert_eq!(devices[0].backend_state, XenbusState::InitWait);
        },
    );
}

#[test]
fn a_new_daemon_adopts_connected_guests_without_a_word() {
    in_own_process(
        "life::a_new_daemon_adopts_connected_guests_without_a_word",
        || async {
            let xvda = device("backend/vbd3/1/51712");
            let mut host = Host::start_after(|store| {
                create(store, xvda);
                offer_ring(store, xvda, 8);
                store.write(&frontend(xvda, "state"), "4");
                store.write(&xvda.node("hotplug-status"), "connected");
                store.write(&xvda.node("sectors"), "2048");
                store.write(&xvda.node("state"), "4");
            })
            .await;
            assert!(matches!(host.order().await, Order::Open { .. }));
            assert_eq!(written_to(&host, xvda), its_process());
            host.report(Report::Opened {
                device: xvda,
                disk: DISK,
            });
            assert!(matches!(
                host.order().await,
                Order::Connect { adopt: true, .. }
            ));
            host.report(Report::Connected { device: xvda });
            // And it leaves as it came.
            let handle = host.handle.clone();
            let shutdown = tokio::spawn(async move { handle.shutdown().await });
            let disconnect = Order::Disconnect {
                device: xvda,
                handover: true,
            };
            assert_eq!(host.order().await, disconnect);
            host.report(Report::Disconnected { device: xvda });
            let close = Order::Close {
                device: xvda,
                handover: true,
            };
            assert_eq!(host.order().await, close);
            host.report(Report::Closed { device: xvda });
            assert_eq!(shutdown.await.unwrap(), Ok(()));
            assert!(host.runner.await.unwrap().is_ok());
            assert_eq!(host.store.take_written(), []);
        },
    );
}

#[test]
fn nothing_of_others_is_touched() {
    in_own_process("life::nothing_of_others_is_touched", || async {
        let foreign = device("backend/vbd3/1/51712");
        let broken = device("backend/vbd3/1/51728");
        let ours = device("backend/vbd3/2/51712");
        let host = Host::start().await;
        create_with(&host.store, foreign, "/etc/xen/scripts/block-tap", &[]);
        create_with(
            &host.store,
            broken,
            "/etc/xen/scripts/block-cow",
            &[("frontend", "/local/domain/9/device/vbd/51728")],
        );
        create(&host.store, ours);
        host.store.wait_for(&ours.node("state"), "2").await;
        let written = host.store.take_written();
        let is_ours = |(path, _): &(String, String)| path.starts_with("backend/vbd3/2/51712/");
        assert!(written.iter().all(is_ours), "{written:?}");
        assert_eq!(
            host.handle.hotplug_add(foreign).await,
            Err(
                "device backend/vbd3/1/51712 is for the script \"/etc/xen/scripts/block-tap\", \
                 not for block-cow"
                    .into()
            )
        );
        assert_eq!(
            host.handle.hotplug_add(broken).await,
            Err(
                "device backend/vbd3/1/51728 is ours, but its node frontend is \
                 \"/local/domain/9/device/vbd/51728\""
                    .into()
            )
        );
        assert_eq!(
            host.handle.hotplug_add(device("backend/vbd/1/1")).await,
            Err("there is no device backend/vbd/1/1 in xenstore".into())
        );
        assert_eq!(host.handle.hotplug_remove(foreign).await, Ok(()));
    });
}

#[test]
fn discard_is_not_offered_where_the_toolstack_forbids_it() {
    in_own_process(
        "life::discard_is_not_offered_where_the_toolstack_forbids_it",
        || async {
            let host = Host::start().await;
            let xvda = device("backend/vbd3/1/51712");
            let more = [("discard-enable", "0")];
            create_with(&host.store, xvda, "block-cow", &more);
            host.store.wait_for(&xvda.node("state"), "2").await;
            let discard = host.store.read(&xvda.node("feature-discard"));
            assert_eq!(discard.as_deref(), Some("0"));
        },
    );
}

/// A disk that has grown.
const GROWN: DiskProperties = DiskProperties {
    sectors: 4096,
    ..DISK
};

/// What was written to a device, as node names and values.
fn written_to(host: &Host, device: DeviceId) -> Vec<(String, String)> {
    let directory = device.node("");
    let written = host.store.take_written().into_iter();
    written
        .map(|(path, value)| (path.strip_prefix(&directory).unwrap().to_owned(), value))
        .collect()
}

/// What no guest looks at.
fn its_process() -> Vec<(String, String)> {
    vec![("kthread-pid".to_owned(), std::process::id().to_string())]
}

fn a_new_size() -> Vec<(String, String)> {
    [("sectors", "4096"), ("state", "4")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

#[test]
fn a_connected_guest_is_told_of_another_size_by_state_4_once_more() {
    in_own_process(
        "life::a_connected_guest_is_told_of_another_size_by_state_4_once_more",
        || async {
            let mut host = Host::start().await;
            let xvda = device("backend/vbd3/1/51712");
            host.connect(xvda).await;
            host.store.take_written();
            host.report(Report::Resized {
                device: xvda,
                disk: GROWN,
            });
            host.store
                .wait_until(|store| store.written_count() == 2)
                .await;
            assert_eq!(written_to(&host, xvda), a_new_size());
            // Whoever connects anew hears of it then, and by nothing else.
            host.store.write(&frontend(xvda, "state"), "5");
            assert!(matches!(host.order().await, Order::Disconnect { .. }));
            host.report(Report::Resized {
                device: xvda,
                disk: DISK,
            });
            host.report(Report::Disconnected { device: xvda });
            host.store.wait_for(&xvda.node("state"), "5").await;
            assert_eq!(
                host.store.read(&xvda.node("sectors")).as_deref(),
                Some("4096")
            );
        },
    );
}

#[test]
fn a_new_daemon_tells_an_adopted_guest_what_the_last_one_did_not() {
    in_own_process(
        "life::a_new_daemon_tells_an_adopted_guest_what_the_last_one_did_not",
        || async {
            let xvda = device("backend/vbd3/1/51712");
            let mut host = Host::start_after(|store| {
                create(store, xvda);
                offer_ring(store, xvda, 8);
                store.write(&frontend(xvda, "state"), "4");
                store.write(&xvda.node("hotplug-status"), "connected");
                for (name, value) in DISK.nodes() {
                    store.write(&xvda.node(name), &value);
                }
                store.write(&xvda.node("state"), "4");
            })
            .await;
            assert!(matches!(host.order().await, Order::Open { .. }));
            assert_eq!(written_to(&host, xvda), its_process());
            host.report(Report::Opened {
                device: xvda,
                disk: GROWN,
            });
            assert!(matches!(
                host.order().await,
                Order::Connect { adopt: true, .. }
            ));
            host.report(Report::Connected { device: xvda });
            host.store
                .wait_until(|store| store.written_count() == 2)
                .await;
            assert_eq!(written_to(&host, xvda), a_new_size());
        },
    );
}
