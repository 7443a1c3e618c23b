//! Machines that are broken on purpose, to see that the exploration finds each of them out.
//!
//! They break the real machine from outside: by what they keep from it, or by what they make of its
//! actions.

use xenstore_glue::XenbusState as State;
use xenstore_glue::machine::{
    Action, DetachPolicy, Event, FrontendSeen, HotplugStatus, Machine, Observation,
};

use crate::explore::explore;
use crate::world::{DISK, Subject};

const DEAF_WHILE_BUSY: u8 = 0;
const CLOSED_TOO_EARLY: u8 = 1;
const NO_FEATURES: u8 = 2;
const NO_DISK_PROPERTIES: u8 = 3;
const DEAF_TO_FAULTS: u8 = 4;
const DOES_NOT_WAIT_FOR_HOTPLUG: u8 = 5;
const ALWAYS_ONLINE: u8 = 6;
const NEVER_MISSES_THE_FRONTEND: u8 = 7;
const DEAF_TO_SHUTDOWN: u8 = 8;
const OPENS_WHAT_DOES_NOT_OPEN: u8 = 9;
const ADOPTS_EVERYBODY: u8 = 10;
const NEVER_ANSWERS_ADD: u8 = 11;
const STATES_BEFORE_FEATURES: u8 = 12;
const DISCONNECTS_LATE: u8 = 13;
const DEAF_TO_OTHER_RINGS: u8 = 14;
const MISSES_A_NEW_START: u8 = 15;
const KEEPS_THE_SIZE_TO_ITSELF: u8 = 16;
const DOES_NOT_LOOK_WHAT_WAS_TOLD: u8 = 17;
const TELLS_BY_THE_SIZE_ALONE: u8 = 18;
const WRITES_OVER_A_WISH: u8 = 19;

pub(crate) fn all_are_found_out() {
    is_found_out::<DEAF_WHILE_BUSY>("deaf while busy");
    is_found_out::<CLOSED_TOO_EARLY>("state 6 before the image is closed");
    is_found_out::<NO_FEATURES>("publishes no features");
    is_found_out::<NO_DISK_PROPERTIES>("publishes no disk properties");
    is_found_out::<DEAF_TO_FAULTS>("deaf to faults");
    is_found_out::<DOES_NOT_WAIT_FOR_HOTPLUG>("does not wait for hotplug");
    is_found_out::<ALWAYS_ONLINE>("does not see online=0");
    is_found_out::<NEVER_MISSES_THE_FRONTEND>("does not see that the frontend is gone");
    is_found_out::<DEAF_TO_SHUTDOWN>("deaf to shutdown");
    is_found_out::<OPENS_WHAT_DOES_NOT_OPEN>("takes a failed open for a success");
    is_found_out::<ADOPTS_EVERYBODY>("adopts everybody");
    is_found_out::<NEVER_ANSWERS_ADD>("never answers an add");
    is_found_out::<STATES_BEFORE_FEATURES>("state 2 before the features");
    is_found_out::<DISCONNECTS_LATE>("state before disconnecting");
    is_found_out::<DEAF_TO_OTHER_RINGS>("does not see other rings");
    is_found_out::<MISSES_A_NEW_START>("does not see a connected frontend start again");
    is_found_out::<KEEPS_THE_SIZE_TO_ITSELF>("does not tell of a new size");
    is_found_out::<DOES_NOT_LOOK_WHAT_WAS_TOLD>("tells an adopted frontend what it knows");
    is_found_out::<TELLS_BY_THE_SIZE_ALONE>("publishes a new size without state 4");
    is_found_out::<WRITES_OVER_A_WISH>("leaves a state 4 where the toolstack wrote 5");
}

fn is_found_out<const BREAK: u8>(what: &str) {
    match explore::<Mutant<BREAK>>(DetachPolicy::WhenGuestAgrees) {
        Err(broken) => println!("{what}: {}", broken.lines().next().unwrap_or_default()),
        Ok(found) => panic!("{what}: not found out in {} states", found.states),
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Mutant<const BREAK: u8> {
    machine: Machine,
    busy: bool,
}

impl<const BREAK: u8> Subject for Mutant<BREAK> {
    fn start(
        policy: DetachPolicy,
        found: Observation,
        found_sectors: Option<u64>,
    ) -> (Self, Vec<Action>) {
        let found_sectors = found_sectors.filter(|_| BREAK != DOES_NOT_LOOK_WHAT_WAS_TOLD);
        let (machine, actions) = Machine::new(policy, Self::blinded(found), found_sectors);
        let busy = actions.iter().any(Action::is_order);
        let mutant = Self { machine, busy };
        (mutant, Self::garbled(actions))
    }

    fn ignores(&mut self, event: Event) -> bool {
        let before = self.machine.clone();
        self.handle(event).is_empty() && self.machine == before
    }

    fn handle(&mut self, event: Event) -> Vec<Action> {
        let Some(event) = self.garbled_event(event) else {
            return Vec::new();
        };
        let is_resize = matches!(event, Event::Resized(_));
        let mut actions = self.machine.handle(event);
        if BREAK == WRITES_OVER_A_WISH && self.machine.is_connected() {
            actions.retain(|action| *action != Action::SetState(State::Closing));
        }
        if BREAK == TELLS_BY_THE_SIZE_ALONE && is_resize {
            actions.retain(|action| !matches!(action, Action::SetState(_)));
        }
        self.busy |= actions.iter().any(Action::is_order);
        Self::garbled(actions)
    }
}

impl<const BREAK: u8> Mutant<BREAK> {
    fn garbled_event(&mut self, event: Event) -> Option<Event> {
        let is_answer = matches!(
            event,
            Event::Opened(_)
                | Event::OpenFailed { .. }
                | Event::Connected
                | Event::ConnectFailed { .. }
                | Event::Disconnected
                | Event::Closed
        );
        self.busy &= !is_answer;
        match event {
            Event::Observed(_) if BREAK == DEAF_WHILE_BUSY && self.busy => None,
            Event::Observed(mut seen) => {
                let again = seen.frontend == FrontendSeen::State(State::Initialised);
                if BREAK == MISSES_A_NEW_START && again && self.machine.is_connected() {
                    seen.frontend = FrontendSeen::State(State::Connected);
                }
                Some(Event::Observed(Self::blinded(seen)))
            }
            Event::Fault { .. } if BREAK == DEAF_TO_FAULTS => None,
            Event::Resized(_) if BREAK == KEEPS_THE_SIZE_TO_ITSELF => None,
            Event::Shutdown if BREAK == DEAF_TO_SHUTDOWN => None,
            Event::OpenFailed { .. } if BREAK == OPENS_WHAT_DOES_NOT_OPEN => {
                Some(Event::Opened(DISK))
            }
            other => Some(other),
        }
    }

    fn blinded(mut seen: Observation) -> Observation {
        if let Some(backend) = &mut seen.backend {
            if BREAK == DOES_NOT_WAIT_FOR_HOTPLUG {
                backend.hotplug = HotplugStatus::Connected;
            }
            backend.online |= BREAK == ALWAYS_ONLINE;
        }
        seen.rings_changed &= BREAK != DEAF_TO_OTHER_RINGS;
        if BREAK == NEVER_MISSES_THE_FRONTEND && seen.frontend == FrontendSeen::Gone {
            seen.frontend = FrontendSeen::State(State::Connected);
        }
        seen
    }

    fn garbled(mut actions: Vec<Action>) -> Vec<Action> {
        let position = |wanted: fn(&Action) -> bool| actions.iter().position(wanted);
        let closes = position(|action| matches!(action, Action::Close { handover: false }));
        let disconnects =
            position(|action| matches!(action, Action::Disconnect { handover: false }));
        match BREAK {
            CLOSED_TOO_EARLY if closes.is_some() => actions.push(Action::SetState(State::Closed)),
            DISCONNECTS_LATE if disconnects.is_some() => {
                actions.insert(0, Action::SetState(State::Closing));
            }
            NO_FEATURES => actions.retain(|action| *action != Action::PublishFeatures),
            NO_DISK_PROPERTIES => {
                actions.retain(|action| !matches!(action, Action::PublishDisk(_)));
            }
            NEVER_ANSWERS_ADD => actions.retain(|action| !matches!(action, Action::AnswerAdd(_))),
            STATES_BEFORE_FEATURES => actions.reverse(),
            ADOPTS_EVERYBODY => {
                for action in &mut actions {
                    if let Action::Connect { adopt } = action {
                        *adopt = true;
                    }
                }
            }
            _ => {}
        }
        actions
    }
}
