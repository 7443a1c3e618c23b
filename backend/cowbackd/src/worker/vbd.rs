//! A virtual block device: an image, and the frontend that uses it, if one is connected.

use blkif::{RawSlot, Request, Response, RingError, Status};
use blockio::buffer::Buffer;
use blockio::disk::{Disk, Finished};
use blockio::executor::Executor;
use dscow::engine::{self, Errno, Token};
use dscow::units::DiskRange;
use slab::Slab;
use xengnttab::Access;
use xenstore_glue::runner::Report;
use xenstore_glue::{DeviceId, DiskProperties};

use super::link::Link;
use super::message::VbdStatistics;
use super::transfer::{self, Transfer};

/// Token of the opening of the image. Requests' tokens are small numbers.
const OPEN: Token = Token(u64::MAX);
/// Token of its closing.
const CLOSE: Token = Token(u64::MAX - 1);

/// How many upkeeps, which are a second apart, a disk that is being let go may wait for space: the daemon stops when all of
/// them are let go, and must not be killed meanwhile, since then no guest could be handed over.
const UPKEEPS_WITHOUT_SPACE: u32 = 10;

/// A virtual block device.
pub(super) struct Vbd {
    device: DeviceId,
    disk: Disk,
    properties: DiskProperties,
    pub(super) link: Option<Link>,
    requests: Slab<InFlight>,
    statistics: VbdStatistics,
    /// Connections that failed since the image was opened.
    pub(super) failed_connects: u32,
    /// A disconnection was asked for and waits for the requests that were taken.
    disconnecting: bool,
    /// Nobody waits for space on behalf of its requests: the guest is gone, or has waited long enough.
    abandoned: bool,
    /// The image is being closed.
    closing: bool,
    /// Upkeeps since it is being let go during which writes waited for space.
    upkeeps_without_space: u32,
    /// Nothing has waited for space from one upkeep to the next.
    space_is_back: bool,
    /// It was reported that writes wait for space.
    reported_waiting: bool,
    closed: bool,
}

/// A request that was taken off a ring and not answered yet. It ends in exactly one response.
struct InFlight {
    queue: usize,
    /// The response if all goes well.
    response: Response,
    /// What is to follow when the first part, a flush, has succeeded.
    then: Option<(DiskRange, Buffer)>,
}

impl Vbd {
    pub(super) fn new(device: DeviceId, disk: Disk, properties: DiskProperties) -> Self {
        Self {
            device,
            disk,
            properties,
            link: None,
            requests: Slab::new(),
            statistics: VbdStatistics::default(),
            failed_connects: 0,
            disconnecting: false,
            abandoned: false,
            closing: false,
            upkeeps_without_space: 0,
            space_is_back: false,
            reported_waiting: false,
            closed: false,
        }
    }

    pub(super) fn device(&self) -> DeviceId {
        self.device
    }

    pub(super) fn properties(&self) -> &DiskProperties {
        &self.properties
    }

    pub(super) fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// Whether [`Vbd::upkeep`] has something to do: blocks were allocated that no commit covers, and a commit can still
    /// help, or writes wait for space.
    pub(super) fn needs_upkeep(&self) -> bool {
        let engine = self.disk.engine();
        let uncommitted = engine.has_uncommitted_bits() && engine.failure().is_none();
        uncommitted || engine.stalled() > 0 || self.reported_waiting
    }

    /// Does what is due about once a second.
    pub(super) fn upkeep(&mut self, executor: &mut dyn Executor) {
        self.space_is_back = self.disk.engine().stalled() == 0;
        self.disk.commit_idle(executor);
        if !self.is_done_waiting() {
            self.disk.retry_stalled(executor);
        }
    }

    /// Whether a disk that is being let go has waited for space long enough. The guest sees errors then.
    fn is_done_waiting(&mut self) -> bool {
        let being_let_go = self.disconnecting || self.closing;
        if !being_let_go || self.space_is_back {
            return false;
        }
        self.upkeeps_without_space += 1;
        if self.upkeeps_without_space == UPKEEPS_WITHOUT_SPACE {
            let image = self.disk.path().display();
            tracing::error!(device = %self.device, "{image}: still no space is left on the host; the guest's writes fail now");
            self.abandoned = true;
        }
        self.abandoned
    }

    /// Nothing is left of it but its memory.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn release(self, executor: &mut dyn Executor) {
        self.disk.release(executor);
    }

    pub(super) fn open(&mut self, executor: &mut dyn Executor) {
        self.disk.open(executor, OPEN);
    }

    pub(super) fn close(&mut self, executor: &mut dyn Executor) {
        self.closing = true;
        self.disk.close(executor, CLOSE);
    }

    /// Stops taking requests; [`Vbd::settle`] reports when those that were taken are answered. Unless the guest is to
    /// be handed over to the next daemon it does not wait for anything any more, and nobody waits for space on its
    /// behalf.
    pub(super) fn disconnect(&mut self, handover: bool, executor: &mut dyn Executor) {
        self.disconnecting = true;
        self.abandoned = !handover;
        if self.abandoned {
            self.disk.fail_stalled(executor);
        }
        if let Some(link) = &mut self.link {
            link.stopped = true;
        }
    }

    pub(super) fn statistics(&self) -> VbdStatistics {
        let engine = self.disk.engine();
        let layout = engine.layout();
        VbdStatistics {
            virtual_size_bytes: layout.virtual_size(),
            allocated_bytes: engine.allocated_blocks() << layout.block_size().shift(),
            copy_ups: engine.stats().copy_ups,
            commits: engine.stats().commits,
            in_flight: self.requests.len() as u64,
            waiting_for_space: engine.stalled() as u64,
            space_waits: engine.stats().stalls,
            ..self.statistics.clone()
        }
    }

    /// Takes what is on the ring of a queue, at most a ring of requests. Returns whether there may be more: then it is
    /// to be served again without an event, after everybody else had their turn.
    pub(super) fn serve(
        &mut self,
        queue: usize,
        executor: &mut dyn Executor,
        reports: &mut Vec<Report>,
    ) -> bool {
        self.take_requests(queue, executor).unwrap_or_else(|error| {
            self.fault(&error, reports);
            false
        })
    }

    fn take_requests(
        &mut self,
        queue: usize,
        executor: &mut dyn Executor,
    ) -> Result<bool, RingError> {
        // Requests that are refused are answered at once, which makes room on the ring for more of them: without a
        // limit a guest could keep its worker here for ever.
        let mut limit = self.link.as_ref().map_or(0, |link| link.ring_size(queue));
        loop {
            let Some(link) = self.link.as_mut().filter(|link| !link.stopped) else {
                return Ok(false);
            };
            if limit == 0 {
                return Ok(true);
            }
            limit -= 1;
            let ring = &mut link.queues[queue].ring;
            match ring.take()? {
                Some(slot) => self.take_request(queue, &slot, executor),
                None if ring.final_check_for_requests()? => {}
                None => return Ok(false),
            }
        }
    }

    /// The frontend broke the ring protocol: nothing on its rings can be trusted any more.
    fn fault(&mut self, error: &RingError, reports: &mut Vec<Report>) {
        if let Some(link) = &mut self.link {
            link.stopped = true;
        }
        reports.push(Report::Fault {
            device: self.device,
            reason: error.to_string(),
        });
    }

    fn take_request(&mut self, queue: usize, slot: &RawSlot, executor: &mut dyn Executor) {
        let Some(link) = &mut self.link else { return };
        match Request::from_slot(slot, &link.limits) {
            Ok(request) => self.start(queue, &request, executor),
            Err(rejection) => {
                self.statistics.rejected += 1;
                if link.is_first(rejection.reason) {
                    tracing::warn!(
                        device = %self.device,
                        "refused a request of the guest: {} (more of this kind are only counted)",
                        rejection.reason
                    );
                }
                self.respond(queue, rejection.response());
            }
        }
    }

    fn start(&mut self, queue: usize, request: &Request, executor: &mut dyn Executor) {
        let response = request.response(Status::Okay);
        let (range, segments, access, after_flush) = match Transfer::of(&request.operation) {
            Transfer::Read(range, segments) => (range, segments, Access::ReadWrite, false),
            Transfer::Write(range, segments) => (range, segments, Access::ReadOnly, false),
            Transfer::FlushThenWrite(range, segments) => (range, segments, Access::ReadOnly, true),
            Transfer::Flush => {
                let token = self.admit(queue, response, None);
                self.disk
                    .submit(executor, token, engine::Request::Flush, Buffer::empty());
                return;
            }
            Transfer::NotOffered => {
                self.respond(queue, request.response(Status::NotSupported));
                return;
            }
        };
        let Some(link) = &mut self.link else { return };
        let buffer = match transfer::map(&mut link.grants, segments, access, &mut link.pages) {
            Ok(buffer) => buffer,
            Err(error) => {
                self.statistics.failed += 1;
                if self.statistics.failed == 1 {
                    tracing::warn!(device = %self.device, "cannot map a request's pages: {error}");
                }
                self.respond(queue, request.response(Status::Error));
                return;
            }
        };
        if after_flush {
            let token = self.admit(queue, response, Some((range, buffer)));
            self.disk
                .submit(executor, token, engine::Request::Flush, Buffer::empty());
        } else {
            let token = self.admit(queue, response, None);
            self.disk.submit(
                executor,
                token,
                transfer::engine_request(access, range),
                buffer,
            );
        }
    }

    fn admit(
        &mut self,
        queue: usize,
        response: Response,
        then: Option<(DiskRange, Buffer)>,
    ) -> Token {
        Token(self.requests.insert(InFlight {
            queue,
            response,
            then,
        }) as u64)
    }

    fn respond(&mut self, queue: usize, response: Response) {
        let Some(link) = &mut self.link else { return };
        if let Err(error) = link.queues[queue].ring.push_response(response) {
            // Every response belongs to a request that was taken, so this is a mistake of ours.
            debug_assert!(false, "{error}");
            tracing::error!(device = %self.device, "cannot answer a request: {error}");
        }
    }

    /// Answers what has finished, shows it to the frontend, and reports what was asked for and is done.
    pub(super) fn settle(&mut self, executor: &mut dyn Executor, reports: &mut Vec<Report>) {
        if self.abandoned {
            self.disk.fail_stalled(executor);
        }
        loop {
            let finished = self.disk.take_finished();
            if finished.is_empty() {
                break;
            }
            for finished in finished {
                self.finish(finished, executor, reports);
            }
        }
        if let Some(link) = &mut self.link {
            for queue in &mut link.queues {
                queue.publish();
            }
        }
        self.report_waiting(reports);
        if self.disconnecting && self.requests.is_empty() {
            self.disconnecting = false;
            reports.push(Report::Disconnected {
                device: self.device,
            });
        }
    }

    /// Says loudly when writes begin to wait for space, and when none does any more.
    fn report_waiting(&mut self, reports: &mut Vec<Report>) {
        let waiting = self.disk.engine().stalled() > 0;
        // While writes are tried again none waits, so only an upkeep can tell that it is over.
        if waiting == self.reported_waiting || (!waiting && !self.space_is_back) {
            return;
        }
        self.reported_waiting = waiting;
        let device = self.device;
        let image = self.disk.path().display();
        if waiting {
            tracing::error!(%device, "{image}: no space is left on the host; the guest waits until there is");
        } else {
            tracing::info!(%device, "{image}: there is space again; the guest goes on");
        }
        reports.push(Report::WaitingForSpace { device, waiting });
    }

    /// Whether the link can be taken down: it is stopped for good and nothing of it is in use.
    pub(super) fn may_unlink(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.stopped) && self.requests.is_empty()
    }

    fn finish(
        &mut self,
        finished: Finished,
        executor: &mut dyn Executor,
        reports: &mut Vec<Report>,
    ) {
        match finished.token {
            OPEN => reports.push(self.opened(finished.result)),
            CLOSE => {
                if let Err(errno) = finished.result {
                    tracing::error!(device = %self.device, "the image was not closed cleanly: {}", describe(errno));
                }
                self.closed = true;
                reports.push(Report::Closed {
                    device: self.device,
                });
            }
            token => self.finish_request(token, finished, executor),
        }
    }

    fn opened(&mut self, result: Result<(), Errno>) -> Report {
        let device = self.device;
        match result {
            Ok(()) => Report::Opened {
                device,
                disk: self.properties,
            },
            Err(errno) => {
                self.closed = true;
                let reason = format!("its header cannot be written: {}", describe(errno));
                Report::OpenFailed { device, reason }
            }
        }
    }

    fn finish_request(&mut self, token: Token, finished: Finished, executor: &mut dyn Executor) {
        let key = usize::try_from(token.0).expect("tokens of requests are slab keys");
        if finished.result.is_ok()
            && let Some((range, buffer)) = self.requests[key].then.take()
        {
            self.disk
                .submit(executor, token, engine::Request::Write(range), buffer);
            return;
        }
        let request = self.requests.remove(key);
        self.count(&request, &finished);
        // The pages first: the frontend takes back its grants when it sees the response.
        let Finished { result, buffer, .. } = finished;
        drop(buffer);
        drop(request.then);
        let status = if result.is_ok() {
            Status::Okay
        } else {
            Status::Error
        };
        let response = Response {
            status,
            ..request.response
        };
        self.respond(request.queue, response);
    }

    fn count(&mut self, request: &InFlight, finished: &Finished) {
        let statistics = &mut self.statistics;
        if finished.result.is_err() {
            statistics.failed += 1;
            return;
        }
        let bytes = finished.buffer.len() as u64;
        match request.response.operation {
            blkif::operation::READ => {
                statistics.reads += 1;
                statistics.read_bytes += bytes;
            }
            blkif::operation::WRITE => {
                statistics.writes += 1;
                statistics.written_bytes += bytes;
            }
            _ => {
                statistics.flushes += 1;
                statistics.written_bytes += bytes;
            }
        }
    }
}

fn describe(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.0)
}
