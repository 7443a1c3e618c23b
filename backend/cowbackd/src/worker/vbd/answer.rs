//! What has finished is answered, and reported.

use blkif::{Response, Status};
use blockio::disk::Finished;
use blockio::executor::Executor;
use dscow::engine::{self, Errno, Token};
use runstate::RunState;
use xenstore_glue::runner::Report;

use super::in_flight::{InFlight, Origin};
use super::{CLOSE, GROW, OPEN, Vbd, describe};
use crate::worker::clock::RoundClock;

impl Vbd {
    /// Answers what has finished, shows it to the frontend, and reports what was asked for and is done.
    pub(in crate::worker) fn settle(
        &mut self,
        executor: &mut dyn Executor,
        reports: &mut Vec<Report>,
        clock: &mut RoundClock,
    ) {
        if self.abandoned {
            self.disk.fail_stalled(executor);
        }
        let mut ended = Vec::new();
        loop {
            let finished = self.disk.take_finished();
            let sent = self.settle_clients(executor);
            let closing = self.close_image_if_free(executor);
            if finished.is_empty() && !sent && !closing {
                break;
            }
            for finished in finished {
                match finished.token {
                    OPEN => reports.push(self.opened(finished.result, executor)),
                    CLOSE => self.image_closed(finished.result, reports),
                    GROW => self.grown(finished.result, reports),
                    _ if self.finish_for_client(&finished, executor) => {}
                    token => ended.extend(self.request_done(token, finished, executor, clock)),
                }
            }
        }
        self.answer(ended);
        self.publish();
        self.report_waiting(reports);
        if self.disconnecting && (self.is_idle() || self.left_behind) {
            self.disconnecting = false;
            if !self.handover {
                self.noted(RunState::disconnect);
            }
            reports.push(Report::Disconnected {
                device: self.device,
            });
        }
        if self.closing && self.left_behind && self.growing.is_none() && !self.closed {
            self.end(reports);
        }
    }

    fn image_closed(&mut self, result: Result<(), Errno>, reports: &mut Vec<Report>) {
        if let Err(errno) = result {
            let image = self.disk.path().display();
            tracing::error!(device = %self.device, "{image}: was not closed cleanly: {}", describe(errno));
        }
        let engine = self.disk.engine();
        if !self.handover && !engine.has_changed() {
            // Before what follows says that this device has done with it.
            let generation = engine.header().generation;
            let loans = self.loans.iter();
            loans.for_each(|loan| loan.returned_unchanged(generation));
        }
        if !self.handover
            && let Some(Err(error)) = self.noted(|run_state| run_state.remove())
        {
            tracing::error!(device = %self.device, "{error}");
        }
        self.end(reports);
    }

    fn opened(&mut self, result: Result<(), Errno>, executor: &mut dyn Executor) -> Report {
        let device = self.device;
        match result {
            Ok(()) => {
                let generation = self.disk.engine().header().generation;
                self.noted(|run_state| run_state.note_opened(generation));
                if let Some(clients) = &mut self.clients {
                    clients.let_in(executor);
                }
                Report::Opened {
                    device,
                    disk: self.properties,
                }
            }
            Err(errno) => {
                self.closed = true;
                let image = self.disk.path().display();
                let reason = format!("{image}: its header cannot be written: {}", describe(errno));
                Report::OpenFailed { device, reason }
            }
        }
    }

    /// A part of a request is done; gives the request if that was all of it.
    fn request_done(
        &mut self,
        token: Token,
        finished: Finished,
        executor: &mut dyn Executor,
        clock: &mut RoundClock,
    ) -> Option<(InFlight, Finished)> {
        let key = usize::try_from(token.0).expect("tokens of requests are slab keys");
        if finished.result.is_ok()
            && let Some((range, buffer)) = self.requests[key].then.take()
        {
            let write = engine::Request::Write(range);
            self.disk.submit(executor, token, write, buffer);
            return None;
        }
        let request = self.requests.remove(key);
        self.copied_bytes -= request.copied_bytes;
        self.count(&request, &finished, clock);
        Some((request, finished))
    }

    /// Gives the guest what was read for it, all together, and answers.
    fn answer(&mut self, ended: Vec<(InFlight, Finished)>) {
        let Some(link) = &mut self.link else { return };
        let places: Vec<_> = ended
            .iter()
            .map(|(request, finished)| {
                let destination = request.destination.as_ref()?;
                finished.result.ok()?;
                link.pages.give(destination, &finished.buffer)
            })
            .collect();
        let results = link.pages.run_copies();
        for ((request, finished), places) in ended.into_iter().zip(places) {
            // The pages first: the frontend takes back its grants when it sees the response.
            let Finished { result, buffer, .. } = finished;
            drop((buffer, request.then, request.destination));
            let given = places.map_or(Ok(()), |places| results.of(places));
            if let Err(cause) = given {
                self.fail(request.origin, request.response, &cause);
                continue;
            }
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
    }

    /// Shows the frontend the responses so far.
    pub(super) fn publish(&mut self) {
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

    pub(super) fn respond(&mut self, origin: Origin, response: Response) {
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

    fn count(&mut self, request: &InFlight, finished: &Finished, clock: &mut RoundClock) {
        let statistics = self.counts();
        if finished.result.is_err() {
            statistics.failed += 1;
            return;
        }
        let bytes = finished.buffer.len() as u64;
        let latencies = &mut statistics.latency;
        let latency = match request.response.operation {
            blkif::operation::READ => {
                statistics.reads += 1;
                statistics.read_bytes += bytes;
                &mut latencies.read
            }
            blkif::operation::WRITE => {
                statistics.writes += 1;
                statistics.written_bytes += bytes;
                &mut latencies.write
            }
            blkif::operation::DISCARD => {
                statistics.discards += 1;
                &mut latencies.discard
            }
            _ => {
                statistics.flushes += 1;
                statistics.written_bytes += bytes;
                &mut latencies.flush
            }
        };
        latency.add(clock.now().saturating_duration_since(request.taken));
    }
}
