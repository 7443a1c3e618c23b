//! The one task that does everything.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::debug;

use super::api::{Channels, Handle, Order, Report, Request, RunnerConfig, RunnerError};
use super::connection::Connection;
use super::device::Device;
use super::store::Store;
use super::watch::{FrontendWatches, Seen, Sink, watch_backend};
use crate::machine::Event;
use crate::types::{DeviceClass, DeviceId};

/// Watches xenstore for devices of ours and runs them; see [`Runner::run`].
pub struct Runner {
    pub(super) config: RunnerConfig,
    pub(super) store: Store,
    pub(super) devices: BTreeMap<DeviceId, Device>,
    pub(super) to_retry: BTreeSet<DeviceId>,
    /// Just forgotten, to be looked at once more.
    pub(super) to_notice: Vec<DeviceId>,
    /// Not looked through yet.
    pub(super) unseen_classes: BTreeSet<DeviceClass>,
    pub(super) seen_sink: Sink,
    pub(super) frontend_watches: FrontendWatches,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    seen: mpsc::UnboundedReceiver<Seen>,
    reports: mpsc::UnboundedReceiver<Report>,
    requests: mpsc::UnboundedReceiver<Request>,
    shutdown: Option<Vec<oneshot::Sender<()>>>,
}

/// What the loop woke up for.
enum Wake {
    Seen(Seen),
    Report(Report),
    Request(Request),
    Retry,
    Heartbeat,
    DaemonGone,
}

impl Runner {
    /// A runner on this connection, and the ends of the channels to it.
    pub fn set_up(xs: Connection, config: RunnerConfig) -> Channels {
        let (seen_sink, seen) = mpsc::unbounded_channel();
        let (orders, order_receiver) = mpsc::unbounded_channel();
        let (report_sender, reports) = mpsc::unbounded_channel();
        let (request_sender, requests) = mpsc::unbounded_channel();
        let runner = Self {
            store: Store::new(xs, config.patience),
            config,
            devices: BTreeMap::new(),
            to_retry: BTreeSet::new(),
            to_notice: Vec::new(),
            unseen_classes: DeviceClass::ALL.into(),
            seen_sink,
            frontend_watches: FrontendWatches::default(),
            orders,
            seen,
            reports,
            requests,
            shutdown: None,
        };
        Channels {
            runner,
            handle: Handle::new(request_sender),
            orders: order_receiver,
            reports: report_sender,
        }
    }

    /// Runs until [`Handle::shutdown`] is through, or until xenstore or the daemon is lost.
    ///
    /// Must run within a tokio runtime with time enabled. Dropping the future loses nothing: a new
    /// process picks everything up from xenstore.
    pub async fn run(mut self) -> Result<(), RunnerError> {
        for class in DeviceClass::ALL {
            let directory = class.directory();
            let doing = || format!("watching {directory}");
            let watching = watch_backend(&self.store.xs, directory, self.seen_sink.clone());
            let watched = self.store.alive(doing, watching).await?;
            watched.map_err(|source| RunnerError::Xenstore {
                doing: doing(),
                source,
            })?;
        }
        let first = |period| Instant::now() + period;
        let mut retry = interval_at(first(self.config.retry_after), self.config.retry_after);
        let mut heartbeat = interval_at(first(self.config.heartbeat), self.config.heartbeat);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wake = tokio::select! {
                Some(seen) = self.seen.recv() => Wake::Seen(seen),
                report = self.reports.recv() => report.map_or(Wake::DaemonGone, Wake::Report),
                Some(request) = self.requests.recv() => Wake::Request(request),
                _ = retry.tick(), if !self.to_retry.is_empty() => Wake::Retry,
                _ = heartbeat.tick() => Wake::Heartbeat,
            };
            self.wake(wake).await?;
            while let Some(device) = self.to_notice.pop() {
                self.notice(device).await?;
            }
            if self.shutdown_is_complete() {
                for waiting in self.shutdown.into_iter().flatten() {
                    waiting.send(()).ok();
                }
                return Ok(());
            }
        }
    }

    async fn wake(&mut self, wake: Wake) -> Result<(), RunnerError> {
        match wake {
            Wake::Seen(Seen::Backend(path)) => self.backend_event(&path).await,
            Wake::Seen(Seen::Frontend(device, queued)) => {
                queued.store(false, std::sync::atomic::Ordering::Release);
                self.refresh(device, true).await
            }
            Wake::Seen(Seen::Ended) => self.store.heartbeat().await,
            Wake::Report(report) => self.report(report).await,
            Wake::Request(request) => self.request(request).await,
            Wake::Retry => self.retry().await,
            Wake::Heartbeat => self.store.heartbeat().await,
            Wake::DaemonGone => Err(RunnerError::DaemonGone),
        }
    }

    pub(super) fn is_shutting_down(&self) -> bool {
        self.shutdown.is_some()
    }

    fn shutdown_is_complete(&self) -> bool {
        self.is_shutting_down() && self.devices.values().all(|entry| entry.finished)
    }

    async fn retry(&mut self) -> Result<(), RunnerError> {
        for device in std::mem::take(&mut self.to_retry) {
            self.refresh(device, false).await?;
            self.feed(device, Event::Retry).await?;
        }
        Ok(())
    }

    async fn report(&mut self, report: Report) -> Result<(), RunnerError> {
        let (device, event) = match report {
            Report::Opened { device, disk } => (device, Event::Opened(disk)),
            Report::OpenFailed { device, reason } => (device, Event::OpenFailed { reason }),
            Report::Connected { device } => (device, Event::Connected),
            Report::ConnectFailed { device, reason } => (device, Event::ConnectFailed { reason }),
            Report::Disconnected { device } => (device, Event::Disconnected),
            Report::Closed { device } => (device, Event::Closed),
            Report::Resized { device, disk } => (device, Event::Resized(disk)),
            Report::Fault { device, reason } => (device, Event::Fault { reason }),
            Report::WaitingForSpace { device, waiting } => {
                return self.show_waiting(device, waiting).await;
            }
        };
        if !self.devices.contains_key(&device) {
            debug!("report about {device}, which is not known: {event:?}");
        }
        self.feed(device, event).await
    }

    async fn request(&mut self, request: Request) -> Result<(), RunnerError> {
        match request {
            Request::Add(device, answer) => self.hotplug_add(device, answer).await,
            Request::Remove(device, answer) => self.hotplug_remove(device, answer).await,
            Request::Lend(device, answer) => {
                let Some(entry) = self.devices.get_mut(&device) else {
                    answer.send(()).ok();
                    return Ok(());
                };
                entry.borrowers.push(answer);
                self.feed(device, Event::Lend).await
            }
            Request::Snapshot(answer) => {
                let statuses = self.devices.iter();
                let statuses = statuses.map(|(device, entry)| entry.status(*device));
                answer.send(statuses.collect()).ok();
                Ok(())
            }
            Request::Shutdown(answer) => {
                self.shutdown.get_or_insert_default().push(answer);
                let devices: Vec<DeviceId> = self.devices.keys().copied().collect();
                for device in devices {
                    self.feed(device, Event::Shutdown).await?;
                }
                Ok(())
            }
        }
    }

    /// The script may be faster than the watch, so the device is looked for, or looked at, first.
    async fn hotplug_add(
        &mut self,
        device: DeviceId,
        answer: oneshot::Sender<Result<(), String>>,
    ) -> Result<(), RunnerError> {
        self.refresh(device, false).await?;
        if !self.devices.contains_key(&device)
            && let Err(reason) = self.find(device).await?
        {
            let reason = if self.is_shutting_down() {
                "the daemon is shutting down".into()
            } else {
                reason.to_string()
            };
            answer.send(Err(reason)).ok();
            return Ok(());
        }
        if let Some(entry) = self.devices.get_mut(&device) {
            entry.adders.push(answer);
        }
        self.feed(device, Event::HotplugAdd).await
    }

    async fn hotplug_remove(
        &mut self,
        device: DeviceId,
        answer: oneshot::Sender<Result<(), String>>,
    ) -> Result<(), RunnerError> {
        let Some(entry) = self.devices.get_mut(&device) else {
            // What is not known has no image open.
            answer.send(Ok(())).ok();
            return Ok(());
        };
        entry.removers.push(answer);
        self.feed(device, Event::HotplugRemove).await
    }
}
