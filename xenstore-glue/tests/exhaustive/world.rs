//! One device, everything that can happen around it, and the rules that it must keep.

use std::fmt::Debug;
use std::hash::Hash;

use xenstore_glue::machine::{
    Action, BackendSeen, DetachPolicy, Event, FrontendSeen, HotplugStatus, Machine, Observation,
};
use xenstore_glue::{DiskProperties, XenbusState as State};

pub(crate) const DISK: DiskProperties = DiskProperties {
    sectors: 2048,
    sector_size: 512,
    physical_sector_size: 4096,
    read_only: false,
    removable: false,
    cdrom: false,
    discard_granularity: 0,
};

pub(crate) const STATES: [State; 9] = [
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

/// One for all failures: the machine does not look at it.
const REASON: &str = "reason";

/// The machine, or a broken one.
pub(crate) trait Subject: Clone + Eq + Hash + Debug {
    fn start(policy: DetachPolicy, found: Observation) -> (Self, Vec<Action>);
    fn handle(&mut self, event: Event) -> Vec<Action>;
}

impl Subject for Machine {
    fn start(policy: DetachPolicy, found: Observation) -> (Self, Vec<Action>) {
        Machine::new(policy, found)
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        Machine::handle(self, event)
    }
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Frontend(FrontendSeen),
    /// The frontend went away and came back to the same state before anybody looked.
    OtherRings,
    Online(bool),
    Hotplug(HotplugStatus),
    /// Somebody writes the backend's state who should not.
    Meddle(State),
    /// libxl destroys the domain: everything at once.
    Destroy,
    RemoveDirectory,
    /// The directory is made again, before anybody noticed that it was gone or after.
    MakeDirectory,
    Add,
    Remove,
    Retry,
    Succeed,
    Fail,
    Fault,
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    Open,
    Connect,
    Disconnect,
    Close,
}

/// How much of the closing handshake is still to come after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd)]
enum Handshake {
    Done,
    ClosingSeen,
    NotBegun,
}

/// The machine with its surroundings. The `bool`s are what is true, whatever the machine believes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World<S> {
    machine: S,
    pub(crate) node: Option<BackendSeen>,
    pub(crate) frontend: FrontendSeen,
    frontend_was_there: bool,
    order: Option<Order>,
    pub(crate) image: bool,
    pub(crate) link: bool,
    /// What is held belongs to an earlier device of this name.
    stale: bool,
    features: bool,
    disk: bool,
    wrote_state: bool,
    handshake: Handshake,
    removed: bool,
    add_waiting: bool,
    remove_waiting: bool,
    pub(crate) shutdown: bool,
    pub(crate) finished: bool,
    pub(crate) forgotten: bool,
    write_failed: bool,
}

type Checked = Result<(), String>;

fn rule(holds: bool, what: &str) -> Checked {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl<S: Subject> World<S> {
    pub(crate) fn start(
        policy: DetachPolicy,
        node: BackendSeen,
        frontend: FrontendSeen,
    ) -> Result<Self, String> {
        let found = Observation {
            backend: Some(node),
            frontend,
            rings_changed: false,
        };
        let (machine, actions) = S::start(policy, found);
        let mut world = Self {
            machine,
            node: Some(node),
            frontend,
            frontend_was_there: node.state != State::Initialising || frontend != FrontendSeen::Gone,
            order: None,
            image: false,
            link: false,
            stale: false,
            features: false,
            disk: false,
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
            finished: false,
            forgotten: false,
            write_failed: false,
        };
        world.perform(actions, true)?;
        Ok(world)
    }

    /// Everything that can happen here.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = STATES
            .into_iter()
            .map(|state| Step::Frontend(FrontendSeen::from_state(state)))
            .collect();
        steps.extend([State::InitWait, State::Closing, State::Closed].map(Step::Meddle));
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
        steps
    }

    /// Lets it happen; with `writes_work` false, every xenstore write that follows fails. Says whether
    /// there was any.
    pub(crate) fn take(&mut self, step: Step, writes_work: bool) -> Result<bool, String> {
        let event = self.change(step);
        // The frontend sees states 5 and 6, whoever wrote them.
        let progress = match self.node.map(|node| node.state) {
            Some(State::Closed) => Handshake::Done,
            Some(State::Closing) => Handshake::ClosingSeen,
            _ => Handshake::NotBegun,
        };
        if progress < self.handshake {
            self.handshake = progress;
        }
        self.stale &= self.image || self.link || self.order.is_some();
        let wrote = self.feed(event, writes_work)?;
        self.check_rest(step)?;
        Ok(wrote)
    }

    fn change(&mut self, step: Step) -> Event {
        match step {
            Step::Frontend(state) => self.frontend = state,
            Step::OtherRings => {}
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
            Step::Add => {
                self.add_waiting = true;
                self.removed &= self.remove_waiting;
                return Event::HotplugAdd;
            }
            Step::Remove => {
                self.remove_waiting = true;
                self.removed = true;
                return Event::HotplugRemove;
            }
            Step::Retry => return Event::Retry,
            Step::Succeed => return self.succeed(),
            Step::Fail => return self.fail(),
            Step::Fault => {
                self.break_handshake();
                return Event::Fault {
                    reason: REASON.into(),
                };
            }
            Step::Shutdown => {
                self.shutdown = true;
                return Event::Shutdown;
            }
        }
        self.frontend_was_there |= self.frontend != FrontendSeen::Gone;
        Event::Observed(self.look(step == Step::OtherRings))
    }

    fn look(&self, rings_changed: bool) -> Observation {
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
                Event::Opened(DISK)
            }
            Order::Connect => {
                self.link = true;
                self.disk = false;
                Event::Connected
            }
            Order::Disconnect => {
                self.link = false;
                Event::Disconnected
            }
            Order::Close => {
                self.image = false;
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
                self.break_handshake();
                Event::ConnectFailed { reason }
            }
            _ => self.succeed(),
        }
    }

    fn break_handshake(&mut self) {
        if !self.stale {
            self.handshake = Handshake::NotBegun;
        }
    }

    fn feed(&mut self, event: Event, writes_work: bool) -> Result<bool, String> {
        if self.forgotten {
            return Ok(false);
        }
        self.write_failed &= !matches!(event, Event::Retry | Event::HotplugAdd);
        let actions = self.machine.handle(event);
        self.perform(actions, writes_work)
    }

    /// Does what the machine wants, and tells it how its writes went, until it wants no more.
    fn perform(&mut self, mut actions: Vec<Action>, writes_work: bool) -> Result<bool, String> {
        for round in 0..10 {
            let writes = actions.iter().any(Action::is_publication);
            for action in actions.drain(..) {
                if action.is_publication() && !writes_work {
                    break;
                }
                self.perform_one(&action)
                    .map_err(|broken| format!("{action:?}: {broken}"))?;
            }
            actions = match (writes, writes_work) {
                (false, _) => return Ok(round > 0),
                (true, true) => self.machine.handle(Event::Written),
                (true, false) => {
                    self.write_failed = true;
                    self.machine.handle(Event::WriteFailed {
                        reason: REASON.into(),
                        seen: self.look(false),
                    })
                }
            };
        }
        Err("writes without end".into())
    }

    fn perform_one(&mut self, action: &Action) -> Checked {
        rule(!self.finished && !self.forgotten, "action after the end")?;
        if action.is_publication() {
            rule(self.node.is_some(), "writes into a removed directory")?;
            rule(!self.shutdown, "writes during shutdown")?;
        }
        if action.is_order() {
            rule(self.order.is_none(), "two orders at once")?;
        }
        match action {
            Action::PublishFeatures => self.features = true,
            Action::PublishDisk(disk) => {
                rule(*disk == DISK, "another disk")?;
                self.disk = true;
            }
            Action::SetState(state) => return self.set_state(*state),
            Action::RecordError(_) => {}
            Action::Open => {
                rule(!self.image, "opened twice")?;
                rule(!self.shutdown && self.node.is_some(), "opened for nobody")?;
                self.order = Some(Order::Open);
            }
            Action::Connect { adopt } => return self.connect(*adopt),
            Action::Disconnect { handover } => {
                rule(self.link, "disconnected while not connected")?;
                rule(!handover || self.shutdown, "handed over while running")?;
                self.order = Some(Order::Disconnect);
            }
            Action::Close { handover } => {
                rule(self.image && !self.link, "closed while connected or closed")?;
                rule(!handover || self.shutdown, "handed over while running")?;
                self.order = Some(Order::Close);
            }
            Action::AnswerAdd(answer) => {
                rule(self.add_waiting, "answered an add that nobody asked")?;
                rule(
                    answer.is_err() || self.image,
                    "add is done, image is closed",
                )?;
                self.add_waiting = false;
            }
            Action::AnswerRemove => {
                rule(self.remove_waiting, "answered a remove that nobody asked")?;
                rule(
                    !self.image && self.order.is_none(),
                    "removed, image is open",
                )?;
                self.remove_waiting = false;
                self.removed &= !self.add_waiting;
            }
            Action::Forget | Action::Finished => {
                rule(
                    !self.image && !self.link && self.order.is_none(),
                    "ended while holding something",
                )?;
                rule(!self.add_waiting && !self.remove_waiting, "left unanswered")?;
                self.forgotten |= *action == Action::Forget;
                self.finished |= *action == Action::Finished;
            }
        }
        Ok(())
    }

    fn connect(&mut self, adopt: bool) -> Checked {
        let node = self.node.ok_or("connected without a directory")?;
        rule(
            self.image && !self.link,
            "connected without image, or twice",
        )?;
        rule(
            node.hotplug == HotplugStatus::Connected,
            "connected before hotplug",
        )?;
        rule(
            self.handshake == Handshake::Done,
            "connected again without the closing handshake",
        )?;
        rule(!self.shutdown, "connected during shutdown")?;
        if adopt {
            rule(!self.wrote_state, "adopted what it had written itself")?;
            rule(
                self.frontend == FrontendSeen::State(State::Connected),
                "adopted a frontend that was not connected",
            )?;
        } else {
            rule(
                node.online && !self.removed && node.state == State::InitWait && self.features,
                "connected before the features were published",
            )?;
            rule(
                [State::Initialised, State::Connected]
                    .map(FrontendSeen::State)
                    .contains(&self.frontend),
                "connected to a frontend that is not ready",
            )?;
        }
        self.order = Some(Order::Connect);
        Ok(())
    }

    fn set_state(&mut self, state: State) -> Checked {
        let node = self.node.as_mut().ok_or("no directory")?;
        rule(node.state != state, "needless write")?;
        match state {
            State::InitWait => {
                rule(self.features, "state 2 before the features")?;
                rule(!self.link, "state 2 while connected")?;
                rule(self.handshake == Handshake::Done, "state 2 before state 6")?;
            }
            State::Connected => rule(
                self.link && self.image && self.disk,
                "state 4 without link, image and disk properties",
            )?,
            State::Closing => {
                rule(!self.link, "state 5 while connected")?;
                self.handshake = match self.handshake {
                    Handshake::NotBegun => Handshake::ClosingSeen,
                    other => other,
                };
            }
            State::Closed => {
                rule(!self.link, "state 6 while connected")?;
                let over = !node.online || self.removed || self.frontend == FrontendSeen::Gone;
                rule(
                    !over || !self.image && self.order.is_none(),
                    "state 6 while the image is open",
                )?;
                let has_closed = over
                    || [State::Closed, State::Initialising]
                        .map(FrontendSeen::State)
                        .contains(&self.frontend);
                rule(
                    has_closed && (over || self.handshake != Handshake::NotBegun),
                    "state 6 before the frontend closed",
                )?;
                self.handshake = Handshake::Done;
            }
            _ => return Err("a state that backends do not write".into()),
        }
        node.state = state;
        self.wrote_state = true;
        if state != State::InitWait && state != State::Connected {
            self.features = false;
        }
        Ok(())
    }

    /// With nothing outstanding, the backend must have answered what it sees.
    fn check_rest(&self, after: Step) -> Checked {
        if self.order.is_some() || self.shutdown || self.forgotten || self.write_failed {
            return Ok(());
        }
        let Some(node) = self.node else {
            return Err(format!("{after:?}: not forgotten"));
        };
        let FrontendSeen::State(frontend) = self.frontend else {
            return rule(
                node.state == State::Closed || node.online && !self.frontend_was_there,
                "the frontend is gone and the backend is not closed",
            );
        };
        rule(
            !self.add_waiting && !self.remove_waiting,
            "hotplug was not answered",
        )?;
        if self.link {
            return rule(self.image, "connected without an image");
        }
        let live = matches!(frontend, State::Connected);
        if !node.online || self.removed {
            return rule(
                node.state == State::Closed || live && !self.wrote_state,
                "not closed although it is to be removed",
            );
        }
        match frontend {
            State::Initialising => rule(node.state == State::InitWait, "not waiting in state 2"),
            State::Closed => rule(node.state == State::Closed, "did not follow to state 6"),
            State::Closing => rule(
                matches!(node.state, State::Closing | State::Closed),
                "did not follow to state 5",
            ),
            _ => rule(node.state != State::Initialising, "stays in state 1"),
        }
    }

    /// The daemon answers whatever it is asked, until it is asked nothing more.
    pub(crate) fn settle(&mut self, answer: Step) -> Checked {
        for _ in 0..20 {
            if self.order.is_none() {
                return Ok(());
            }
            self.take(answer, true)?;
        }
        Err("orders without end".into())
    }

    /// What the driver in Linux would do next, seeing the backend's state.
    pub(crate) fn cooperative_frontend(&self) -> State {
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
