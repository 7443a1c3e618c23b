//! The rules: what follows from what is known.
//!
//! In order of precedence: answer the hotplug script, wait for an outstanding order, let go of
//! rings and image that may not be held any more, forget or finish, write what is due to xenstore,
//! and only then open and connect.

use super::{
    Action, BackendSeen, DetachPolicy, FrontendSeen, HotplugStatus, Machine, Pending, Shutdown,
};
use crate::types::XenbusState as State;

impl Machine {
    /// Everything that can be done now.
    pub(super) fn advance(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        while self.step(&mut actions) {}
        actions
    }

    /// Does one thing; says whether there may be more.
    fn step(&mut self, actions: &mut Vec<Action>) -> bool {
        if let Some(answer) = self.answer_for_hotplug() {
            actions.push(answer);
            return true;
        }
        if self.pending.is_some() || self.forgotten {
            return false;
        }
        if let Some(release) = self.release() {
            actions.push(release);
            return false;
        }
        // Whatever an earlier device of this name had is gone by now.
        self.stale = false;
        let Some(seen) = self.backend else {
            self.forgotten = true;
            actions.push(Action::Forget);
            return false;
        };
        if self.shutdown != Shutdown::No {
            if self.shutdown == Shutdown::Asked {
                self.shutdown = Shutdown::Reported;
                actions.push(Action::Finished);
            }
            return false;
        }
        if seen.state == State::Closed && self.frontend_has_closed() {
            self.broken = None;
        }
        if self.write_failure.is_none()
            && let Some(target) = self.due_state(seen)
        {
            self.go_to(seen, target, actions);
            return false;
        }
        if let Some(order) = self.acquire(seen) {
            actions.push(order);
        }
        false
    }

    pub(super) fn online(&self) -> bool {
        !self.removed && self.backend.is_some_and(|seen| seen.online)
    }

    fn frontend_is_gone(&self) -> bool {
        self.frontend == FrontendSeen::Gone && self.frontend_was_there
    }

    fn hotplug_connected(&self) -> bool {
        self.backend
            .is_some_and(|seen| seen.hotplug == HotplugStatus::Connected)
    }

    /// The device may keep a live guest although the toolstack wants it back.
    fn patient(&self) -> bool {
        !self.removed && self.policy == DetachPolicy::WhenGuestAgrees
    }

    // Hotplug.

    fn answer_for_hotplug(&mut self) -> Option<Action> {
        if self.add_waiting
            && let Some(answer) = self.answer_to_add()
        {
            self.add_waiting = false;
            self.wanted &= answer.is_ok();
            return Some(Action::AnswerAdd(answer));
        }
        let image_is_closed = self.image.is_none() && self.pending.is_none();
        if self.remove_waiting && image_is_closed {
            self.remove_waiting = false;
            self.removed &= !self.add_waiting;
            return Some(Action::AnswerRemove);
        }
        None
    }

    /// `None` while the answer depends on something that is still to come.
    fn answer_to_add(&self) -> Option<Result<(), String>> {
        if self.shutdown != Shutdown::No {
            return Some(Err("the daemon is shutting down".into()));
        }
        if self.backend.is_none() {
            return Some(Err("the device has been removed from xenstore".into()));
        }
        if self.remove_waiting {
            return None;
        }
        if !self.online() {
            return Some(Err("the device is being removed".into()));
        }
        if self.frontend_is_gone() {
            return Some(Err("the frontend is gone".into()));
        }
        if self.stale || self.pending == Some(Pending::Close) {
            return None;
        }
        if self.image.is_some() {
            return Some(Ok(()));
        }
        self.open_failure.clone().map(Err)
    }

    // Letting go.

    fn release(&mut self) -> Option<Action> {
        let leaving = self.shutdown != Shutdown::No || self.lending;
        if self.linked {
            let may_stay = self.may_stay_linked();
            if may_stay && !leaving {
                return None;
            }
            self.pending = Some(Pending::Disconnect);
            self.handed_over = may_stay;
            return Some(Action::Disconnect { handover: may_stay });
        }
        if self.image.is_some() {
            let may_stay = self.image_may_stay();
            if may_stay && !leaving {
                return None;
            }
            self.pending = Some(Pending::Close);
            self.wanted = self.add_waiting;
            return Some(Action::Close {
                handover: leaving && (may_stay || self.handed_over),
            });
        }
        None
    }

    fn may_stay_linked(&self) -> bool {
        let frontend_stays = match self.frontend {
            FrontendSeen::Gone => false,
            FrontendSeen::State(state) => match state {
                State::Connected | State::Reconfiguring | State::Reconfigured => true,
                // It has not got further yet, or it has been there and started again.
                State::Initialised => !self.peer_connected,
                _ => false,
            },
        };
        self.backend.is_some()
            && !self.stale
            && !self.removed
            && self.broken.is_none()
            && !self.rings_changed
            && frontend_stays
            && (self.online() || self.patient())
    }

    fn image_may_stay(&self) -> bool {
        self.backend.is_some()
            && !self.stale
            && !self.removed
            && !self.frontend_is_gone()
            && (self.online() || self.linked || self.adoptable_while_detaching())
    }

    // States.

    /// The state that the backend must go to now, if it is not there.
    fn due_state(&self, seen: BackendSeen) -> Option<State> {
        let target = if self.linked {
            // 5 and 6 are somebody else's wish; the frontend will react to it, and so shall we.
            let wished_away = matches!(seen.state, State::Closing | State::Closed);
            if self.online() {
                (!wished_away).then_some(State::Connected)
            } else {
                // Toolstacks write 5 together with `online`; a state 4 of ours has gone over it.
                (seen.state == State::Connected).then_some(State::Closing)
            }
        } else if !self.online() || self.frontend_is_gone() {
            (!self.adoptable_while_detaching()).then_some(State::Closed)
        } else if seen.state == State::Initialising {
            Some(State::InitWait)
        } else if self.broken.is_some() {
            Some(self.closing_handshake(seen.state))
        } else {
            self.answer_to_frontend(seen.state)
        };
        let target = target?;
        let is_told = match target {
            State::InitWait => self.published,
            // Another size, from a resize of this process or of the one before it.
            State::Connected => self.told_sectors == self.image.map(|disk| disk.sectors),
            _ => true,
        };
        (target != seen.state || !is_told).then_some(target)
    }

    /// After an error: 5, until the frontend has closed; then 6.
    fn closing_handshake(&self, state: State) -> State {
        let closing = matches!(state, State::Closing | State::Closed);
        if closing && self.frontend_has_closed() {
            State::Closed
        } else {
            State::Closing
        }
    }

    /// It is closed, or gone, or so new that it never was anything else.
    fn frontend_has_closed(&self) -> bool {
        match self.frontend {
            FrontendSeen::Gone => true,
            FrontendSeen::State(state) => matches!(state, State::Closed | State::Initialising),
        }
    }

    /// What an unconnected backend answers to each state of the frontend.
    fn answer_to_frontend(&self, state: State) -> Option<State> {
        let FrontendSeen::State(frontend) = self.frontend else {
            // It never was there, or it would be gone; be ready for it.
            return Some(State::InitWait);
        };
        match frontend {
            State::Closing => (state != State::Closed).then_some(State::Closing),
            State::Closed => Some(State::Closed),
            State::Initialising | State::InitWait => Some(State::InitWait),
            // A frontend served by an earlier process must not notice that there is a new one.
            State::Connected if self.inherited && state == State::Connected => None,
            State::Initialised | State::Connected => Some(State::InitWait),
            // Nothing that a vbd frontend does; let it find its way.
            State::Reconfiguring | State::Reconfigured | State::Unknown => {
                (state == State::InitWait).then_some(State::InitWait)
            }
        }
    }

    fn go_to(&mut self, seen: BackendSeen, target: State, actions: &mut Vec<Action>) {
        let mut sectors = None;
        match target {
            // Windows reads the features at state 2, Linux mostly at 4.
            State::InitWait => actions.push(Action::PublishFeatures),
            State::Connected => {
                actions.extend(self.image.map(Action::PublishDisk));
                sectors = self.image.map(|disk| disk.sectors);
            }
            _ => {}
        }
        // State 4 once more is how a connected frontend is told to look at the size again (Linux's blkfront does).
        if target != seen.state || target == State::Connected {
            actions.push(Action::SetState(target));
        }
        self.pending = Some(Pending::Write(target, sectors));
    }

    // Taking hold.

    fn acquire(&mut self, seen: BackendSeen) -> Option<Action> {
        if self.image.is_none() {
            return self.may_open().then(|| {
                self.pending = Some(Pending::Open);
                Action::Open
            });
        }
        if !self.linked && self.may_connect(seen) {
            self.pending = Some(Pending::Connect);
            self.peer_connected = self.frontend.is(State::Connected);
            self.rings_changed = false;
            return Some(Action::Connect {
                adopt: self.inherited,
            });
        }
        None
    }

    fn may_open(&self) -> bool {
        let asked_for = self.wanted || self.hotplug_connected();
        self.open_failure.is_none()
            && !self.frontend_is_gone()
            && (self.online() && asked_for || self.adoptable_while_detaching())
    }

    fn may_connect(&self, seen: BackendSeen) -> bool {
        let FrontendSeen::State(frontend) = self.frontend else {
            return false;
        };
        let ready = match seen.state {
            State::InitWait => {
                self.published && matches!(frontend, State::Initialised | State::Connected)
            }
            State::Connected => self.inherited,
            _ => false,
        };
        // With something broken, the device is on its way through 5 and 6, and not ready.
        self.write_failure.is_none()
            && self.hotplug_connected()
            && (self.online() && ready || self.adoptable_while_detaching())
    }

    /// An earlier process was serving a guest that has been asked to give the disk back, and the
    /// guest has not done so yet: it may be about to write what it has.
    fn adoptable_while_detaching(&self) -> bool {
        let detaching = self.backend.is_some_and(|seen| {
            !seen.online && matches!(seen.state, State::Connected | State::Closing)
        });
        detaching
            && self.inherited
            && self.patient()
            && self.broken.is_none()
            && self.open_failure.is_none()
            && self.hotplug_connected()
            && self.frontend.is(State::Connected)
    }
}
