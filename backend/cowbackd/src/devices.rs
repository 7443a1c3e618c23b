//! Which devices there are, on which worker each lives, and the carrying out of the glue's orders.

mod moving;
mod resize;
mod users;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use blockio::file::FileIdentity;
use blockio::image::ImageAccess;
use control_api::{Policies, Statistics};
use nbd_server::Socket;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use xenstore_glue::DeviceId;
use xenstore_glue::runner::{BackendConfig, DeviceMode, Handle, Order, Report};

use crate::disk_target::Target;
use crate::emulated::Sockets;
use crate::images::{self, ForFrontend};
use crate::inheritance::Inheritance;
use crate::logging;
use crate::worker::{Belongings, FailedConnects, Opening, Survey, ToWorker, WorkerHandle};
use crate::xentop::{self, StatisticsFile};

pub(crate) use resize::ResizeError;

/// What is known of a device beside its states. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Devices {
    inner: Arc<Inner>,
}

struct Inner {
    workers: Vec<WorkerHandle>,
    devices: Mutex<HashMap<DeviceId, Device>>,
    reports: UnboundedSender<Report>,
    inheritance: Inheritance,
    sockets: Sockets,
    handle: Handle,
    xentop: Option<xentop::Folder>,
    /// Every device that was in xenstore when the daemon was started is known.
    looked_through: AtomicBool,
}

/// How each worker is doing.
pub(crate) struct Surveys(pub(crate) Vec<Survey>);

impl Surveys {
    /// How each device is doing whose image is open.
    pub(crate) fn statistics(self) -> HashMap<DeviceId, Statistics> {
        let workers = self.0.into_iter();
        workers.flat_map(|survey| survey.vbds).collect()
    }
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
    /// The guest, whichever domain it is in.
    vm: Option<String>,
    pub(crate) read_only: bool,
    /// Which file its image is; known when that is open, and stays when it is closed.
    file: Option<FileIdentity>,
    /// The daemon before this one was connected to its frontend, and left what it takes to go on; known when its image is
    /// open.
    can_be_adopted: bool,
    /// Stays until the device is forgotten: a guest can have its image closed and opened again.
    failed_connects: FailedConnects,
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
        inheritance: Inheritance,
        sockets: Sockets,
        handle: Handle,
        xentop: Option<xentop::Folder>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                workers,
                devices: Mutex::default(),
                reports,
                inheritance,
                sockets,
                handle,
                xentop,
                looked_through: AtomicBool::new(false),
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
                let message = ToWorker::Connect {
                    device,
                    frontend,
                    adopt,
                };
                self.to_worker(device, message);
            }
            Order::Connect { device, .. } => self.report(Report::ConnectFailed {
                device,
                reason: "the daemon that served this disk left nothing to go on from; the guest must connect anew"
                    .to_owned(),
            }),
            Order::Disconnect { device, handover } => {
                self.to_worker(device, ToWorker::Disconnect { device, handover });
            }
            Order::Close { device, handover } => {
                self.to_worker(device, ToWorker::Close { device, handover });
            }
            Order::LookedThrough => self.inner.looked_through.store(true, Ordering::Relaxed),
            Order::Forgotten { device } => {
                self.devices().remove(&device);
                self.inner.inheritance.forget(device);
                tracing::info!(%device, "gone");
            }
        }
    }

    /// What is known of a device.
    pub(crate) fn get(&self, device: DeviceId) -> Option<Device> {
        self.devices().get(&device).cloned()
    }

    /// What the toolstack gives QEMU for a device, and others as its path: the socket, or the image where there is none.
    pub(crate) fn path_for_toolstack(&self, device: DeviceId) -> Option<String> {
        let socket = self.inner.sockets.path(device);
        let socket = socket.map(|path| path.display().to_string());
        socket.or_else(|| Some(self.get(device)?.image()))
    }

    /// How a device is doing; `None` if its image is not open.
    pub(crate) async fn statistics(&self, device: DeviceId) -> Option<Statistics> {
        let worker = self.get(device)?.worker;
        let (reply, answer) = oneshot::channel();
        self.inner.workers[worker].send(ToWorker::Inspect { device, reply });
        answer.await.ok()
    }

    /// How all workers are doing, and all devices whose images are open.
    pub(crate) async fn survey(&self) -> Surveys {
        let asked = self.inner.workers.iter().map(|worker| {
            let (reply, answer) = oneshot::channel();
            worker.send(ToWorker::Survey { reply });
            answer
        });
        // All are asked before the first is waited for.
        let asked: Vec<_> = asked.collect();
        let mut surveys = Vec::with_capacity(asked.len());
        for answer in asked {
            // A worker ends only together with the process.
            surveys.push(answer.await.unwrap_or_default());
        }
        Surveys(surveys)
    }

    /// Changes how a device is served, and tells how it is now; `None` if its image is not open.
    pub(crate) async fn set_policies(
        &self,
        device: DeviceId,
        policies: Policies,
    ) -> Option<Statistics> {
        let worker = self.get(device)?.worker;
        let (reply, answer) = oneshot::channel();
        self.inner.workers[worker].send(ToWorker::SetPolicies {
            device,
            policies,
            reply,
        });
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
        self.get(device).is_some_and(|known| known.can_be_adopted)
    }

    fn report(&self, report: Report) {
        // The runner ends only when the daemon does.
        let _ = self.inner.reports.send(report);
    }

    fn open(&self, device: DeviceId, config: BackendConfig) {
        let worker = self.idlest_worker();
        let read_only = config.mode == DeviceMode::ReadOnly;
        let earlier = self.get(device);
        let file = earlier.as_ref().and_then(|known| known.file);
        let failed_connects =
            earlier.map_or_else(FailedConnects::default, |known| known.failed_connects);
        let entry = Device {
            worker,
            params: config.params.clone(),
            vdev: config.vdev.clone(),
            vm: config.vm.clone(),
            read_only,
            file,
            can_be_adopted: false,
            failed_connects,
        };
        self.devices().insert(device, entry);
        if let Some(borrower) = self.borrower(device) {
            let reason = format!("its image is lent to {borrower}, where its guest goes on");
            return self.report(Report::OpenFailed { device, reason });
        }
        let devices = self.clone();
        tokio::spawn(async move {
            devices.borrow(device, &config).await;
            on_a_thread(move || devices.open_blocking(device, worker, &config)).await;
        });
    }

    fn open_blocking(&self, device: DeviceId, worker: usize, config: &BackendConfig) {
        let access = match config.mode {
            DeviceMode::ReadOnly => ImageAccess::ReadOnly,
            DeviceMode::Writable | DeviceMode::WritableShared => ImageAccess::Writable,
        };
        let frontend = ForFrontend {
            cdrom: config.device_type == "cdrom",
            discard: config.discard_enable,
        };
        let opened = logging::span(device).in_scope(|| {
            images::open(
                device,
                &config.params,
                access,
                frontend,
                &self.inner.inheritance,
            )
        });
        let opened = opened
            .map_err(|error| self.with_user(&error, device))
            .and_then(|opened| {
                let socket = self.socket_for_qemu(device, opened.can_be_adopted)?;
                Ok((opened, socket))
            });
        match opened {
            Ok((opened, socket)) => {
                tracing::info!(%device, vdev = config.vdev, "opened {}", config.params);
                let mut failed_connects = FailedConnects::default();
                if let Some(known) = self.devices().get_mut(&device) {
                    known.can_be_adopted = opened.can_be_adopted;
                    known.read_only = opened.disk.read_only;
                    failed_connects = known.failed_connects.clone();
                    known.file = opened.files.first().map(|file| file.identity());
                }
                let opening = Opening {
                    device,
                    engine: opened.engine,
                    files: opened.files,
                    disk: opened.disk,
                    options: opened.options,
                    socket,
                    belongings: Belongings {
                        run_state: opened.run_state,
                        failed_connects,
                        statistics_file: self.statistics_file(device),
                        loans: opened.loans,
                    },
                };
                self.inner.workers[worker].send(ToWorker::Open(Box::new(opening)));
            }
            Err(reason) => {
                tracing::error!(%device, vdev = config.vdev, "{reason}");
                self.report(Report::OpenFailed { device, reason });
            }
        }
    }

    /// What xentop reads. A disk is served without it, too.
    fn statistics_file(&self, device: DeviceId) -> Option<StatisticsFile> {
        let file = self.inner.xentop.as_ref()?.file(device);
        file.unwrap_or_else(|error| {
            tracing::warn!(%device, "xentop will not show it: {error}");
            None
        })
    }

    /// A socket for QEMU. A guest that was served before does without rather than not being served.
    fn socket_for_qemu(
        &self,
        device: DeviceId,
        was_served: bool,
    ) -> Result<Option<Socket>, String> {
        match self.inner.sockets.listen(device) {
            Ok(socket) => Ok(socket),
            Err(error) if was_served => {
                tracing::error!(%device, "{error}; QEMU cannot reach the disk any more");
                Ok(None)
            }
            Err(error) => Err(error.to_string()),
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

/// Does what blocks.
async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("the work does not panic, and is not cancelled")
}
