//! A virtual block device: an image, and the frontend that uses it, if one is connected.

use std::cell::RefCell;
use std::rc::Rc;

use blkif::{RawSlot, Request, Response, RingError, Status};
use blockio::buffer::Buffer;
use blockio::disk::{Disk, Finished};
use blockio::executor::Executor;
use dscow::engine::{self, Errno, Token};
use dscow::units::DiskRange;
use runstate::{Left, Place, RunState};
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

/// How many upkeeps, which are a second apart, a disk that is being let go may wait for space. Then what waits is left to
/// the next daemon, or, if there is no run state, fails.
const UPKEEPS_WITHOUT_SPACE: u32 = 3;

/// A virtual block device.
pub(super) struct Vbd {
    device: DeviceId,
    disk: Disk,
    properties: DiskProperties,
    pub(super) link: Option<Link>,
    requests: Slab<InFlight>,
    statistics: VbdStatistics,
    /// Outlives this process; shared with the disk, which notes there what it allocates.
    run_state: Option<Rc<RefCell<RunState>>>,
    /// Connections that failed since the image was opened.
    pub(super) failed_connects: u32,
    /// A disconnection was asked for and waits for the requests that were taken.
    disconnecting: bool,
    /// Nobody waits for space on behalf of its requests: the guest is gone, or has waited long enough.
    abandoned: bool,
    /// The image is being closed.
    closing: bool,
    /// The next daemon goes on with the same frontend.
    handover: bool,
    /// What is under way is left to the next daemon as it is.
    left_behind: bool,
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
    origin: Origin,
    /// The response if all goes well.
    response: Response,
    /// What is to follow when the first part, a flush, has succeeded.
    then: Option<(DiskRange, Buffer)>,
}

/// Where a request came from, and where its response goes.
#[derive(Clone, Copy)]
struct Origin {
    queue: usize,
    /// Where it is in the journal, if there is one.
    place: Option<Place>,
}

impl Vbd {
    pub(super) fn new(
        device: DeviceId,
        mut disk: Disk,
        properties: DiskProperties,
        run_state: Option<Box<RunState>>,
    ) -> Self {
        let run_state = run_state.map(|run_state| Rc::new(RefCell::new(*run_state)));
        if let Some(run_state) = &run_state {
            let run_state = Rc::clone(run_state);
            disk.keep_allocations(Box::new(move |first, end| {
                let noted = run_state.borrow_mut().note_allocated(first.0, end.0);
                if let Err(error) = noted {
                    tracing::error!(%device, "{error}; its guest will lose the disk if the daemon is killed");
                }
            }));
        }
        Self {
            run_state,
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
            handover: false,
            left_behind: false,
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

    /// Whether a disk that is being let go has waited for space long enough.
    fn is_done_waiting(&mut self) -> bool {
        let being_let_go = self.disconnecting || self.closing;
        if !being_let_go || self.space_is_back {
            return false;
        }
        self.upkeeps_without_space += 1;
        if self.upkeeps_without_space == UPKEEPS_WITHOUT_SPACE {
            let image = self.disk.path().display();
            if self.handover && self.run_state.is_some() {
                tracing::warn!(device = %self.device, "{image}: still no space is left on the host; the next daemon goes on waiting");
                self.left_behind = true;
            } else {
                tracing::error!(device = %self.device, "{image}: still no space is left on the host; the guest's writes fail now");
                self.abandoned = true;
            }
        }
        self.abandoned || self.left_behind
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

    /// Commits and closes the image, unless something of it is left to the next daemon.
    pub(super) fn close(&mut self, handover: bool, executor: &mut dyn Executor) {
        self.closing = true;
        self.handover = handover;
        if !self.left_behind {
            self.noted(RunState::note_closing);
            self.disk.close(executor, CLOSE);
        }
    }

    /// Notes that a frontend was just connected; gives what an earlier process left of it, for [`Vbd::go_on`].
    ///
    /// # Errors
    /// If the rings are not those of that process, for people.
    pub(super) fn begin_link(&mut self, link: &mut Link, adopt: bool) -> Result<Vec<Left>, String> {
        let was_connected = self.noted(|run_state| run_state.was_connected());
        // It may have disconnected, with everything answered, and died before xenstore knew.
        if !adopt || was_connected == Some(false) {
            self.begin_journals(link);
            return Ok(Vec::new());
        }
        let Some(run_state) = &self.run_state else {
            return Err("nothing was left to go on from".to_owned());
        };
        let mut run_state = run_state.borrow_mut();
        let left = run_state
            .resume(link.ring_size(0), &link.rings())
            .map_err(|error| error.to_string())?;
        for (queue, left) in link.queues.iter_mut().zip(&left) {
            queue
                .ring
                .resume_at(left.req_cons)
                .map_err(|error| error.to_string())?;
        }
        Ok(left)
    }

    /// Without a journal the guest is served all the same.
    fn begin_journals(&mut self, link: &Link) {
        let begun = self.noted(|run_state| {
            run_state
                .connect(link.ring_size(0), &link.rings())
                .inspect_err(|_| drop(run_state.remove()))
        });
        if let Some(Err(error)) = begun {
            tracing::error!(device = %self.device, "{error}; its guest will lose the disk if the daemon is killed");
            self.run_state = None;
        }
    }

    /// Goes on where an earlier process stopped. What that has taken and not answered is executed again: nobody saw an answer,
    /// so the guest has not touched the pages or relied on the sectors.
    pub(super) fn go_on(&mut self, left: Vec<Left>, executor: &mut dyn Executor) {
        // It may have died after it published responses, and before it told the frontend.
        for queue in self.link.iter().flat_map(|link| &link.queues) {
            queue.channel.notify();
        }
        for (queue, left) in left.into_iter().enumerate() {
            if !left.unanswered.is_empty() {
                let count = left.unanswered.len();
                tracing::info!(device = %self.device, "executing {count} requests again that were not answered");
            }
            for taken in left.unanswered {
                let place = Some(taken.place);
                self.take_request(Origin { queue, place }, &RawSlot(taken.request), executor);
            }
        }
    }

    /// Stops taking requests; [`Vbd::settle`] reports when those that were taken are answered. Unless the guest is to
    /// be handed over to the next daemon it does not wait for anything any more, and nobody waits for space on its
    /// behalf.
    pub(super) fn disconnect(&mut self, handover: bool, executor: &mut dyn Executor) {
        self.disconnecting = true;
        self.handover = handover;
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
            if self.link.as_ref().is_none_or(|link| link.stopped) {
                return Ok(false);
            }
            if limit == 0 {
                return Ok(true);
            }
            limit -= 1;
            // A frontend may make requests as soon as it sees responses in their slots, before they are published.
            if self.noted(|run_state| run_state.has_room(queue)) == Some(false) {
                self.publish();
            }
            let Some(link) = &mut self.link else {
                return Ok(false);
            };
            let ring = &mut link.queues[queue].ring;
            match ring.take()? {
                Some(slot) => {
                    // Before anything is done about it.
                    let place = self.noted(|run_state| run_state.take(queue, &slot.0));
                    self.take_request(Origin { queue, place }, &slot, executor);
                }
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

    /// Notes something in the run state, if there is one.
    fn noted<R>(&self, note: impl FnOnce(&mut RunState) -> R) -> Option<R> {
        let run_state = self.run_state.as_ref()?;
        Some(note(&mut run_state.borrow_mut()))
    }

    fn take_request(&mut self, origin: Origin, slot: &RawSlot, executor: &mut dyn Executor) {
        let Some(link) = &mut self.link else { return };
        match Request::from_slot(slot, &link.limits) {
            Ok(request) => self.start(origin, &request, executor),
            Err(rejection) => {
                self.statistics.rejected += 1;
                if link.is_first(rejection.reason) {
                    tracing::warn!(
                        device = %self.device,
                        "refused a request of the guest: {} (more of this kind are only counted)",
                        rejection.reason
                    );
                }
                self.respond(origin, rejection.response());
            }
        }
    }

    fn start(&mut self, origin: Origin, request: &Request, executor: &mut dyn Executor) {
        let response = request.response(Status::Okay);
        let (range, segments, access, after_flush) = match Transfer::of(&request.operation) {
            Transfer::Read(range, segments) => (range, segments, Access::ReadWrite, false),
            Transfer::Write(range, segments) => (range, segments, Access::ReadOnly, false),
            Transfer::FlushThenWrite(range, segments) => (range, segments, Access::ReadOnly, true),
            Transfer::Flush => {
                let token = self.admit(origin, response, None);
                self.disk
                    .submit(executor, token, engine::Request::Flush, Buffer::empty());
                return;
            }
            Transfer::NotOffered => {
                self.respond(origin, request.response(Status::NotSupported));
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
                self.respond(origin, request.response(Status::Error));
                return;
            }
        };
        if after_flush {
            let token = self.admit(origin, response, Some((range, buffer)));
            self.disk
                .submit(executor, token, engine::Request::Flush, Buffer::empty());
        } else {
            let token = self.admit(origin, response, None);
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
        origin: Origin,
        response: Response,
        then: Option<(DiskRange, Buffer)>,
    ) -> Token {
        Token(self.requests.insert(InFlight {
            origin,
            response,
            then,
        }) as u64)
    }

    fn respond(&mut self, origin: Origin, response: Response) {
        let Origin { queue, place } = origin;
        let Some(link) = &mut self.link else { return };
        if let (Some(run_state), Some(place)) = (&self.run_state, place) {
            let index = link.queues[queue].ring.next_response_index();
            run_state.borrow_mut().answer(queue, place, index);
        }
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
        self.publish();
        self.report_waiting(reports);
        if self.disconnecting && (self.requests.is_empty() || self.left_behind) {
            self.disconnecting = false;
            if !self.handover {
                self.noted(RunState::disconnect);
            }
            reports.push(Report::Disconnected {
                device: self.device,
            });
        }
        if self.closing && self.left_behind && !self.closed {
            self.end(reports);
        }
    }

    /// Nothing more is to be done about it.
    fn end(&mut self, reports: &mut Vec<Report>) {
        self.closed = true;
        reports.push(Report::Closed {
            device: self.device,
        });
    }

    /// Shows the frontend the responses so far.
    fn publish(&mut self) {
        if self.disk.engine().failure().is_some() {
            // Before the guest is told: who opens the image anew would think that all is well.
            self.noted(RunState::note_broken);
        }
        let Some(link) = &mut self.link else { return };
        for (number, queue) in link.queues.iter_mut().enumerate() {
            queue.publish();
            if let Some(run_state) = &self.run_state {
                run_state.borrow_mut().published(number);
            }
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
                if !self.handover
                    && let Some(Err(error)) = self.noted(|run_state| run_state.remove())
                {
                    tracing::error!(device = %self.device, "{error}");
                }
                self.end(reports);
            }
            token => self.finish_request(token, finished, executor),
        }
    }

    fn opened(&mut self, result: Result<(), Errno>) -> Report {
        let device = self.device;
        match result {
            Ok(()) => {
                let generation = self.disk.engine().header().generation;
                self.noted(|run_state| run_state.note_opened(generation));
                Report::Opened {
                    device,
                    disk: self.properties,
                }
            }
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
        self.respond(request.origin, response);
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
