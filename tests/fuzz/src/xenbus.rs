//! The xenbus machine of one device, through many lives; and what a frontend writes into its directory.
//!
//! The world around the machine and the rules are those that the crate `xenbus` walks through completely. Here it goes on
//! for as long as the bytes last: with daemons that are stopped or killed and follow each other, devices that are made
//! again, several changes before anybody looks, states that nobody should write, and images of different sizes.

use xenbus::{DISK, STATES, Step, World, Writes, ends_well};
use xenstore_glue::machine::{BackendSeen, DetachPolicy, FrontendSeen, HotplugStatus, Machine};
use xenstore_glue::{DiskProperties, XenbusState as State};

use crate::frontend_nodes::frontend_nodes;
use crate::script::Script;

const HOTPLUG: [HotplugStatus; 3] = [
    HotplugStatus::None,
    HotplugStatus::Connected,
    HotplugStatus::Error,
];

/// Lets things happen around a device, or lets a frontend describe its rings.
///
/// # Panics
/// If the machine breaks a rule, or a device gets stuck; if a description is taken that has not the right shape, or a right
/// one is refused.
pub fn xenbus(data: &[u8]) {
    let mut script = Script::new(data);
    if script.byte() % 4 == 3 {
        frontend_nodes(&mut script);
    } else {
        Lives::of_script(&mut script).run(&mut script);
    }
}

/// A device, served by one daemon after the other.
struct Lives {
    policy: DetachPolicy,
    world: World<Machine>,
    traced: bool,
}

impl Lives {
    fn of_script(script: &mut Script<'_>) -> Self {
        let policy = if script.one_in(3) {
            DetachPolicy::AtOnce
        } else {
            DetachPolicy::WhenGuestAgrees
        };
        let traced = std::env::var_os("FUZZ_TRACE").is_some();
        let (node, frontend) = device(script);
        Self {
            policy,
            world: found(policy, node, frontend, None),
            traced,
        }
    }

    fn run(mut self, script: &mut Script<'_>) {
        while !script.is_over() {
            let is_killed = script.one_in(64);
            if self.world.is_over() || is_killed {
                self.next_daemon(script);
            } else {
                self.step(script);
            }
            if script.one_in(32) {
                self.check_end();
            }
        }
        self.check_end();
    }

    /// Another process finds what there is, or a device that was just made.
    fn next_daemon(&mut self, script: &mut Script<'_>) {
        let (node, frontend) = match self.world.node() {
            Some(node) => (node, self.world.frontend()),
            None => device(script),
        };
        let told = self.world.told_sectors();
        self.trace(format_args!("found: {node:?}, {frontend:?}, {told:?}"));
        self.world = found(self.policy, node, frontend, told);
    }

    fn step(&mut self, script: &mut Script<'_>) {
        let step = if script.one_in(4) {
            self.unseen(script)
        } else {
            self.any(script)
        };
        let writes = match script.byte() {
            kind @ 208.. => Writes::FailAfter(kind % 3),
            _ => Writes::Work,
        };
        if step == Step::Succeed {
            self.world.will_open(disk(script));
        }
        self.trace(format_args!("{step:?}, writes: {writes:?}"));
        if let Err(broken) = self.world.take(step, writes) {
            panic!("{step:?}: {broken}\n{:?}", self.world);
        }
        self.check_state();
    }

    fn any(&self, script: &mut Script<'_>) -> Step {
        match script.byte() % 16 {
            0 => Step::Meddle(STATES[script.index(STATES.len())]),
            1 => Step::Hotplug(HOTPLUG[script.index(3)]),
            // What usually follows.
            2..=5 => Step::Frontend(FrontendSeen::State(self.world.cooperative_frontend())),
            6..=8 if self.world.steps().contains(&Step::Succeed) => Step::Succeed,
            _ => {
                let steps = self.world.steps();
                steps[script.index(steps.len())]
            }
        }
    }

    /// Some changes that nobody looks at; the last one is for the world to take.
    fn unseen(&mut self, script: &mut Script<'_>) -> Step {
        let mut change = || match script.byte() % 8 {
            0 => Step::Destroy,
            1 => Step::Online(true),
            2 => Step::Online(false),
            3 => Step::Hotplug(HOTPLUG[script.index(3)]),
            _ => Step::Frontend(FrontendSeen::from_state(STATES[script.index(STATES.len())])),
        };
        let (first, second, last) = (change(), change(), change());
        for unseen in [first, second] {
            self.trace(format_args!("unseen: {unseen:?}"));
            self.world.take_unseen(unseen);
        }
        last
    }

    fn trace(&self, what: std::fmt::Arguments<'_>) {
        if self.traced {
            eprintln!("{what}");
        }
    }

    /// What the machine tells about itself is true.
    fn check_state(&self) {
        let machine = self.world.machine();
        let (image, link) = self.world.holds();
        assert_eq!(machine.image_is_open(), image);
        assert_eq!(machine.is_connected(), link);
        if let Some(node) = self.world.node() {
            assert_eq!(machine.backend_state(), node.state);
            assert_eq!(machine.frontend(), self.world.frontend());
        }
        if machine.wants_retry() {
            assert!(machine.reason().is_some(), "tries again for no reason");
        }
    }

    fn check_end(&self) {
        if !self.world.is_over()
            && let Err(broken) = ends_well(&self.world)
        {
            panic!("{broken}\n{:?}", self.world);
        }
    }
}

fn found(
    policy: DetachPolicy,
    node: BackendSeen,
    frontend: FrontendSeen,
    told_sectors: Option<u64>,
) -> World<Machine> {
    match World::start(policy, node, frontend, told_sectors) {
        Ok(world) => world,
        Err(broken) => panic!("found as {node:?}, {frontend:?}: {broken}"),
    }
}

/// Mostly one that was just made.
fn device(script: &mut Script<'_>) -> (BackendSeen, FrontendSeen) {
    let [state, frontend] = [script.byte(), script.byte()].map(|decision| match decision {
        0..=127 => State::Initialising,
        other => STATES[usize::from(other) % STATES.len()],
    });
    let node = BackendSeen {
        state,
        online: !script.one_in(4),
        hotplug: HOTPLUG[script.index(3)],
    };
    (node, FrontendSeen::from_state(frontend))
}

fn disk(script: &mut Script<'_>) -> DiskProperties {
    DiskProperties {
        sectors: script.byte().into(),
        ..DISK
    }
}
