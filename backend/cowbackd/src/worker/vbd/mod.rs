//! A virtual block device: an image, and the frontend that uses it, if one is connected.
//!
//! A request goes through `take` (off the ring, into the journal, validated, its data fetched), the disk, and `answer`
//! (its data given to the guest, the response put on the ring). `resume` does what an earlier process has left over.

mod answer;
mod emulated;
mod grow;
mod in_flight;
mod resume;
mod take;
mod waiting;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use blkif::{RawSlot, Reason};
use blockio::disk::Disk;
use blockio::executor::Executor;
use control_api::{OnEnospc, Policies, Statistics};
use dscow::engine::{Errno, OnNoSpace, Token};
use nbd_server::Clients;
use runstate::RunState;
use rustc_hash::FxHashSet;
use slab::Slab;
use xenstore_glue::runner::Report;
use xenstore_glue::{DeviceId, DiskProperties};

pub(super) use self::emulated::offer;
use self::grow::Growing;
use self::in_flight::{Arrival, InFlight, Origin};
pub(super) use self::take::Served;
use super::link::Link;
use super::message::{Belongings, FailedConnects};
use crate::inheritance::Loan;
use crate::xentop::StatisticsFile;

/// Token of the opening of the image. Requests' tokens are small numbers.
const OPEN: Token = Token(u64::MAX);
/// Token of its closing.
const CLOSE: Token = Token(u64::MAX - 1);
/// Token of its growing.
const GROW: Token = Token(u64::MAX - 2);

/// How many upkeeps are between two releases of pages that were not used: what was not used for that long, and twice as long
/// at most, is unmapped.
const UPKEEPS_PER_RELEASE: u32 = 30;

/// A virtual block device.
pub(super) struct Vbd {
    device: DeviceId,
    disk: Disk,
    properties: DiskProperties,
    pub(super) link: Option<Link>,
    /// To be given back, if its guest has not come.
    loans: Vec<Loan>,
    /// QEMU, for a guest that does not use its own driver yet.
    clients: Option<Clients>,
    requests: Slab<InFlight>,
    /// Requests that an earlier process had taken and not answered.
    left_over: VecDeque<(Origin, RawSlot)>,
    /// Scratch space, kept to save allocations.
    arrivals: Vec<Arrival>,
    /// Bytes that the requests under way take beside the guest's pages.
    copied_bytes: usize,
    /// A ring has more than was taken, because the requests under way took too much memory.
    throttled: bool,
    upkeeps: u32,
    statistics: Statistics,
    /// The file may not say what was counted.
    counted: bool,
    statistics_file: Option<StatisticsFile>,
    /// Outlives this process; shared with the disk, which notes there what it allocates.
    run_state: Option<Rc<RefCell<RunState>>>,
    /// Connections that failed since the disk was attached.
    pub(super) failed_connects: FailedConnects,
    /// The kinds of refusals that were logged already: a guest must not fill the log, however often it connects.
    logged: FxHashSet<Reason>,
    /// It was logged that pages of a request cannot be reached.
    logged_memory: bool,
    /// A disconnection was asked for and waits for the requests that were taken.
    disconnecting: bool,
    /// Nobody waits for space on behalf of its requests: the guest is gone, or has waited long enough.
    abandoned: bool,
    /// The disk is being made larger.
    growing: Option<Growing>,
    /// The image is to be closed.
    closing: bool,
    /// It is being closed: it has grown, and no client uses it any more.
    closing_image: bool,
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

impl Vbd {
    pub(super) fn new(
        device: DeviceId,
        mut disk: Disk,
        properties: DiskProperties,
        clients: Option<Clients>,
        belongings: Belongings,
    ) -> Self {
        let Belongings {
            run_state,
            failed_connects,
            statistics_file,
            loans,
        } = belongings;
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
            statistics_file,
            loans,
            clients,
            requests: Slab::new(),
            left_over: VecDeque::new(),
            arrivals: Vec::new(),
            copied_bytes: 0,
            throttled: false,
            upkeeps: 0,
            statistics: Statistics::default(),
            counted: true,
            failed_connects,
            logged: FxHashSet::default(),
            logged_memory: false,
            disconnecting: false,
            abandoned: false,
            growing: None,
            closing: false,
            closing_image: false,
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
    /// help, or writes wait for space, or pages are kept mapped.
    pub(super) fn needs_upkeep(&self) -> bool {
        let engine = self.disk.engine();
        let uncommitted = engine.has_uncommitted_bits() && engine.failure().is_none();
        let keeps_pages = self
            .link
            .as_ref()
            .is_some_and(|link| link.pages.kept_count() > 0);
        let clients_wait = self
            .clients
            .as_ref()
            .is_some_and(|clients| clients.next_tick().is_some());
        let to_show = self.counted && self.statistics_file.is_some();
        to_show
            || uncommitted
            || engine.stalled() > 0
            || self.reported_waiting
            || keeps_pages
            || clients_wait
    }

    /// Does what is due about once a second.
    pub(super) fn upkeep(&mut self, executor: &mut dyn Executor) {
        self.space_is_back = self.disk.engine().stalled() == 0;
        self.disk.commit_idle(executor);
        if self.counted
            && let Some(file) = &mut self.statistics_file
        {
            self.counted = !file.update(&self.statistics);
        }
        if let Some(clients) = &mut self.clients {
            clients.tick(executor);
        }
        if !self.is_done_waiting() {
            self.disk.retry_stalled(executor);
        }
        self.upkeeps += 1;
        if self.upkeeps.is_multiple_of(UPKEEPS_PER_RELEASE)
            && let Some(link) = &mut self.link
        {
            link.pages.release_unused();
        }
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

    /// Commits and closes the image, unless something of it is left to the next daemon. It waits until nobody else uses it.
    pub(super) fn close(&mut self, handover: bool, executor: &mut dyn Executor) {
        self.closing = true;
        self.handover = handover;
        if let Some(clients) = &mut self.clients {
            clients.see_off(executor);
        }
    }

    /// Closes the image if that is due; whether it was.
    fn close_image_if_free(&mut self, executor: &mut dyn Executor) -> bool {
        let is_free = self.growing.is_none() && !self.has_clients();
        let is_due = self.closing && is_free && !self.closing_image && !self.left_behind;
        if is_due {
            self.closing_image = true;
            self.noted(RunState::note_closing);
            self.disk.close(executor, CLOSE);
        }
        is_due
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

    /// Changes how the disk is served from now on.
    pub(super) fn set_policies(
        &mut self,
        policies: Policies,
        executor: &mut dyn Executor,
    ) -> Statistics {
        if let Some(detect_zeroes) = policies.detect_zeroes {
            self.disk.set_detect_zeroes(detect_zeroes);
        }
        if let Some(on_enospc) = policies.on_enospc {
            let on_no_space = match on_enospc {
                OnEnospc::Pause => OnNoSpace::Pause,
                OnEnospc::Report => OnNoSpace::Report,
            };
            self.disk.set_on_no_space(on_no_space, executor);
        }
        self.statistics()
    }

    pub(super) fn statistics(&self) -> Statistics {
        let engine = self.disk.engine();
        let layout = engine.layout();
        let clients = self.clients.as_ref();
        Statistics {
            on_enospc: match engine.on_no_space() {
                OnNoSpace::Pause => OnEnospc::Pause,
                OnNoSpace::Report => OnEnospc::Report,
            },
            detect_zeroes: self.disk.detects_zeroes(),
            virtual_size_bytes: layout.virtual_size(),
            allocated_bytes: engine.allocated_blocks() << layout.block_size().shift(),
            copy_ups: engine.stats().copy_ups,
            commits: engine.stats().commits,
            kept_pages: self
                .link
                .as_ref()
                .map_or(0, |link| link.pages.kept_count() as u64),
            in_flight: self.requests.len() as u64,
            waiting_for_space: engine.stalled() as u64,
            space_waits: engine.stats().stalls,
            emulated_clients: clients.map_or(0, |clients| clients.count() as u64),
            emulated_requests: clients.map_or(0, |clients| clients.statistics().requests),
            ..self.statistics.clone()
        }
    }

    /// The counts, to add to them.
    fn counts(&mut self) -> &mut Statistics {
        self.counted = true;
        &mut self.statistics
    }

    /// Whether the link can be taken down: it is stopped for good and nothing of it is in use.
    pub(super) fn may_unlink(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.stopped) && self.is_idle()
    }

    /// Whether no request is under way.
    fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.left_over.is_empty()
    }

    /// Nothing more is to be done about it.
    fn end(&mut self, reports: &mut Vec<Report>) {
        self.closed = true;
        reports.push(Report::Closed {
            device: self.device,
        });
    }

    /// Notes something in the run state, if there is one.
    fn noted<R>(&self, note: impl FnOnce(&mut RunState) -> R) -> Option<R> {
        let run_state = self.run_state.as_ref()?;
        Some(note(&mut run_state.borrow_mut()))
    }
}

fn describe(errno: Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.0)
}
