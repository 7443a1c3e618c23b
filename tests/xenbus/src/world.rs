//! One device and everything that can happen around it.

use std::fmt::Debug;
use std::hash::Hash;

use xenstore_glue::machine::{
    Action, BackendSeen, DetachPolicy, Event, FrontendSeen, HotplugStatus, Machine, Observation,
};
use xenstore_glue::{DiskProperties, XenbusState as State};

use crate::Checked;
use crate::step::{REASON, Step, Stray, Writes};

/// A disk like any other.
pub const DISK: DiskProperties = DiskProperties {
    sectors: 2048,
    sector_size: 512,
    physical_sector_size: 4096,
    read_only: false,
    removable: false,
    cdrom: false,
    discard_granularity: 0,
};

/// Size of a disk that has grown, in sectors.
const GROWN_SECTORS: u64 = 4096;

/// All of them.
pub const STATES: [State; 9] = [
    State::Unknown,
    State::Initialising,
    State::InitWait,
    State::Initialised,
    State::Connected,
    State::Closing,
    State::Closed,
    State::Reconfiguring,
    State::Reconfigured,
];

/// The machine, or a broken one.
pub trait Subject: Clone + Eq + Hash + Debug {
    /// See [`Machine::new`].
    fn start(
        policy: DetachPolicy,
        found: Observation,
        found_sectors: Option<u64>,
    ) -> (Self, Vec<Action>);

    /// See [`Machine::handle`].
    fn handle(&mut self, event: Event) -> Vec<Action>;

    /// Handles an event that means nothing now. Returns whether that changes nothing.
    fn ignores(&mut self, event: Event) -> bool {
        let before = self.clone();
        self.handle(event).is_empty() && *self == before
    }
}

impl Subject for Machine {
    fn start(
        policy: DetachPolicy,
        found: Observation,
        found_sectors: Option<u64>,
    ) -> (Self, Vec<Action>) {
        Machine::new(policy, found, found_sectors)
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        Machine::handle(self, event)
    }
}

/// What the daemon was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Order {
    Open,
    Connect,
    Disconnect,
    Close,
}

/// How much of the closing handshake is still to come after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub(crate) enum Handshake {
    Done,
    ClosingSeen,
    NotBegun,
}

/// The machine with its surroundings. The `bool`s are what is true, whatever the machine believes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World<S> {
    machine: S,
    pub(crate) policy: DetachPolicy,
    pub(crate) node: Option<BackendSeen>,
    pub(crate) frontend: FrontendSeen,
    pub(crate) frontend_was_there: bool,
    pub(crate) order: Option<Order>,
    /// What the daemon has opened, or will open next.
    pub(crate) properties: DiskProperties,
    pub(crate) image: bool,
    pub(crate) link: bool,
    /// The frontend has broken the protocol of the link's rings, or has others by now.
    pub(crate) spoiled: bool,
    /// The frontend has been in state 4 since this link was ordered.
    pub(crate) peer_connected: bool,
    /// What is held belongs to an earlier device of this name.
    stale: bool,
    pub(crate) features: bool,
    /// The size that was published since it was connected, in sectors.
    pub(crate) disk: Option<u64>,
    /// The size that went with the backend's last state 4, if that is known.
    pub(crate) told_sectors: Option<u64>,
    pub(crate) wrote_state: bool,
    pub(crate) handshake: Handshake,
    pub(crate) removed: bool,
    pub(crate) add_waiting: bool,
    pub(crate) remove_waiting: bool,
    pub(crate) shutdown: bool,
    /// The image is wanted by another device of the same guest.
    pub(crate) lending: bool,
    /// Its link was let go of for that, and the frontend was not told.
    pub(crate) lent_link: bool,
    pub(crate) finished: bool,
    pub(crate) forgotten: bool,
    pub(crate) write_failed: bool,
}

impl<S: Subject> World<S> {
    /// A device that is found, with what its `sectors` node says.
    ///
    /// # Errors
    /// If what the machine does about it breaks a rule.
    pub fn start(
        policy: DetachPolicy,
        node: BackendSeen,
        frontend: FrontendSeen,
        sectors: Option<u64>,
    ) -> Result<Self, String> {
        let found = Observation {
            backend: Some(node),
            frontend,
            rings_changed: false,
        };
        let (machine, actions) = S::start(policy, found, sectors);
        let mut world = Self {
            machine,
            policy,
            node: Some(node),
            frontend,
            frontend_was_there: node.state != State::Initialising || frontend != FrontendSeen::Gone,
            order: None,
            properties: DISK,
            image: false,
            link: false,
            spoiled: false,
            peer_connected: false,
            stale: false,
            features: false,
            disk: None,
            told_sectors: sectors,
            wrote_state: false,
            handshake: if node.state == State::Closing && node.online {
                Handshake::ClosingSeen
            } else {
                Handshake::Done
            },
            removed: false,
            add_waiting: false,
            remove_waiting: false,
            shutdown: false,
            lending: false,
            lent_link: false,
            finished: false,
            forgotten: false,
            write_failed: false,
        };
        world.perform(actions, Writes::Work)?;
        Ok(world)
    }

    /// The machine in the middle of it.
    pub fn machine(&self) -> &S {
        &self.machine
    }

    /// The backend's nodes, if they are there.
    pub fn node(&self) -> Option<BackendSeen> {
        self.node
    }

    /// The frontend's state.
    pub fn frontend(&self) -> FrontendSeen {
        self.frontend
    }

    /// Whether the image is open, and whether the rings are connected.
    pub fn holds(&self) -> (bool, bool) {
        (self.image, self.link)
    }

    /// What the frontend was told of the disk's size, in sectors; `None` if nothing, or if that is not known.
    pub fn told_sectors(&self) -> Option<u64> {
        self.told_sectors
    }

    /// The device is gone, or was left to the next daemon: nothing more can happen.
    pub fn is_over(&self) -> bool {
        self.forgotten || self.finished
    }

    /// What the next image to be opened is like. Has no effect while one is open.
    pub fn will_open(&mut self, properties: DiskProperties) {
        if !self.image {
            self.properties = properties;
        }
    }

    /// Everything that can happen here.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = STATES
            .into_iter()
            .map(|state| Step::Frontend(FrontendSeen::from_state(state)))
            .collect();
        let meddled = [
            State::InitWait,
            State::Connected,
            State::Closing,
            State::Closed,
        ];
        steps.extend(meddled.map(Step::Meddle));
        steps.extend([true, false].map(Step::Online));
        steps.extend([HotplugStatus::Error, HotplugStatus::Connected].map(Step::Hotplug));
        steps.extend([
            Step::OtherRings,
            Step::Destroy,
            Step::RemoveDirectory,
            Step::MakeDirectory,
            Step::Add,
            Step::Remove,
            Step::Retry,
            Step::Shutdown,
        ]);
        if self.order.is_some() {
            steps.extend([Step::Succeed, Step::Fail]);
        }
        if self.link {
            steps.push(Step::Fault);
        }
        if self.image && !self.lending {
            steps.push(Step::Lend);
        }
        if self.image && self.properties.sectors != GROWN_SECTORS {
            steps.push(Step::Resize);
        }
        let strays = Stray::ALL.into_iter().filter(|stray| self.is_stray(*stray));
        steps.extend(strays.map(Step::Stray));
        steps
    }

    /// Whether nobody has reason to say this now.
    fn is_stray(&self, answer: Stray) -> bool {
        match answer {
            Stray::Opened | Stray::OpenFailed => self.order != Some(Order::Open),
            Stray::Connected | Stray::ConnectFailed => self.order != Some(Order::Connect),
            Stray::Disconnected => self.order != Some(Order::Disconnect),
            Stray::Closed => self.order != Some(Order::Close),
            // Writes are done as soon as they are asked for.
            Stray::Written => true,
            Stray::Fault => !self.link,
            Stray::Resized => !self.image,
        }
    }

    /// Lets it happen. Says whether anything was to be written to xenstore.
    ///
    /// # Errors
    /// If a rule is broken.
    ///
    /// # Panics
    /// If it cannot happen here, see [`Self::steps`].
    pub fn take(&mut self, step: Step, writes: Writes) -> Result<bool, String> {
        if let Step::Stray(stray) = step {
            let is_ignored = self.machine.ignores(stray.event());
            return if is_ignored {
                Ok(false)
            } else {
                Err(format!("{stray:?}: acted upon an answer to nothing"))
            };
        }
        let event = self.change(step);
        self.stale &= self.image || self.link || self.order.is_some();
        let wrote = self.feed(event, writes)?;
        self.check_rest(step)?;
        Ok(wrote)
    }

    /// Lets this happen before anybody looks: a change of the frontend's state, of `online` or `hotplug-status`, or the end
    /// of the domain. To be followed by such a step with [`Self::take`].
    ///
    /// # Panics
    /// If it is something else.
    pub fn take_unseen(&mut self, step: Step) {
        assert!(
            matches!(
                step,
                Step::Frontend(_) | Step::Online(_) | Step::Hotplug(_) | Step::Destroy
            ),
            "{step:?} is told or always seen"
        );
        self.alter(step);
        self.note_progress();
    }

    fn change(&mut self, step: Step) -> Event {
        let event = match step {
            Step::Add => {
                self.add_waiting = true;
                self.removed &= self.remove_waiting;
                Event::HotplugAdd
            }
            Step::Remove => {
                self.remove_waiting = true;
                self.removed = true;
                Event::HotplugRemove
            }
            Step::Retry => Event::Retry,
            Step::Resize => {
                self.properties.sectors = GROWN_SECTORS;
                Event::Resized(self.properties)
            }
            Step::Succeed => self.succeed(),
            Step::Fail => self.fail(),
            Step::Fault => {
                self.spoiled = true;
                self.break_handshake();
                Event::Fault {
                    reason: REASON.into(),
                }
            }
            Step::Shutdown => {
                self.shutdown = true;
                Event::Shutdown
            }
            Step::Lend => {
                self.lending = true;
                Event::Lend
            }
            seen => {
                self.alter(seen);
                Event::Observed(self.look(seen == Step::OtherRings))
            }
        };
        self.note_progress();
        event
    }

    /// Changes something in xenstore.
    fn alter(&mut self, step: Step) {
        match step {
            Step::Frontend(state) => self.frontend = state,
            Step::Online(online) => self.set_online(online),
            Step::Hotplug(status) => {
                if let Some(node) = &mut self.node {
                    node.hotplug = status;
                }
            }
            Step::Meddle(state) => self.meddle(state),
            Step::Destroy => {
                self.set_online(false);
                self.frontend = FrontendSeen::Gone;
            }
            Step::RemoveDirectory => self.node = None,
            Step::MakeDirectory => self.make_directory(),
            _ => {}
        }
    }

    /// The frontend sees states 5 and 6, whoever wrote them.
    fn note_progress(&mut self) {
        let progress = match self.node.map(|node| node.state) {
            Some(State::Closed) => Handshake::Done,
            Some(State::Closing) => Handshake::ClosingSeen,
            _ => Handshake::NotBegun,
        };
        if progress < self.handshake {
            self.handshake = progress;
        }
    }

    fn is_linking(&self) -> bool {
        self.link || self.order == Some(Order::Connect)
    }

    fn look(&mut self, rings_changed: bool) -> Observation {
        self.frontend_was_there |= self.frontend != FrontendSeen::Gone;
        if self.is_linking() {
            self.spoiled |= rings_changed;
            self.peer_connected |= self.frontend == FrontendSeen::State(State::Connected);
        }
        Observation {
            backend: self.node,
            frontend: self.frontend,
            rings_changed,
        }
    }

    fn set_online(&mut self, online: bool) {
        if let Some(node) = &mut self.node {
            node.online = online;
            // libxl writes both in one transaction.
            if !online && node.state != State::Closed {
                node.state = State::Closing;
            }
        }
    }

    fn meddle(&mut self, state: State) {
        let Some(node) = &mut self.node else { return };
        if state == State::Initialising {
            // Nobody but a toolstack that makes a device writes this.
            return self.make_directory();
        }
        if node.state != state {
            node.state = state;
            self.features = false;
        }
    }

    fn make_directory(&mut self) {
        let unseen_until_now = self
            .node
            .is_some_and(|node| node.state == State::Initialising);
        self.node = Some(BackendSeen {
            state: State::Initialising,
            online: true,
            hotplug: HotplugStatus::Error,
        });
        self.features = false;
        self.told_sectors = None;
        if !unseen_until_now {
            self.removed = false;
            self.stale = self.image || self.link || self.order.is_some();
            self.wrote_state = false;
            self.frontend_was_there = false;
            self.handshake = Handshake::Done;
        }
    }

    fn succeed(&mut self) -> Event {
        match self.order.take().expect("an order is outstanding") {
            Order::Open => {
                self.image = true;
                Event::Opened(self.properties)
            }
            Order::Connect => {
                self.link = true;
                self.disk = None;
                Event::Connected
            }
            Order::Disconnect => {
                self.link = false;
                self.unlinked();
                Event::Disconnected
            }
            Order::Close => {
                self.image = false;
                self.properties = DISK;
                if std::mem::take(&mut self.lending) {
                    // The next link goes on where this one stopped, as one of another process would.
                    self.wrote_state &= !std::mem::take(&mut self.lent_link);
                }
                Event::Closed
            }
        }
    }

    /// Letting go cannot fail.
    fn fail(&mut self) -> Event {
        let reason = REASON.to_owned();
        match self.order {
            Some(Order::Open) => {
                self.order = None;
                Event::OpenFailed { reason }
            }
            Some(Order::Connect) => {
                self.order = None;
                self.unlinked();
                self.break_handshake();
                Event::ConnectFailed { reason }
            }
            _ => self.succeed(),
        }
    }

    fn unlinked(&mut self) {
        self.spoiled = false;
        self.peer_connected = false;
    }

    fn break_handshake(&mut self) {
        if !self.stale {
            self.handshake = Handshake::NotBegun;
        }
    }

    fn feed(&mut self, event: Event, writes: Writes) -> Result<bool, String> {
        if self.forgotten {
            return Ok(false);
        }
        self.write_failed &= !matches!(event, Event::Retry | Event::HotplugAdd);
        let actions = self.machine.handle(event);
        self.perform(actions, writes)
    }

    /// Does what the machine wants, and tells it how its writes went, until it wants no more.
    fn perform(&mut self, mut actions: Vec<Action>, writes: Writes) -> Result<bool, String> {
        let mut left = match writes {
            Writes::Work => u8::MAX,
            Writes::FailAfter(count) => count,
        };
        for round in 0..10 {
            let writes = actions.iter().any(Action::is_publication);
            let mut failed = false;
            for action in actions {
                if action.is_publication() {
                    failed = left == 0;
                    if failed {
                        // What of it the frontend has seen is not known.
                        self.told_sectors = None;
                        break;
                    }
                    left -= 1;
                }
                self.perform_one(&action)
                    .map_err(|broken| format!("{action:?}: {broken}"))?;
            }
            let event = match (writes, failed) {
                (false, _) => return Ok(round > 0),
                (true, false) => Event::Written,
                (true, true) => {
                    self.write_failed = true;
                    Event::WriteFailed {
                        reason: REASON.into(),
                        seen: self.look(false),
                    }
                }
            };
            actions = self.machine.handle(event);
        }
        Err("writes without end".into())
    }

    /// The daemon answers whatever it is asked, until it is asked nothing more.
    ///
    /// # Errors
    /// If a rule is broken, or there is no end to it.
    pub fn settle(&mut self, answer: Step) -> Checked {
        for _ in 0..20 {
            if self.order.is_none() {
                return Ok(());
            }
            self.take(answer, Writes::Work)?;
        }
        Err("orders without end".into())
    }

    /// What the driver in Linux would do next, seeing the backend's state.
    pub fn cooperative_frontend(&self) -> State {
        let backend = self.node.map_or(State::Unknown, |node| node.state);
        let FrontendSeen::State(frontend) = self.frontend else {
            return State::Initialising;
        };
        match (frontend, backend) {
            (State::Initialising, State::InitWait) => State::Initialised,
            (State::Initialised, State::Connected) => State::Connected,
            (State::Initialised | State::Connected, State::Closing) => State::Closing,
            (State::Initialised | State::Connected, State::Closed) => State::Initialising,
            (State::Closing, _) => State::Closed,
            (State::Closed, State::Closed) => State::Initialising,
            (State::InitWait | State::Reconfiguring | State::Reconfigured, _) => {
                State::Initialising
            }
            (other, _) => other,
        }
    }
}
