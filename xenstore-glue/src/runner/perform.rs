//! From a machine's actions to xenstore writes and orders.

use std::collections::VecDeque;

use tracing::{info, warn};

use super::api::{Order, RunnerError};
use super::config::{identify, read_config};
use super::device::{observe, read_frontend};
use super::kernel::{is_blkback_bound, unbind_blkback};
use super::main_loop::Runner;
use super::store::Write;
use crate::frontend::Node;
use crate::machine::{Action, Event, FrontendSeen, Observation};
use crate::types::{DeviceId, XenbusState};

/// What came of an action: what to tell the machine at once, if anything.
type Outcome = Result<Option<Event>, RunnerError>;

/// What came of a publication; an error is a sentence.
type Published = Result<Result<(), String>, RunnerError>;

impl Runner {
    /// Gives the event to the device's machine and does what it wants.
    pub(super) async fn feed(&mut self, device: DeviceId, event: Event) -> Result<(), RunnerError> {
        let Some(entry) = self.devices.get_mut(&device) else {
            return Ok(());
        };
        if matches!(event, Event::Disconnected | Event::ConnectFailed { .. }) {
            entry.rings = None;
        }
        let actions = entry.machine.handle(event);
        self.perform_all(device, actions).await
    }

    /// Does what a machine wants, until it wants no more.
    pub(super) async fn perform_all(
        &mut self,
        device: DeviceId,
        actions: Vec<Action>,
    ) -> Result<(), RunnerError> {
        let mut events = VecDeque::from(self.perform(device, actions).await?);
        while let Some(event) = events.pop_front() {
            let Some(entry) = self.devices.get_mut(&device) else {
                break;
            };
            let actions = entry.machine.handle(event);
            events.extend(self.perform(device, actions).await?);
        }
        if let Some(entry) = self.devices.get_mut(&device)
            && !entry.machine.is_lending()
        {
            for borrower in entry.borrowers.drain(..) {
                borrower.send(()).ok();
            }
        }
        let wants_retry = |entry: &super::device::Device| entry.machine.wants_retry();
        if self.devices.get(&device).is_some_and(wants_retry) {
            self.to_retry.insert(device);
        } else {
            self.to_retry.remove(&device);
        }
        Ok(())
    }

    async fn perform(
        &mut self,
        device: DeviceId,
        actions: Vec<Action>,
    ) -> Result<Vec<Event>, RunnerError> {
        let mut events = Vec::new();
        let mut wrote = false;
        for action in actions {
            if !action.is_publication() {
                events.extend(self.perform_one(device, action).await?);
                continue;
            }
            wrote = true;
            if let Err(reason) = self.publish(device, action).await? {
                warn!(%device, "{reason}");
                if let Some(seen) = self.observe_known(device, false).await? {
                    events.push(Event::WriteFailed { reason, seen });
                }
                return Ok(events);
            }
        }
        if wrote {
            events.push(Event::Written);
        }
        Ok(events)
    }

    async fn perform_one(&mut self, device: DeviceId, action: Action) -> Outcome {
        match action {
            Action::Open => return self.open(device).await,
            Action::Connect { adopt } => return self.connect(device, adopt).await,
            Action::Disconnect { handover } => {
                self.order(Order::Disconnect { device, handover })?;
            }
            Action::Close { handover } => {
                self.order(Order::Close { device, handover })?;
            }
            Action::RecordError(reason) => self.record_error(device, &reason).await?,
            Action::AnswerAdd(answer) => {
                let adders = self.devices.get_mut(&device).map(|entry| &mut entry.adders);
                for adder in adders.into_iter().flat_map(std::mem::take) {
                    adder.send(answer.clone()).ok();
                }
            }
            Action::AnswerRemove => {
                let removers = self.devices.get_mut(&device);
                let removers = removers.map(|entry| &mut entry.removers);
                for remover in removers.into_iter().flat_map(std::mem::take) {
                    remover.send(Ok(())).ok();
                }
            }
            Action::Forget => self.forget(device).await?,
            Action::Finished => {
                if let Some(entry) = self.devices.get_mut(&device) {
                    entry.finished = true;
                }
            }
            // These go through `publish`.
            Action::PublishFeatures | Action::PublishDisk(_) | Action::SetState(_) => {}
        }
        Ok(None)
    }

    fn order(&self, order: Order) -> Result<(), RunnerError> {
        self.orders.send(order).map_err(|_| RunnerError::DaemonGone)
    }

    /// Looks at a device that is known. With `frontend_moved`, also whether the frontend still
    /// describes the rings that it was connected with.
    pub(super) async fn observe_known(
        &self,
        device: DeviceId,
        frontend_moved: bool,
    ) -> Result<Option<Observation>, RunnerError> {
        let Some(entry) = self.devices.get(&device) else {
            return Ok(None);
        };
        let mut seen = observe(&self.store, device, &entry.identity.frontend).await?;
        let offers_rings = matches!(
            seen.frontend,
            FrontendSeen::State(XenbusState::Initialised | XenbusState::Connected)
        );
        if let Some(rings) = &entry.rings
            && frontend_moved
            && offers_rings
        {
            let now = read_frontend(&self.store, &entry.identity.frontend, &self.config.limits);
            // What makes no sense is not a new ring; the old one goes on as long as it works.
            seen.rings_changed = now.await?.is_ok_and(|now| now != *rings);
        }
        Ok(Some(seen))
    }

    // Publications.

    async fn publish(&mut self, device: DeviceId, action: Action) -> Published {
        match action {
            Action::PublishFeatures => self.publish_features(device).await,
            Action::PublishDisk(disk) => {
                let nodes: Vec<_> = disk
                    .nodes()
                    .into_iter()
                    .map(|(name, value)| (device.node(name), value))
                    .collect();
                self.write_all(device, &nodes).await
            }
            Action::SetState(state) => self.set_state(device, state).await,
            _ => Ok(Ok(())),
        }
    }

    /// The features follow the toolstack's `discard-enable` and `mode`; the device may be a new one of an
    /// old name, so it is looked at again.
    async fn publish_features(&mut self, device: DeviceId) -> Published {
        let identity = match identify(&self.store, device).await? {
            Ok(identity) => identity,
            Err(reason) => return Ok(Err(reason.to_string())),
        };
        self.follow_frontend(device, identity).await?;
        if let Err(error) = unbind_blkback(&self.config.sysfs_root, device).await {
            return Ok(Err(format!("unbinding blkback from {device}: {error}")));
        }
        let discard = self.store.read(&device.node("discard-enable")).await?;
        let mode = self.store.read(&device.node("mode")).await?;
        let no_discard = discard == Node::Value("0".into()) || mode == Node::Value("r".into());
        let nodes: Vec<(String, String)> = self
            .config
            .features
            .iter()
            .map(|(name, value)| {
                let forbidden = no_discard && name == "feature-discard";
                let value = if forbidden { "0" } else { value.as_str() };
                (device.node(name), value.to_owned())
            })
            .collect();
        self.write_all(device, &nodes).await
    }

    /// A guest must not believe what blkback offers, which may be more than is accepted here. When blkback takes a device that it
    /// has not had before, its last write is that of a state, so the device is looked at then.
    pub(super) async fn take_back_from_blkback(
        &mut self,
        device: DeviceId,
    ) -> Result<(), RunnerError> {
        let known = self.devices.contains_key(&device);
        if !known || !is_blkback_bound(&self.config.sysfs_root, device) {
            return Ok(());
        }
        let Err(reason) = self.publish_features(device).await? else {
            info!(%device, "blkback had taken it, and was unbound");
            return Ok(());
        };
        warn!(%device, "{reason}");
        // Is tried again in a while, like all that could not be published.
        match self.observe_known(device, false).await? {
            Some(seen) => self.feed(device, Event::WriteFailed { reason, seen }).await,
            None => Ok(()),
        }
    }

    async fn follow_frontend(
        &mut self,
        device: DeviceId,
        identity: super::config::Identity,
    ) -> Result<(), RunnerError> {
        let known = self.devices.get(&device).map(|entry| &entry.identity);
        if known.is_none_or(|known| *known == identity) {
            return Ok(());
        }
        let watch = self.watch_frontend_of(device, &identity).await?;
        if let Some(entry) = self.devices.get_mut(&device) {
            entry.identity = identity;
            entry._watch = watch;
        }
        Ok(())
    }

    /// A state is not written into a directory that is gone: it would come back, with nothing in it
    /// but the state. (Without transactions a removal in this very moment goes unnoticed; but
    /// libxl removes the directory only after it has seen state 6, which is the last that we write.)
    async fn set_state(&mut self, device: DeviceId, state: XenbusState) -> Published {
        let path = device.node("state");
        let found = match self.store.read(&path).await? {
            Node::Missing => return Ok(Err(format!("{path} is gone"))),
            found => found
                .value()
                .map_or(XenbusState::Unknown, XenbusState::from_node),
        };
        // A toolstack's wish is not to be written over.
        let believed = |entry: &super::device::Device| entry.machine.backend_state();
        if self.devices.get(&device).map(believed) != Some(found) {
            return Ok(Err(format!("{path} has become {found}")));
        }
        info!(%device, "goes to state {state}");
        let written = self.store.write_anew(&path, state.to_node()).await?;
        Ok(published(device, written))
    }

    async fn write_all(&self, device: DeviceId, nodes: &[(String, String)]) -> Published {
        Ok(published(device, self.store.write_all(nodes).await?))
    }

    /// Linux's convention (`xenbus_dev_error`): below `error` in the backend's own home, the device's
    /// path, and there a node `error` with an errno and a text.
    async fn record_error(&mut self, device: DeviceId, reason: &str) -> Result<(), RunnerError> {
        const EIO: i32 = 5;
        const MAX_CHARS: usize = 500;
        warn!(%device, "{reason}");
        let printable = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = reason.chars().take(MAX_CHARS).map(printable).collect();
        let path = error_node(device);
        match self.store.write(&path, &format!("{EIO} {text}")).await? {
            Write::Done => {}
            Write::Refused(error) => warn!(%device, "writing {path}: {error}"),
        }
        if let Some(entry) = self.devices.get_mut(&device) {
            entry.error_recorded = true;
        }
        Ok(())
    }

    /// A node `waiting` says why, for as long as it is so, unless the toolstack has removed the device.
    pub(super) async fn show_waiting(
        &mut self,
        device: DeviceId,
        waiting: bool,
    ) -> Result<(), RunnerError> {
        let path = device.node("waiting");
        if !waiting {
            return self.store.remove(&path).await;
        }
        if self.store.read(&device.node("state")).await? == Node::Missing {
            return Ok(());
        }
        let text = "no space is left on the host";
        if let Write::Refused(error) = self.store.write(&path, text).await? {
            warn!(%device, "writing {path}: {error}");
        }
        Ok(())
    }

    // Orders.

    async fn open(&mut self, device: DeviceId) -> Outcome {
        let Some(entry) = self.devices.get(&device) else {
            return Ok(None);
        };
        let domid = entry.identity.frontend_domid;
        let config = match read_config(&self.store, device, domid).await? {
            Ok(config) => config,
            Err(reason) => return Ok(Some(Event::OpenFailed { reason })),
        };
        // Not into a directory that is gone: see `set_state`.
        if self.store.read(&device.node("state")).await? == Node::Missing {
            let reason = format!("device {device} is gone");
            return Ok(Some(Event::OpenFailed { reason }));
        }
        // Also of a guest that another process served before, which sees nothing of it.
        let path = device.node("kthread-pid");
        if let Write::Refused(error) = self
            .store
            .write(&path, &self.config.pid.to_string())
            .await?
        {
            warn!(%device, "writing {path}: {error}");
        }
        self.order(Order::Open { device, config })?;
        Ok(None)
    }

    async fn connect(&mut self, device: DeviceId, adopt: bool) -> Outcome {
        let Some(entry) = self.devices.get(&device) else {
            return Ok(None);
        };
        let path = &entry.identity.frontend;
        let frontend = match read_frontend(&self.store, path, &self.config.limits).await? {
            Ok(frontend) => frontend,
            Err(error) => {
                let reason = error.to_string();
                return Ok(Some(Event::ConnectFailed { reason }));
            }
        };
        if let Err(error) = unbind_blkback(&self.config.sysfs_root, device).await {
            let reason = format!("unbinding blkback: {error}");
            return Ok(Some(Event::ConnectFailed { reason }));
        }
        if let Some(entry) = self.devices.get_mut(&device) {
            entry.rings = Some(frontend.clone());
        }
        self.order(Order::Connect {
            device,
            frontend,
            adopt,
        })?;
        Ok(None)
    }

    async fn forget(&mut self, device: DeviceId) -> Result<(), RunnerError> {
        let Some(entry) = self.devices.remove(&device) else {
            return Ok(());
        };
        info!(%device, "is gone from xenstore");
        if entry.error_recorded {
            self.store.remove(&format!("error/{device}")).await?;
        }
        // A new device of this name may have come before the old one was done with.
        self.to_notice.push(device);
        self.order(Order::Forgotten { device })
    }
}

fn published(device: DeviceId, written: Write) -> Result<(), String> {
    match written {
        Write::Done => Ok(()),
        Write::Refused(error) => Err(format!("writing nodes of {device}: {error}")),
    }
}

fn error_node(device: DeviceId) -> String {
    format!("error/{device}/error")
}
