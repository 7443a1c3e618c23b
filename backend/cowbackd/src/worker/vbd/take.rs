//! Taking requests off the rings.

use std::time::Instant;

use blkif::{BackRing, Operation, RawSlot, Rejection, Request, Response, RingError, Status};
use blockio::buffer::Buffer;
use blockio::executor::Executor;
use dscow::engine::{self, Token};
use xenstore_glue::runner::Report;

use super::Vbd;
use super::in_flight::{Arrival, InFlight, Order, Origin};
use crate::worker::clock::RoundClock;
use crate::worker::foreign::RingMemory;
use crate::worker::guest_pages::{Exchange, GuestData};

/// Most requests that are taken at a time. Requests that are refused are answered at once, which makes room on the ring for
/// more of them: without a limit a guest could keep its worker at its ring for ever.
const TURN_REQUESTS: usize = 64;

/// Most segments of the requests that are taken at a time, for the same reason: each may have to be mapped or copied.
const TURN_SEGMENTS: usize = 1024;

/// When so many bytes are in use for a disk's requests beside the guest's pages, no more are taken. What a guest could
/// otherwise have: 8 queues of 512 requests, of 1 MiB each, or each filling up two blocks of 2 MiB.
const COPIED_BYTES_MAX: usize = 32 << 20;

/// What is left of a ring when it was served.
pub(in crate::worker) enum Served {
    /// Nothing. The frontend was not asked to notify with its next request yet.
    Empty,
    /// Perhaps more: it is to be served again without an event, after everybody else had their turn.
    InPart,
    /// It is not to be served: not any more, or not until [`Vbd::may_take_again`].
    Stopped,
}

impl Vbd {
    /// Takes what is on the ring of a queue, at most a turn of requests.
    pub(in crate::worker) fn serve(
        &mut self,
        queue: usize,
        executor: &mut dyn Executor,
        reports: &mut Vec<Report>,
        clock: &mut RoundClock,
    ) -> Served {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        let collected = self.collect(queue, &mut arrivals);
        if !arrivals.is_empty() {
            self.begin(&mut arrivals, clock.now(), executor);
        }
        self.arrivals = arrivals;
        collected.unwrap_or_else(|error| {
            self.fault(&error, reports);
            Served::Stopped
        })
    }

    /// Whether a ring has something for [`Vbd::serve`], an error included.
    pub(in crate::worker) fn has_requests(&mut self, queue: usize) -> bool {
        self.ring(queue)
            .is_some_and(|ring| ring.pending().map_or(true, |count| count > 0))
    }

    /// Asks the frontend to notify with its next request, and looks once more: as [`Vbd::has_requests`].
    pub(in crate::worker) fn ask_for_notification(&mut self, queue: usize) -> bool {
        self.ring(queue)
            .is_some_and(|ring| ring.final_check_for_requests().unwrap_or(true))
    }

    /// The ring of a queue, as long as it is served.
    fn ring(&mut self, queue: usize) -> Option<&mut BackRing<RingMemory>> {
        let link = self.link.as_mut().filter(|link| !link.stopped)?;
        Some(&mut link.queues.get_mut(queue)?.ring)
    }

    /// Whether rings are to be served again that were left when too much was being copied.
    pub(in crate::worker) fn may_take_again(&mut self) -> bool {
        self.copied_bytes < COPIED_BYTES_MAX && std::mem::take(&mut self.throttled)
    }

    fn collect(&mut self, queue: usize, arrivals: &mut Vec<Arrival>) -> Result<Served, RingError> {
        let (mut requests, mut segments, mut bytes) = (0, 0, self.copied_bytes);
        loop {
            if requests == TURN_REQUESTS || segments >= TURN_SEGMENTS {
                return Ok(Served::InPart);
            }
            if bytes >= COPIED_BYTES_MAX {
                self.throttled = true;
                self.counts().throttles += 1;
                return Ok(Served::Stopped);
            }
            requests += 1;
            let Some((origin, slot)) = self.next_slot(queue)? else {
                let stopped = self.ring(queue).is_none();
                return Ok(if stopped {
                    Served::Stopped
                } else {
                    Served::Empty
                });
            };
            if let Some(arrival) = self.arrive(origin, &slot) {
                segments += arrival.segments.len();
                let of_segments = arrival.segments.iter();
                bytes += of_segments.map(blkif::Segment::byte_len).sum::<usize>();
                bytes += self.filled_up_bytes(&arrival.order);
                arrivals.push(arrival);
            }
        }
    }

    /// The next request: what an earlier process has left over, also if no more is taken from the ring, then what is there.
    fn next_slot(&mut self, queue: usize) -> Result<Option<(Origin, RawSlot)>, RingError> {
        if let Some(left_over) = self.left_over.pop_front() {
            return Ok(Some(left_over));
        }
        // Where nothing is taken any more there may be no journal either.
        if self.ring(queue).is_none() {
            return Ok(None);
        }
        // A frontend may make requests as soon as it sees responses in their slots, before they are published.
        if self.noted(|run_state| run_state.has_room(queue)) == Some(false) {
            self.publish();
        }
        let Some(ring) = self.ring(queue) else {
            return Ok(None);
        };
        Ok(ring.take()?.map(|slot| {
            // Before anything is done about it.
            let place = self.noted(|run_state| run_state.take(queue, &slot.0));
            (Origin { queue, place }, slot)
        }))
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

    /// A request was taken: it is valid, or answered.
    pub(super) fn arrive(&mut self, origin: Origin, slot: &RawSlot) -> Option<Arrival> {
        let link = self.link.as_ref()?;
        let request = Request::from_slot(slot, &link.limits)
            .map_err(|rejection| self.reject(origin, &rejection))
            .ok()?;
        let request = self.with_segments(origin, request)?;
        Arrival::of(origin, request)
    }

    /// An indirect request with its segments, every other one as it is; `None` if it was answered.
    fn with_segments(&mut self, origin: Origin, request: Request) -> Option<Request> {
        let Operation::Indirect(indirect) = &request.operation else {
            return Some(request);
        };
        let link = self.link.as_mut()?;
        match link.pages.descriptors(indirect) {
            Ok(descriptors) => indirect
                .with_descriptors(descriptors, &link.limits)
                .map_err(|rejection| self.reject(origin, &rejection))
                .ok(),
            Err(error) => {
                self.fail(
                    origin,
                    request.response(Status::Error),
                    &format!("its segments: {error}"),
                );
                None
            }
        }
    }

    fn reject(&mut self, origin: Origin, rejection: &Rejection) {
        self.counts().rejected += 1;
        if self.logged.insert(rejection.reason) {
            tracing::warn!(
                device = %self.device,
                "refused a request of the guest: {} (more of this kind are only counted)",
                rejection.reason
            );
        }
        self.respond(origin, rejection.response());
    }

    /// The data of a request cannot be had or given: it fails, the disk does not.
    pub(super) fn fail(&mut self, origin: Origin, response: Response, cause: &str) {
        self.counts().failed += 1;
        if !std::mem::replace(&mut self.logged_memory, true) {
            tracing::warn!(
                device = %self.device,
                "cannot reach the pages of a request: {cause} (more such requests are only counted)"
            );
        }
        let status = Status::Error;
        self.respond(origin, Response { status, ..response });
    }

    /// Fetches the data of requests, all together, and submits them in their order.
    fn begin(&mut self, arrivals: &mut Vec<Arrival>, taken: Instant, executor: &mut dyn Executor) {
        let Some(link) = &mut self.link else {
            return arrivals.clear();
        };
        let mut datas: Vec<_> = arrivals
            .iter()
            .map(|arrival| link.pages.data(arrival.order.direction, &arrival.segments))
            .collect();
        let results = link.pages.run_copies();
        for (arrival, data) in arrivals.drain(..).zip(datas.drain(..)) {
            let fetched = data.map_err(|error| error.to_string()).and_then(|data| {
                if let Exchange::ByGrant(places) = &data.exchange {
                    results.of(places.clone())?;
                }
                Ok(data)
            });
            match fetched {
                Ok(data) => self.submit(&arrival, data, taken, executor),
                Err(cause) => self.fail(arrival.origin, arrival.response, &cause),
            }
        }
    }

    /// Bytes of the blocks that a write fills up with what the base has, at most two.
    fn filled_up_bytes(&self, order: &Order) -> usize {
        let written = match order.request {
            engine::Request::Write(range) | engine::Request::Barrier(range) => Some(range),
            _ => order.then,
        };
        let bytes = written.map_or(0, |range| self.disk.engine().filled_up_by_write(range));
        usize::try_from(bytes).expect("two blocks fit into memory")
    }

    fn submit(
        &mut self,
        arrival: &Arrival,
        data: GuestData,
        taken: Instant,
        executor: &mut dyn Executor,
    ) {
        let GuestData { buffer, exchange } = data;
        let is_copied = !matches!(exchange, Exchange::InPlace) || self.disk.copies(&buffer);
        let copied_bytes =
            if is_copied { buffer.len() } else { 0 } + self.filled_up_bytes(&arrival.order);
        self.copied_bytes += copied_bytes;
        let (now, then) = match arrival.order.then {
            Some(range) => (Buffer::empty(), Some((range, buffer))),
            None => (buffer, None),
        };
        let token = self.requests.insert(InFlight {
            origin: arrival.origin,
            taken,
            response: arrival.response,
            then,
            copied_bytes,
            destination: match exchange {
                Exchange::Later(destination) => Some(destination),
                _ => None,
            },
        });
        let token = Token(token as u64);
        self.disk
            .submit(executor, token, arrival.order.request, now);
    }
}
