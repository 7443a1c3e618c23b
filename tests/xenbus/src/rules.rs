//! The rules: what each action must find, and what must have come of all of them.

use xenstore_glue::XenbusState as State;
use xenstore_glue::machine::{Action, DetachPolicy, FrontendSeen, HotplugStatus};

use crate::Checked;
use crate::step::Step;
use crate::world::{Handshake, Order, Subject, World};

fn rule(holds: bool, what: &str) -> Checked {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl<S: Subject> World<S> {
    pub(crate) fn perform_one(&mut self, action: &Action) -> Checked {
        rule(!self.finished && !self.forgotten, "action after the end")?;
        if action.is_publication() {
            rule(self.node.is_some(), "writes into a removed directory")?;
            rule(!self.shutdown, "writes during shutdown")?;
        }
        if action.is_order() {
            rule(self.order.is_none(), "two orders at once")?;
        }
        match action {
            Action::PublishFeatures => {
                self.features = true;
                self.told_sectors = None;
            }
            Action::PublishDisk(disk) => {
                rule(*disk == self.properties, "another disk")?;
                self.disk = Some(disk.sectors);
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
                let leaving = self.shutdown || self.lending;
                rule(!handover || leaving, "handed over while running")?;
                self.lent_link = *handover && self.lending;
                self.order = Some(Order::Disconnect);
            }
            Action::Close { handover } => {
                rule(self.image && !self.link, "closed while connected or closed")?;
                let leaving = self.shutdown || self.lending;
                rule(!handover || leaving, "handed over while running")?;
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
        self.peer_connected = self.frontend == FrontendSeen::State(State::Connected);
        Ok(())
    }

    fn set_state(&mut self, state: State) -> Checked {
        let node = self.node.as_mut().ok_or("no directory")?;
        let sectors = Some(self.properties.sectors);
        let is_news = state == State::Connected && self.told_sectors != sectors;
        rule(node.state != state || is_news, "needless write")?;
        match state {
            State::InitWait => {
                rule(self.features, "state 2 before the features")?;
                rule(!self.link, "state 2 while connected")?;
                rule(self.handshake == Handshake::Done, "state 2 before state 6")?;
            }
            State::Connected => rule(
                self.link && self.image && self.disk == sectors,
                "state 4 without link, image and disk properties",
            )?,
            State::Closing => {
                // A toolstack has written it that took the device offline; it may have been written over.
                let is_repeated = !node.online && node.state == State::Connected;
                rule(!self.link || is_repeated, "state 5 while connected")?;
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
        self.told_sectors = sectors.filter(|_| state == State::Connected);
        self.wrote_state = true;
        if state != State::InitWait && state != State::Connected {
            self.features = false;
        }
        Ok(())
    }

    /// With nothing outstanding, the backend must have answered what it sees.
    pub(crate) fn check_rest(&self, after: Step) -> Checked {
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
            rule(
                node.state != State::Connected || node.online,
                "the guest was not asked to give the disk back",
            )?;
            rule(
                node.state != State::Connected
                    || !node.online
                    || self.removed
                    || self.told_sectors == Some(self.properties.sectors),
                "the frontend was not told of the disk's size",
            )?;
            return self.check_link(frontend, node.online);
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

    /// What is connected is to stay so.
    fn check_link(&self, frontend: State, online: bool) -> Checked {
        rule(self.image, "connected without an image")?;
        rule(!self.spoiled, "still connected to rings that are no good")?;
        let is_there = match frontend {
            State::Connected | State::Reconfiguring | State::Reconfigured => true,
            State::Initialised => !self.peer_connected,
            _ => false,
        };
        rule(
            is_there,
            "still connected to a frontend that closed or started again",
        )?;
        let may_wait = self.policy == DetachPolicy::WhenGuestAgrees;
        rule(
            !self.removed && (online || may_wait),
            "still connected although it is to be removed",
        )
    }
}
