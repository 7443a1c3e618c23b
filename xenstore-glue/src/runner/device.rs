//! What the runner keeps of each device.

use tokio::sync::oneshot;

use super::api::{DeviceStatus, RunnerError};
use super::config::Identity;
use super::store::Store;
use super::watch::FrontendWatch;
use crate::frontend::{FrontendConfig, FrontendError, HEADER_NODES, Header, Limits, Node};
use crate::machine::{BackendSeen, FrontendSeen, HotplugStatus, Machine, Observation};
use crate::types::{DeviceId, XenbusState};

pub(super) struct Device {
    pub(super) machine: Machine,
    pub(super) identity: Identity,
    pub(super) _watch: FrontendWatch,
    /// The rings of the last `Connect`, until they are disconnected.
    pub(super) rings: Option<FrontendConfig>,
    pub(super) adders: Vec<oneshot::Sender<Result<(), String>>>,
    pub(super) removers: Vec<oneshot::Sender<Result<(), String>>>,
    pub(super) borrowers: Vec<oneshot::Sender<()>>,
    pub(super) error_recorded: bool,
    pub(super) finished: bool,
}

impl Device {
    pub(super) fn new(machine: Machine, identity: Identity, watch: FrontendWatch) -> Self {
        Self {
            machine,
            identity,
            _watch: watch,
            rings: None,
            adders: Vec::new(),
            removers: Vec::new(),
            borrowers: Vec::new(),
            error_recorded: false,
            finished: false,
        }
    }

    pub(super) fn status(&self, device: DeviceId) -> DeviceStatus {
        DeviceStatus {
            device,
            backend_state: self.machine.backend_state(),
            frontend: self.machine.frontend(),
            image_open: self.machine.image_is_open(),
            connected: self.machine.is_connected(),
            reason: self.machine.reason().map(str::to_owned),
        }
    }
}

/// Looks at the nodes that say how device and frontend are.
pub(super) async fn observe(
    store: &Store,
    device: DeviceId,
    frontend: &str,
) -> Result<Observation, RunnerError> {
    let paths = [
        // Before `online`: see `Observation`.
        device.node("state"),
        device.node("online"),
        device.node("hotplug-status"),
        format!("{frontend}/state"),
    ];
    let nodes = store.read_all(&paths).await?;
    let value = |index: usize| nodes.get(index).and_then(Node::value);
    let backend = value(0).map(|state| BackendSeen {
        state: XenbusState::from_node(state),
        online: value(1) == Some("1"),
        hotplug: match value(2) {
            None => HotplugStatus::None,
            Some("connected") => HotplugStatus::Connected,
            Some(_) => HotplugStatus::Error,
        },
    });
    let frontend = value(3).map_or(XenbusState::Unknown, XenbusState::from_node);
    Ok(Observation {
        backend,
        frontend: FrontendSeen::from_state(frontend),
        rings_changed: false,
    })
}

/// The size of the disk that an earlier process has published, in sectors.
pub(super) async fn read_sectors(
    store: &Store,
    device: DeviceId,
) -> Result<Option<u64>, RunnerError> {
    let node = store.read(&device.node("sectors")).await?;
    Ok(node.value().and_then(|sectors| sectors.parse().ok()))
}

/// Reads and checks what the frontend offers to connect to.
pub(super) async fn read_frontend(
    store: &Store,
    frontend: &str,
    limits: &Limits,
) -> Result<Result<FrontendConfig, FrontendError>, RunnerError> {
    let names = HEADER_NODES.map(str::to_owned);
    let nodes = read_below(store, frontend, &names).await?;
    let header = match Header::parse(limits, |name| find(&nodes, name)) {
        Ok(header) => header,
        Err(error) => return Ok(Err(error)),
    };
    let nodes = read_below(store, frontend, &header.ring_nodes()).await?;
    Ok(header.finish(|name| find(&nodes, name)))
}

async fn read_below(
    store: &Store,
    directory: &str,
    names: &[String],
) -> Result<Vec<(String, Node)>, RunnerError> {
    let paths: Vec<String> = names
        .iter()
        .map(|name| format!("{directory}/{name}"))
        .collect();
    let nodes = store.read_all(&paths).await?;
    Ok(names.iter().cloned().zip(nodes).collect())
}

fn find(nodes: &[(String, Node)], name: &str) -> Node {
    nodes
        .iter()
        .find(|(known, _)| known == name)
        .map_or(Node::Missing, |(_, node)| node.clone())
}
