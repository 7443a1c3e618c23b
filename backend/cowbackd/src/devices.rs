//! Which devices there are, on which worker each lives, and the carrying out of the glue's orders.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blockio::image::ImageAccess;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use xenstore_glue::DeviceId;
use xenstore_glue::runner::{BackendConfig, DeviceMode, Order, Report};

use crate::handover::Handover;
use crate::images;
use crate::target::Target;
use crate::worker::{ToWorker, VbdStatistics, WorkerHandle};

/// What is known of a device beside its states. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Devices {
    inner: Arc<Inner>,
}

struct Inner {
    workers: Vec<WorkerHandle>,
    devices: Mutex<HashMap<DeviceId, Device>>,
    reports: UnboundedSender<Report>,
    handover: Handover,
}

/// A device whose image was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// Where it lives.
    worker: usize,
    /// The target as the toolstack gave it.
    pub(crate) params: String,
    /// Its name in the guest.
    pub(crate) vdev: String,
    pub(crate) read_only: bool,
    /// Its image was closed in order by its last user; known when it is open.
    image_was_closed: bool,
}

impl Device {
    /// The path of its image, or the target as it was given if that is not understood.
    pub(crate) fn image(&self) -> String {
        Target::parse(&self.params).map_or_else(
            |_| self.params.clone(),
            |target| target.image.display().to_string(),
        )
    }
}

impl Devices {
    /// No devices yet.
    pub(crate) fn new(
        workers: Vec<WorkerHandle>,
        reports: UnboundedSender<Report>,
        handover: Handover,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                workers,
                devices: Mutex::default(),
                reports,
                handover,
            }),
        }
    }

    /// Carries out an order. Its report comes through the channel.
    pub(crate) fn obey(&self, order: Order) {
        match order {
            Order::Open { device, config } => self.open(device, config),
            Order::Connect {
                device,
                frontend,
                adopt,
            } if !adopt || self.may_adopt(device) => {
                let how = if adopt { "adopting" } else { "connecting to" };
                tracing::info!(%device, "{how} the frontend");
                self.to_worker(device, ToWorker::Connect { device, frontend });
            }
            Order::Connect { device, .. } => self.report(Report::ConnectFailed {
                device,
                reason: "the daemon that served this disk was killed; the guest must connect anew"
                    .to_owned(),
            }),
            Order::Disconnect { device, handover } => {
                self.to_worker(device, ToWorker::Disconnect { device, handover });
            }
            Order::Close { device, .. } => self.to_worker(device, ToWorker::Close { device }),
            Order::Forgotten { device } => {
                self.devices().remove(&device);
                tracing::info!(%device, "gone");
            }
        }
    }

    /// What is known of a device.
    pub(crate) fn get(&self, device: DeviceId) -> Option<Device> {
        self.devices().get(&device).cloned()
    }

    /// How a device is doing; `None` if its image is not open.
    pub(crate) async fn statistics(&self, device: DeviceId) -> Option<VbdStatistics> {
        let worker = self.get(device)?.worker;
        let (reply, answer) = oneshot::channel();
        self.inner.workers[worker].send(ToWorker::Inspect { device, reply });
        answer.await.ok()
    }

    /// Ends the workers. Nothing may be open any more.
    pub(crate) fn stop(self) {
        // The control API may still hold a clone for the answer that it is writing; the threads end with
        // the process then.
        if let Some(inner) = Arc::into_inner(self.inner) {
            inner.workers.into_iter().for_each(WorkerHandle::stop);
        }
    }

    /// Whether a frontend that an earlier daemon served can be served on as if nothing had been.
    fn may_adopt(&self, device: DeviceId) -> bool {
        self.inner.handover == Handover::InOrder
            && self.get(device).is_some_and(|known| known.image_was_closed)
    }

    fn report(&self, report: Report) {
        // The runner ends only when the daemon does.
        let _ = self.inner.reports.send(report);
    }

    fn open(&self, device: DeviceId, config: BackendConfig) {
        let worker = self.idlest_worker();
        let read_only = config.mode == DeviceMode::ReadOnly;
        let entry = Device {
            worker,
            params: config.params.clone(),
            vdev: config.vdev.clone(),
            read_only,
            image_was_closed: false,
        };
        self.devices().insert(device, entry);
        let devices = self.clone();
        tokio::task::spawn_blocking(move || devices.open_blocking(device, worker, &config));
    }

    fn open_blocking(&self, device: DeviceId, worker: usize, config: &BackendConfig) {
        let access = match config.mode {
            DeviceMode::ReadOnly => ImageAccess::ReadOnly,
            DeviceMode::Writable | DeviceMode::WritableShared => ImageAccess::Writable,
        };
        match images::open(&config.params, access, config.device_type == "cdrom") {
            Ok(opened) => {
                tracing::info!(%device, vdev = config.vdev, "opened {}", config.params);
                if let Some(known) = self.devices().get_mut(&device) {
                    known.image_was_closed = opened.was_closed_cleanly;
                }
                self.inner.workers[worker].send(ToWorker::Open {
                    device,
                    engine: opened.engine,
                    files: opened.files,
                    disk: opened.disk,
                });
            }
            Err(error) => {
                tracing::error!(%device, vdev = config.vdev, "{error}");
                let reason = error.to_string();
                // The runner ends only when the daemon does.
                let _ = self
                    .inner
                    .reports
                    .send(Report::OpenFailed { device, reason });
            }
        }
    }

    fn to_worker(&self, device: DeviceId, message: ToWorker) {
        let worker = self.devices().get(&device).map(|known| known.worker);
        match worker {
            Some(worker) => self.inner.workers[worker].send(message),
            None => tracing::error!(%device, "an order came for a device that was never opened"),
        }
    }

    fn idlest_worker(&self) -> usize {
        let mut load = vec![0; self.inner.workers.len()];
        for device in self.devices().values() {
            load[device.worker] += 1;
        }
        let idlest = load.iter().enumerate().min_by_key(|(_, load)| **load);
        idlest.map_or(0, |(index, _)| index)
    }

    fn devices(&self) -> MutexGuard<'_, HashMap<DeviceId, Device>> {
        self.inner
            .devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
