//! The loop of a worker thread.

mod sleep;

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use blockio::buffer::BufferPool;
use blockio::disk::{Disk, DiskNumber};
use blockio::executor::{Event, Executor};
use nbd_server::{Clients, Socket};
use runstate::fail_point;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::mpsc::UnboundedSender;
use xenstore_glue::frontend::FrontendConfig;
use xenstore_glue::runner::Report;
use xenstore_glue::{DeviceId, DiskProperties};

use super::clock::RoundClock;
use super::link::Link;
use super::message::{Opening, Survey, ToWorker};
use super::patience::Patience;
use super::vbd::{self, Served, Vbd};
use crate::logging;

/// How often bits that nobody flushed are committed, and writes tried again that wait for space.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How often a frontend may fail to connect before it is not let try again: each time that a channel cannot be bound
/// costs a descriptor, which the library does not give back.
const FAILED_CONNECTS_MAX: u32 = 16;

/// Memory for copied data that a worker keeps for later, in bytes.
const POOL_BYTES: usize = 4 << 20;

/// Key of the watch on the control plane's eventfd; those of channels begin with the number of a vbd.
const WAKE: u64 = u64::MAX;

/// A worker: one executor, and the vbds that live here.
pub(super) struct Worker {
    executor: Box<dyn Executor>,
    inbox: Receiver<ToWorker>,
    reports: UnboundedSender<Report>,
    wake: OwnedFd,
    /// Memory for data that is copied from and to guests.
    pool: BufferPool,
    /// By their numbers, of which none is used again: operations of a disk may still be under way when it is gone.
    vbds: FxHashMap<usize, Vbd>,
    next_number: u32,
    numbers: HashMap<DeviceId, usize>,
    /// Vbds with something to settle after this round of events.
    touched: Vec<usize>,
    /// Rounds so far.
    rounds: usize,
    /// Rings that may hold more requests than were taken in this round, as vbd and queue.
    backlog: Vec<(usize, usize)>,
    /// Rings that were found empty, and whose frontends were not asked to notify yet.
    awake: Vec<(usize, usize)>,
    patience: Patience,
    clock: RoundClock,
    /// Vbds with something to do at the next upkeep.
    kept_up: FxHashSet<usize>,
    /// Reports of this round.
    outbox: Vec<Report>,
    next_upkeep: Duration,
    stopping: bool,
}

impl Worker {
    pub(super) fn new(
        mut executor: Box<dyn Executor>,
        inbox: Receiver<ToWorker>,
        reports: UnboundedSender<Report>,
        wake: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        executor.watch(WAKE, wake)?;
        Ok(Self {
            executor,
            inbox,
            reports,
            wake: wake.try_clone_to_owned()?,
            pool: BufferPool::new(POOL_BYTES),
            vbds: FxHashMap::default(),
            next_number: 0,
            numbers: HashMap::new(),
            touched: Vec::new(),
            rounds: 0,
            backlog: Vec::new(),
            awake: Vec::new(),
            patience: Patience::default(),
            clock: RoundClock::default(),
            kept_up: FxHashSet::default(),
            outbox: Vec::new(),
            next_upkeep: Duration::ZERO,
            stopping: false,
        })
    }

    /// Serves until told to stop.
    ///
    /// # Panics
    /// If the executor breaks: no disk could be served any more, and a new process can adopt them all.
    pub(super) fn run(&mut self) {
        let mut events = Vec::new();
        while !self.stopping {
            self.wait(&mut events)
                .expect("the executor works, or nothing does");
            self.clock.next_round();
            for event in events.drain(..) {
                self.handle(event);
            }
            self.serve_backlog();
            self.upkeep_if_due();
            self.settle();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Done { key, result } => {
                // What was ordered is done, and nobody knows yet.
                fail_point::pass();
                let (DiskNumber(number), op) = DiskNumber::of_key(key);
                let number = number as usize;
                if let Some(vbd) = self.vbds.get_mut(&number) {
                    vbd.disk().complete(self.executor.as_mut(), op, result);
                    self.touched.push(number);
                }
            }
            Event::Readable { key: WAKE } => self.read_inbox(),
            event if Clients::are_meant_by(&event) => self.client_event(&event),
            Event::Readable { key } => self.channel_event(key),
            // Only clients are watched for it.
            Event::Writable { .. } => {}
        }
    }

    fn channel_event(&mut self, key: u64) {
        let (number, queue) = of_watch_key(key);
        let Some(vbd) = self.vbds.get_mut(&number) else {
            return;
        };
        let Some(link) = &vbd.link else { return };
        if let Err(error) = link.queues[queue].channel.acknowledge() {
            tracing::error!(device = %vbd.device(), "cannot acknowledge an event: {error}");
        }
        self.serve(number, queue);
    }

    /// Those who come to a socket for a disk; nobody, if the disk cannot be offered.
    fn clients(
        &self,
        disk: &Disk,
        number: DiskNumber,
        socket: Socket,
        properties: &DiskProperties,
    ) -> Option<Clients> {
        let image = disk.path().display().to_string();
        let offer = vbd::offer(&image, properties.read_only);
        Clients::new(disk.engine(), number, socket, offer, self.pool.clone())
            .inspect_err(|error| tracing::error!("{image}: QEMU cannot have it: {error}"))
            .ok()
    }

    fn client_event(&mut self, event: &Event) {
        let (DiskNumber(number), _) = DiskNumber::of_key(event.key());
        let number = number as usize;
        if let Some(vbd) = self.vbds.get_mut(&number) {
            vbd.client_event(event, self.executor.as_mut());
            self.touched.push(number);
        }
    }

    fn serve(&mut self, number: usize, queue: usize) {
        let Some(vbd) = self.vbds.get_mut(&number) else {
            return;
        };
        let executor = self.executor.as_mut();
        match vbd.serve(queue, executor, &mut self.outbox, &mut self.clock) {
            Served::InPart => self.backlog.push((number, queue)),
            Served::Empty => self.keep_awake(number, queue),
            Served::Stopped => {}
        }
        self.touched.push(number);
    }

    /// Serves the rings that had more than their share in the last round.
    fn serve_backlog(&mut self) {
        for (number, queue) in std::mem::take(&mut self.backlog) {
            self.serve(number, queue);
        }
    }

    fn read_inbox(&mut self) {
        // Emptied before the messages are taken: one that comes later wakes us again.
        let mut count = [0; 8];
        match rustix::io::read(&self.wake, &mut count) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => tracing::error!("cannot read the wake-up of the control plane: {error}"),
        }
        while let Ok(message) = self.inbox.try_recv() {
            self.obey(message);
        }
    }

    fn obey(&mut self, message: ToWorker) {
        match message {
            ToWorker::Open(opening) => self.open(*opening),
            ToWorker::Connect {
                device,
                frontend,
                adopt,
            } => {
                if let Some(number) = self.number(device) {
                    let report = self.connect(number, &frontend, adopt);
                    self.outbox.push(report);
                    self.serve_all_queues(number);
                }
            }
            ToWorker::Disconnect { device, handover } => {
                if let Some(number) = self.number(device) {
                    looked_up(&mut self.vbds, number).disconnect(handover, self.executor.as_mut());
                }
            }
            ToWorker::Close { device, handover } => {
                if let Some(number) = self.number(device) {
                    looked_up(&mut self.vbds, number).close(handover, self.executor.as_mut());
                }
            }
            ToWorker::Inspect { device, reply } => {
                if let Some(number) = self.numbers.get(&device) {
                    let _ = reply.send(self.vbds[number].statistics());
                }
            }
            ToWorker::Survey { reply } => {
                let of_each = |(device, number): (&DeviceId, &usize)| {
                    (*device, self.vbds[number].statistics())
                };
                let _ = reply.send(Survey {
                    cpu_time: thread_cpu_time(),
                    vbds: self.numbers.iter().map(of_each).collect(),
                });
            }
            ToWorker::SetPolicies {
                device,
                policies,
                reply,
            } => {
                if let Some(number) = self.numbers.get(&device).copied() {
                    let vbd = looked_up(&mut self.vbds, number);
                    let _ = reply.send(vbd.set_policies(policies, self.executor.as_mut()));
                    self.touched.push(number);
                }
            }
            ToWorker::ShowImage { device, reply } => {
                if let Some(number) = self.numbers.get(&device) {
                    // Whoever asked may have gone.
                    let _ = reply.send(self.vbds[number].show_image());
                }
            }
            ToWorker::Grow {
                device,
                size,
                reply,
            } => {
                if let Some(number) = self.numbers.get(&device).copied() {
                    looked_up(&mut self.vbds, number).grow(size, reply, self.executor.as_mut());
                    self.touched.push(number);
                }
            }
            ToWorker::Stop => self.stopping = true,
        }
    }

    fn open(&mut self, opening: Opening) {
        let Opening {
            device,
            engine,
            files,
            disk: properties,
            options,
            socket,
            belongings,
        } = opening;
        let disk_number = self.new_number();
        let number = disk_number.0 as usize;
        // What the disk and its clients log, now and later, names the device.
        let _device = logging::span(device).entered();
        let disk = Disk::new(disk_number, engine, files, options, self.executor.as_mut());
        let clients =
            socket.and_then(|socket| self.clients(&disk, disk_number, socket, &properties));
        let mut vbd = Vbd::new(device, disk, properties, clients, belongings);
        vbd.open(self.executor.as_mut());
        self.vbds.insert(number, vbd);
        self.numbers.insert(device, number);
        self.touched.push(number);
    }

    /// The number of a device, which is going to be touched.
    fn number(&mut self, device: DeviceId) -> Option<usize> {
        let number = self.numbers.get(&device).copied();
        match number {
            Some(number) => self.touched.push(number),
            None => {
                tracing::error!(%device, "the worker was told about a device that it does not have");
            }
        }
        number
    }

    fn connect(&mut self, number: usize, frontend: &FrontendConfig, adopt: bool) -> Report {
        let vbd = looked_up(&mut self.vbds, number);
        let device = vbd.device();
        if vbd.failed_connects.count() >= FAILED_CONNECTS_MAX {
            let reason =
                "it failed to connect too often; detach the disk and attach it again".into();
            return Report::ConnectFailed { device, reason };
        }
        let domid = device.domid.raw();
        let in_place = !vbd.disk().io_outlives_process();
        let connected = Link::connect(domid, frontend, vbd.properties(), in_place, &self.pool)
            .map_err(|error| error.to_string())
            .and_then(|mut link| {
                let left = vbd.begin_link(&mut link, adopt)?;
                let link = watch_channels(self.executor.as_mut(), number, link)?;
                Ok((link, left))
            });
        match connected {
            Ok((link, left)) => {
                vbd.link = Some(link);
                if adopt {
                    vbd.go_on(left);
                }
                Report::Connected { device }
            }
            Err(reason) => {
                vbd.failed_connects.add_one();
                Report::ConnectFailed { device, reason }
            }
        }
    }

    /// Requests may be on the rings already, in particular of a frontend that an earlier process served.
    fn serve_all_queues(&mut self, number: usize) {
        let link = looked_up(&mut self.vbds, number).link.as_ref();
        for queue in 0..link.map_or(0, |link| link.queues.len()) {
            self.serve(number, queue);
        }
    }

    /// A number that no disk has, nor, for as long as operations take, has had.
    fn new_number(&mut self) -> DiskNumber {
        loop {
            let number = self.next_number;
            self.next_number = number.wrapping_add(1);
            if !self.vbds.contains_key(&(number as usize)) {
                return DiskNumber(number);
            }
        }
    }

    /// Has a vbd kept up, from now on a whole interval after it was idle: there is no hurry.
    fn keep_up(&mut self, number: usize) {
        if self.kept_up.is_empty() {
            self.next_upkeep = coarse_now() + UPKEEP_INTERVAL;
        }
        self.kept_up.insert(number);
    }

    /// How long to sleep at most: until the next upkeep, if there is something to do then.
    fn time_to_sleep(&self) -> Option<Duration> {
        let until_upkeep = || self.next_upkeep.saturating_sub(coarse_now());
        (!self.kept_up.is_empty()).then(until_upkeep)
    }

    fn upkeep_if_due(&mut self) {
        if self.kept_up.is_empty() {
            return;
        }
        let now = coarse_now();
        if now < self.next_upkeep {
            return;
        }
        self.next_upkeep = now + UPKEEP_INTERVAL;
        for number in self.kept_up.drain() {
            if let Some(vbd) = self.vbds.get_mut(&number) {
                vbd.upkeep(self.executor.as_mut());
                self.touched.push(number);
            }
        }
    }

    /// Answers what has finished in this round, and reports.
    fn settle(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        self.rounds = self.rounds.wrapping_add(1);
        if !touched.is_empty() {
            // Who is answered last has the least time to ask for more before the next round, so it is somebody else each time.
            let first = self.rounds % touched.len();
            touched.rotate_left(first);
        }
        for number in touched.drain(..) {
            self.settle_vbd(number);
        }
        self.touched = touched;
        for report in self.outbox.drain(..) {
            // The control plane ends before its workers only together with the process.
            let _ = self.reports.send(report);
        }
    }

    fn settle_vbd(&mut self, number: usize) {
        let Some(vbd) = self.vbds.get_mut(&number) else {
            return;
        };
        vbd.settle(self.executor.as_mut(), &mut self.outbox, &mut self.clock);
        if vbd.may_take_again() {
            let queues = vbd.link.as_ref().map_or(0, |link| link.queues.len());
            self.backlog
                .extend((0..queues).map(|queue| (number, queue)));
        }
        if vbd.may_unlink()
            && let Some(link) = vbd.link.take()
        {
            for queue in 0..link.queues.len() {
                self.executor.unwatch(watch_key(number, queue));
            }
        }
        if vbd.needs_upkeep() {
            self.keep_up(number);
        }
        if looked_up(&mut self.vbds, number).is_closed()
            && let Some(mut vbd) = self.vbds.remove(&number)
        {
            // What was left behind under way kept its link.
            let queues = vbd.link.take().map_or(0, |link| link.queues.len());
            for queue in 0..queues {
                self.executor.unwatch(watch_key(number, queue));
            }
            self.numbers.remove(&vbd.device());
            vbd.release(self.executor.as_mut());
        }
    }
}

/// A vbd that is there, as its number was just looked up.
fn looked_up(vbds: &mut FxHashMap<usize, Vbd>, number: usize) -> &mut Vbd {
    vbds.get_mut(&number).expect("looked up")
}

/// Watches the channels of a link, or takes it down again.
fn watch_channels(executor: &mut dyn Executor, number: usize, link: Link) -> Result<Link, String> {
    for (queue, served) in link.queues.iter().enumerate() {
        let watched = served
            .channel
            .descriptor()
            .and_then(|descriptor| executor.watch(watch_key(number, queue), descriptor));
        if let Err(error) = watched {
            for earlier in 0..queue {
                executor.unwatch(watch_key(number, earlier));
            }
            return Err(format!("cannot watch the event channel: {error}"));
        }
    }
    Ok(link)
}

/// How much of a processor's time the calling thread has used.
fn thread_cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).expect("a thread has not used less than nothing")
}

/// The time since some moment in the past, to a few milliseconds. Reading it costs no call to the kernel where the exact time
/// does, as in a dom0.
fn coarse_now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    Duration::try_from(now).expect("the time since the host started is not negative")
}

fn watch_key(number: usize, queue: usize) -> u64 {
    (number as u64) << 32 | queue as u64
}

fn of_watch_key(key: u64) -> (usize, usize) {
    let half = |bits: u64| usize::try_from(bits & u64::from(u32::MAX)).expect("32 bits fit");
    (half(key >> 32), half(key))
}
