//! The xenbus state machine of one vbd backend, as a pure function of events to actions.
//!
//! It is level-triggered: an event only updates what is known, and after every event [`Machine`]
//! asks itself, from everything that is known now, what to do next. An event that comes while the
//! daemon is still busy with an order is therefore never lost, and a state that was missed because
//! two changes came at once does no harm. At most one order is outstanding at any time.
//!
//! The rules are in `rules.rs`, the vocabulary in `events.rs`.

mod events;
mod rules;

pub use events::{
    Action, BackendSeen, DetachPolicy, Event, FrontendSeen, HotplugStatus, Observation,
};

use crate::types::{DiskProperties, XenbusState};

/// What has been asked for and not been answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Pending {
    /// Publications that end in this state, which tells the frontend of a disk of so many sectors.
    Write(XenbusState, Option<u64>),
    // Orders to the daemon.
    Open,
    Connect,
    Disconnect,
    Close,
}

/// Why a device that has lent its image does not open it.
const LENT: &str = "its image was lent to another device of the same guest";

/// How far a shutdown of the daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Shutdown {
    No,
    Asked,
    Reported,
}

/// The state of one device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    policy: DetachPolicy,

    // What is seen in xenstore.
    /// `None`: the backend directory is gone. Own writes to `state` are entered here when done.
    backend: Option<BackendSeen>,
    frontend: FrontendSeen,
    /// A frontend that was never there cannot be gone: toolstacks may write the backend first.
    frontend_was_there: bool,
    /// The frontend describes other rings than those connected.
    rings_changed: bool,

    // What the daemon holds.
    image: Option<DiskProperties>,
    linked: bool,
    /// The frontend has been in state 4 since this link began; if it is in 3 now, it started again.
    peer_connected: bool,
    pending: Option<Pending>,

    // What must be remembered because no node says it.
    /// This process has published the features of the present state 2.
    published: bool,
    /// The size of the disk, in sectors, that went with the present state 4: all that the frontend knows of.
    told_sectors: Option<u64>,
    /// The state was found, not written: an earlier process connected this frontend.
    inherited: bool,
    /// Link and image belong to an earlier device of the same name and must go first.
    stale: bool,
    /// Why the frontend must go through the closing handshake before it may connect again.
    broken: Option<String>,
    open_failure: Option<String>,
    write_failure: Option<String>,

    // What others have asked for.
    wanted: bool,
    removed: bool,
    add_waiting: bool,
    remove_waiting: bool,
    shutdown: Shutdown,
    lending: bool,
    handed_over: bool,
    forgotten: bool,
}

impl Machine {
    /// The machine of a device that has just been found, and what to do about it first. `found_sectors` is what its `sectors`
    /// node says: what an earlier process told the frontend, if that is connected.
    pub fn new(
        policy: DetachPolicy,
        found: Observation,
        found_sectors: Option<u64>,
    ) -> (Self, Vec<Action>) {
        let state = found
            .backend
            .map_or(XenbusState::Unknown, |seen| seen.state);
        let left_by_another = matches!(state, XenbusState::Connected | XenbusState::Closing);
        let mut machine = Self {
            policy,
            backend: found.backend,
            frontend: found.frontend,
            frontend_was_there: state != XenbusState::Initialising
                || found.frontend != FrontendSeen::Gone,
            rings_changed: false,
            image: None,
            linked: false,
            peer_connected: false,
            pending: None,
            published: false,
            told_sectors: found_sectors,
            inherited: left_by_another && found.frontend.is(XenbusState::Connected),
            stale: false,
            broken: None,
            open_failure: None,
            write_failure: None,
            wanted: false,
            removed: false,
            add_waiting: false,
            remove_waiting: false,
            shutdown: Shutdown::No,
            lending: false,
            handed_over: false,
            forgotten: false,
        };
        if state == XenbusState::Closing && machine.online() {
            machine.broken = Some("found in the middle of closing".into());
            machine.inherited = false;
        }
        let actions = machine.advance();
        (machine, actions)
    }

    /// Takes an event; returns what to do, in this order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Observed(now) => self.observe(now),
            Event::HotplugAdd => self.hotplug_add(),
            Event::HotplugRemove => self.hotplug_remove(&mut actions),
            Event::Retry => {
                self.open_failure = None;
                self.write_failure = None;
            }
            Event::WriteFailed { reason, seen } => {
                if matches!(self.pending, Some(Pending::Write(..))) {
                    self.pending = None;
                    // What of it the frontend has seen is not known.
                    self.told_sectors = None;
                }
                self.observe(seen);
                self.published = false;
                self.write_failure = Some(reason);
            }
            Event::Written => self.written(),
            Event::Shutdown => {
                if self.shutdown == Shutdown::No {
                    self.shutdown = Shutdown::Asked;
                }
            }
            // Without an image there is nothing to lend.
            Event::Lend => {
                self.lending = self.image.is_some() || self.pending == Some(Pending::Open);
            }
            Event::Resized(disk) => {
                if let Some(image) = &mut self.image {
                    *image = disk;
                }
            }
            Event::Fault { reason } => {
                if self.linked && self.broken.is_none() && !self.stale {
                    self.break_with(reason, &mut actions);
                }
            }
            answer => self.answered(answer, &mut actions),
        }
        actions.extend(self.advance());
        actions
    }

    /// The state in the backend directory, as last seen or written.
    pub fn backend_state(&self) -> XenbusState {
        self.backend.map_or(XenbusState::Unknown, |seen| seen.state)
    }

    /// The frontend's state, as last seen.
    pub fn frontend(&self) -> FrontendSeen {
        self.frontend
    }

    /// The daemon has opened the image and has not closed it since.
    pub fn image_is_open(&self) -> bool {
        self.image.is_some()
    }

    /// The daemon has connected the rings and has not disconnected them since.
    pub fn is_connected(&self) -> bool {
        self.linked
    }

    /// It was asked to lend its image and has not let go of it yet.
    pub fn is_lending(&self) -> bool {
        self.lending
    }

    /// What is wrong with the device, if anything.
    pub fn reason(&self) -> Option<&str> {
        let known = [&self.broken, &self.open_failure, &self.write_failure];
        known.into_iter().flatten().map(String::as_str).next()
    }

    /// Something failed that may succeed later: the owner should send [`Event::Retry`] in a while.
    pub fn wants_retry(&self) -> bool {
        let open_failed = self.open_failure.is_some()
            && self
                .backend
                .is_some_and(|seen| seen.hotplug == HotplugStatus::Connected);
        open_failed || self.write_failure.is_some()
    }

    fn observe(&mut self, now: Observation) {
        if now.backend != self.backend || now.frontend != self.frontend {
            self.write_failure = None;
        }
        self.observe_backend(now.backend);
        self.frontend = now.frontend;
        self.frontend_was_there |= now.frontend != FrontendSeen::Gone;
        let peer_is_connected = now.frontend.is(XenbusState::Connected);
        self.inherited &= peer_is_connected;
        if self.linked || self.pending == Some(Pending::Connect) {
            self.peer_connected |= peer_is_connected;
            self.rings_changed |= now.rings_changed;
        }
    }

    /// Only a toolstack writes state 1, and only into a device that it has just made; so seeing it
    /// tells of a new device even if the removal of the old one was never noticed.
    fn observe_backend(&mut self, now: Option<BackendSeen>) {
        let before = self.backend;
        self.backend = now;
        let Some(seen) = now else {
            self.published = false;
            return;
        };
        let made_anew = match before {
            None => true,
            Some(before) => {
                seen.state == XenbusState::Initialising && before.state != XenbusState::Initialising
            }
        };
        if made_anew {
            self.begin_anew();
        } else if before.is_some_and(|before| before.state != seen.state) {
            self.published = false;
        }
    }

    fn begin_anew(&mut self) {
        self.stale = self.linked || self.image.is_some() || self.pending.is_some();
        self.frontend_was_there = false;
        self.rings_changed = false;
        self.published = false;
        self.told_sectors = None;
        self.inherited = false;
        self.broken = None;
        self.open_failure = None;
        self.wanted = self.add_waiting;
        self.removed = false;
    }

    fn hotplug_add(&mut self) {
        self.add_waiting = true;
        self.wanted = true;
        // A remove that is still under way comes first.
        self.removed &= self.remove_waiting;
        self.open_failure = None;
        self.write_failure = None;
    }

    fn hotplug_remove(&mut self, actions: &mut Vec<Action>) {
        if std::mem::take(&mut self.add_waiting) {
            actions.push(Action::AnswerAdd(Err("the device is being removed".into())));
        }
        self.remove_waiting = true;
        self.wanted = false;
        self.removed = true;
    }

    /// The daemon's answer to the outstanding order; anything else is not an answer and is ignored.
    fn answered(&mut self, answer: Event, actions: &mut Vec<Action>) {
        match (self.pending, answer) {
            (Some(Pending::Open), Event::Opened(disk)) => self.image = Some(disk),
            // What happened to an earlier device of this name is not this one's fault.
            (Some(Pending::Open), Event::OpenFailed { .. }) if self.stale => {}
            (Some(Pending::Connect), Event::ConnectFailed { .. }) if self.stale => {}
            (Some(Pending::Open), Event::OpenFailed { reason }) => {
                actions.push(Action::RecordError(reason.clone()));
                self.open_failure = Some(reason);
                self.wanted = false;
                self.lending = false;
            }
            (Some(Pending::Connect), Event::Connected) => self.linked = true,
            (Some(Pending::Connect), Event::ConnectFailed { reason }) => {
                self.inherited = false;
                self.rings_changed = false;
                self.break_with(reason, actions);
            }
            (Some(Pending::Disconnect), Event::Disconnected) => {
                self.linked = false;
                self.inherited = false;
                self.rings_changed = false;
            }
            (Some(Pending::Close), Event::Closed) => self.closed(),
            _ => return,
        }
        self.pending = None;
    }

    fn closed(&mut self) {
        self.image = None;
        let was_lent = std::mem::take(&mut self.lending) && !self.stale;
        // Of this link, and not of one to come.
        let handed_over = std::mem::take(&mut self.handed_over);
        if was_lent && handed_over {
            // As if another process had served this frontend, which may be adopted again.
            let state = self.backend_state();
            let connected = XenbusState::Connected;
            self.inherited = state == connected && self.frontend.is(connected);
            self.open_failure = Some(LENT.into());
        }
    }

    /// The backend is in the state that it was to go to.
    fn written(&mut self) {
        let Some(Pending::Write(state, told_sectors)) = self.pending else {
            return;
        };
        let Some(seen) = &mut self.backend else {
            return;
        };
        seen.state = state;
        self.told_sectors = told_sectors;
        self.pending = None;
        self.inherited = false;
        self.published = matches!(state, XenbusState::InitWait | XenbusState::Connected);
    }

    fn break_with(&mut self, reason: String, actions: &mut Vec<Action>) {
        actions.push(Action::RecordError(reason.clone()));
        self.broken = Some(reason);
    }
}
