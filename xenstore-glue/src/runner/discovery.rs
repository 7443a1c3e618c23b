//! From watch events to devices.

use std::collections::BTreeSet;

use tracing::{debug, info, warn};

use super::api::{Order, RunnerError};
use super::config::{Identity, NotOurs, identify};
use super::device::{Device, observe, read_sectors};
use super::main_loop::Runner;
use crate::machine::{Event, Machine};
use crate::types::{DevId, DeviceClass, DeviceId, DomId, below_home};

/// What a path below a backend directory is about.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Class(DeviceClass),
    Domain(DeviceClass, DomId),
    Device(DeviceId),
    Node(DeviceId, String),
}

/// `None` for paths that are nothing to us.
fn place(path: &str) -> Option<Place> {
    let mut parts = below_home(path)?.splitn(5, '/');
    if parts.next() != Some("backend") {
        return None;
    }
    let name = parts.next()?;
    let class = DeviceClass::ALL
        .into_iter()
        .find(|class| class.name() == name)?;
    let Some(domid) = parts.next() else {
        return Some(Place::Class(class));
    };
    let domid = domid.parse().ok()?;
    let Some(devid) = parts.next() else {
        return Some(Place::Domain(class, domid));
    };
    let device = DeviceId {
        class,
        domid,
        devid: devid.parse().ok()?,
    };
    Some(match parts.next() {
        None => Place::Device(device),
        Some(node) => Place::Node(device, node.to_owned()),
    })
}

impl Runner {
    /// Something happened in one of the backend directories. Our own writes come back here too, and
    /// are either of no interest or observed once more without effect.
    pub(super) async fn backend_event(&mut self, path: &str) -> Result<(), RunnerError> {
        match place(path) {
            None => Ok(()),
            Some(Place::Class(class)) => self.scan_class(class).await,
            Some(Place::Domain(class, domid)) => self.scan_domains(class, &[domid]).await,
            Some(Place::Device(device)) => self.notice(device).await,
            Some(Place::Node(device, node)) => {
                let of_interest: &[&str] = if self.devices.contains_key(&device) {
                    &["state", "online", "hotplug-status"]
                } else {
                    &["state", "script", "frontend", "frontend-id"]
                };
                if of_interest.contains(&node.as_str()) {
                    self.notice(device).await?;
                }
                Ok(())
            }
        }
    }

    /// Looks at a device, known or not.
    pub(super) async fn notice(&mut self, device: DeviceId) -> Result<(), RunnerError> {
        if self.devices.contains_key(&device) {
            return self.refresh(device, false).await;
        }
        match self.find(device).await? {
            Ok(()) | Err(NotOurs::Absent(_)) => {}
            Err(error @ NotOurs::OtherScript { .. }) => debug!("{error}"),
            Err(error @ NotOurs::Unusable { .. }) => warn!(%device, "{error}"),
        }
        Ok(())
    }

    /// Takes the device up if it is ours.
    pub(super) async fn find(
        &mut self,
        device: DeviceId,
    ) -> Result<Result<(), NotOurs>, RunnerError> {
        if self.is_shutting_down() {
            return Ok(Err(NotOurs::Absent(device)));
        }
        let identity = match identify(&self.store, device).await? {
            Ok(identity) => identity,
            Err(reason) => return Ok(Err(reason)),
        };
        if observe(&self.store, device, &identity.frontend)
            .await?
            .backend
            .is_none()
        {
            return Ok(Err(NotOurs::Absent(device)));
        }
        self.take_up(device, identity).await?;
        Ok(Ok(()))
    }

    async fn take_up(&mut self, device: DeviceId, identity: Identity) -> Result<(), RunnerError> {
        // Watch first and look afterwards, or a change in between would be missed.
        let watch = self.watch_frontend_of(device, &identity).await?;
        let found = observe(&self.store, device, &identity.frontend).await?;
        info!(%device, "found for frontend {}", identity.frontend);
        let sectors = read_sectors(&self.store, device).await?;
        let (machine, actions) = Machine::new(self.config.detach, found, sectors);
        let entry = Device::new(machine, identity, watch);
        self.devices.insert(device, entry);
        self.perform_all(device, actions).await
    }

    pub(super) async fn watch_frontend_of(
        &mut self,
        device: DeviceId,
        identity: &Identity,
    ) -> Result<super::watch::FrontendWatch, RunnerError> {
        let path = format!("{}/state", identity.frontend);
        let watching = self.frontend_watches.watch(
            &self.store.xs,
            device,
            &path,
            self.config.retire_watches_after,
            self.seen_sink.clone(),
        );
        let doing = || format!("watching {path}");
        let watch = self.store.alive(doing, watching).await?;
        watch.map_err(|source| RunnerError::Xenstore {
            doing: doing(),
            source,
        })
    }

    /// Looks at the device again and lets its machine react.
    pub(super) async fn refresh(
        &mut self,
        device: DeviceId,
        frontend_moved: bool,
    ) -> Result<(), RunnerError> {
        self.take_back_from_blkback(device).await?;
        let Some(seen) = self.observe_known(device, frontend_moved).await? else {
            return Ok(());
        };
        self.feed(device, Event::Observed(seen)).await
    }

    async fn scan_class(&mut self, class: DeviceClass) -> Result<(), RunnerError> {
        let domids = match self.store.list(class.directory()).await? {
            Some(names) => names.iter().filter_map(|name| name.parse().ok()).collect(),
            // With about a thousand domains the list does not fit into a message. Try them all.
            None => (0..DomId::FIRST_RESERVED).filter_map(DomId::new).collect(),
        };
        let known = self.devices.keys().filter(|device| device.class == class);
        let mut domids: BTreeSet<DomId> = domids;
        domids.extend(known.map(|device| device.domid));
        let domids: Vec<DomId> = domids.into_iter().collect();
        self.scan_domains(class, &domids).await?;
        if self.unseen_classes.remove(&class) && self.unseen_classes.is_empty() {
            // The daemon ends before its runner only together with the process.
            self.orders.send(Order::LookedThrough).ok();
        }
        Ok(())
    }

    /// Looks at every device of these domains, those that are there and those that were.
    async fn scan_domains(
        &mut self,
        class: DeviceClass,
        domids: &[DomId],
    ) -> Result<(), RunnerError> {
        let paths: Vec<String> = domids
            .iter()
            .map(|domid| format!("{}/{domid}", class.directory()))
            .collect();
        let lists = self.store.list_all(&paths).await?;
        let mut devices = BTreeSet::new();
        for (&domid, list) in domids.iter().zip(lists) {
            let id = |devid| DeviceId {
                class,
                domid,
                devid,
            };
            let Some(names) = list else {
                warn!(
                    "domain {domid} has too many devices in {} to list",
                    class.directory()
                );
                continue;
            };
            devices.extend(names.iter().filter_map(|name| name.parse().ok()).map(id));
            let all = id(DevId::new(0))..=id(DevId::new(u32::MAX));
            devices.extend(self.devices.range(all).map(|(device, _)| *device));
        }
        for device in devices {
            self.notice(device).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_understood_with_and_without_the_home_directory() {
        let device = "backend/vbd3/1/51712".parse().unwrap();
        for home in ["", "/local/domain/0/", "/local/domain/7/"] {
            let at = |path: &str| place(&format!("{home}{path}"));
            assert_eq!(at("backend/vbd3"), Some(Place::Class(DeviceClass::Vbd3)));
            assert_eq!(
                at("backend/vbd/1"),
                Some(Place::Domain(DeviceClass::Vbd, DomId::new(1).unwrap()))
            );
            assert_eq!(at("backend/vbd3/1/51712"), Some(Place::Device(device)));
            assert_eq!(
                at("backend/vbd3/1/51712/state"),
                Some(Place::Node(device, "state".into()))
            );
            assert_eq!(
                at("backend/vbd3/1/51712/a/b"),
                Some(Place::Node(device, "a/b".into()))
            );
            assert_eq!(at("backend/vif/1/0"), None);
            assert_eq!(at("backend/vbd3/x/0"), None);
        }
        assert_eq!(place("@releaseDomain"), None);
    }
}
