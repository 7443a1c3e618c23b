//! A host with a runner: what libxl, the hotplug script, the guest and the daemon do.

use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use xenstore_glue::frontend::{Limits, Protocol};
use xenstore_glue::runner::{Connection, Handle, Order, Report, Runner, RunnerConfig, RunnerError};
use xenstore_glue::{DeviceId, DiskProperties};

use crate::fake::Fake;

pub(crate) const DISK: DiskProperties = DiskProperties {
    sectors: 2048,
    sector_size: 512,
    physical_sector_size: 4096,
    read_only: false,
    removable: false,
    cdrom: false,
    discard_granularity: 0,
};

pub(crate) struct Host {
    pub(crate) store: Fake,
    pub(crate) handle: Handle,
    pub(crate) orders: mpsc::UnboundedReceiver<Order>,
    pub(crate) reports: mpsc::UnboundedSender<Report>,
    pub(crate) runner: JoinHandle<Result<(), RunnerError>>,
}

pub(crate) fn config(sysfs_root: &Path) -> RunnerConfig {
    let features = [("feature-discard", "1"), ("max-ring-page-order", "4")];
    let features = features.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let limits = Limits {
        max_ring_page_order: 4,
        max_queues: 4,
        default_protocol: Protocol::X86_32,
    };
    RunnerConfig {
        sysfs_root: sysfs_root.to_owned(),
        retry_after: Duration::from_millis(20),
        retire_watches_after: Duration::from_millis(20),
        heartbeat: Duration::from_millis(20),
        ..RunnerConfig::new(features.to_vec(), limits)
    }
}

impl Host {
    pub(crate) async fn start() -> Self {
        Self::start_after(|_| {}).await
    }

    /// With things in xenstore before the daemon comes.
    pub(crate) async fn start_after(before: impl FnOnce(&Fake)) -> Self {
        let (store, xs) = Fake::start().await;
        before(&store);
        Self::run_over(store, Connection::by_socket(xs))
    }

    /// On a connection of either kind.
    pub(crate) fn run_over(store: Fake, connection: Connection) -> Self {
        let config = config(Path::new("/nonexistent"));
        Self::run(store, Runner::set_up(connection, config))
    }

    pub(crate) fn run(store: Fake, channels: xenstore_glue::runner::Channels) -> Self {
        Self {
            store,
            handle: channels.handle,
            orders: channels.orders,
            reports: channels.reports,
            runner: tokio::spawn(channels.runner.run()),
        }
    }

    /// The next order about a device.
    pub(crate) async fn order(&mut self) -> Order {
        loop {
            match self.any_order().await {
                Order::LookedThrough => {}
                order => return order,
            }
        }
    }

    pub(crate) async fn any_order(&mut self) -> Order {
        self.orders.recv().await.expect("the runner is there")
    }

    /// What the toolstack and the guest do when an open disk is taken away that was never connected.
    pub(crate) async fn take_away(&mut self, device: DeviceId) {
        self.store.remove(&device.to_string());
        assert!(matches!(self.order().await, Order::Close { .. }));
        self.report(Report::Closed { device });
        assert_eq!(self.order().await, Order::Forgotten { device });
    }

    pub(crate) fn report(&self, report: Report) {
        self.reports.send(report).expect("the runner is there");
    }

    /// The whole way to a connected guest; returns with nothing outstanding.
    pub(crate) async fn connect(&mut self, device: DeviceId) {
        create(&self.store, device);
        self.store.wait_for(&device.node("state"), "2").await;
        let handle = self.handle.clone();
        let add = tokio::spawn(async move { handle.hotplug_add(device).await });
        assert!(matches!(self.order().await, Order::Open { .. }));
        self.report(Report::Opened { device, disk: DISK });
        assert_eq!(add.await.unwrap(), Ok(()));
        self.store
            .write(&device.node("hotplug-status"), "connected");
        offer_ring(&self.store, device, 8);
        assert!(matches!(self.order().await, Order::Connect { .. }));
        self.report(Report::Connected { device });
        self.store.wait_for(&device.node("state"), "4").await;
        self.store.write(&frontend(device, "state"), "4");
    }

    /// The states that the client wrote to the device, oldest first.
    pub(crate) fn take_states(&self, device: DeviceId) -> Vec<String> {
        let state = device.node("state");
        let written = self.store.take_written().into_iter();
        written
            .filter(|(path, _)| *path == state)
            .map(|(_, value)| value)
            .collect()
    }
}

pub(crate) fn device(path: &str) -> DeviceId {
    path.parse().unwrap()
}

pub(crate) fn frontend(device: DeviceId, node: &str) -> String {
    let DeviceId { domid, devid, .. } = device;
    format!("/local/domain/{domid}/device/vbd/{devid}/{node}")
}

/// What libxl writes, with this script.
pub(crate) fn create_with(store: &Fake, device: DeviceId, script: &str, more: &[(&str, &str)]) {
    let directory = frontend(device, "");
    let domid = device.domid.to_string();
    let mut nodes: Vec<(String, String)> = [
        ("frontend", directory.trim_end_matches('/')),
        ("frontend-id", &domid),
        ("online", "1"),
        ("removable", "0"),
        ("bootable", "1"),
        ("state", "1"),
        ("dev", "xvda"),
        ("type", "tap"),
        ("mode", "w"),
        ("device-type", "disk"),
        ("discard-enable", "1"),
        ("params", "aio:dscow:/images/vm1.cow:/images/debian.img"),
        ("script", script),
    ]
    .iter()
    .chain(more)
    .map(|(name, value)| (device.node(name), (*value).to_owned()))
    .collect();
    nodes.push((frontend(device, "state"), "1".into()));
    let nodes: Vec<(&str, &str)> = nodes
        .iter()
        .map(|(path, value)| (path.as_str(), value.as_str()))
        .collect();
    store.write_all(&nodes);
}

pub(crate) fn create(store: &Fake, device: DeviceId) {
    create_with(store, device, "/etc/xen/scripts/block-cow", &[]);
}

pub(crate) fn offer_ring(store: &Fake, device: DeviceId, ring_ref: u32) {
    store.write_all(&[
        (&frontend(device, "protocol"), "x86_64-abi"),
        (&frontend(device, "ring-ref"), &ring_ref.to_string()),
        (&frontend(device, "event-channel"), "15"),
        (&frontend(device, "state"), "3"),
    ]);
}

/// What libxl does to take a device away.
pub(crate) fn set_offline(store: &Fake, device: DeviceId) {
    store.write_all(&[(&device.node("online"), "0"), (&device.node("state"), "5")]);
}
