//! Breadth-first through all worlds, remembering how each was reached.

use indexmap::IndexSet;
use rustc_hash::FxBuildHasher;
use xenstore_glue::XenbusState as State;
use xenstore_glue::machine::{BackendSeen, DetachPolicy, FrontendSeen, HotplugStatus};

use crate::Checked;
use crate::step::{Step, Writes};
use crate::world::{DISK, STATES, Subject, World};

/// What a walk has seen.
pub struct Found {
    /// Different worlds.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
}

/// Walks through everything reachable from every way in which a device can be found.
///
/// # Errors
/// The shortest way to a broken rule.
pub fn explore<S: Subject>(policy: DetachPolicy) -> Result<Found, String> {
    let mut explorer = Explorer::new();
    for (node, frontend, sectors) in ways_to_be_found() {
        let world = World::<S>::start(policy, node, frontend, sectors).map_err(|broken| {
            format!("{broken}\nfound as {node:?}, {frontend:?}, sectors: {sectors:?}")
        })?;
        explorer.add(world, None);
    }
    explorer.run()
}

fn ways_to_be_found() -> Vec<(BackendSeen, FrontendSeen, Option<u64>)> {
    let mut ways = Vec::new();
    for state in STATES {
        for frontend in STATES.map(FrontendSeen::from_state) {
            for online in [true, false] {
                for hotplug in [HotplugStatus::Error, HotplugStatus::Connected] {
                    let node = BackendSeen {
                        state,
                        online,
                        hotplug,
                    };
                    ways.extend(sizes_told(state).iter().map(|told| (node, frontend, *told)));
                }
            }
        }
    }
    ways
}

/// What an earlier process told the frontend of the disk's size: nothing, what is true, or what was true before it was
/// killed.
fn sizes_told(state: State) -> &'static [Option<u64>] {
    match state {
        State::Connected => &[None, Some(DISK.sectors), Some(DISK.sectors / 2)],
        _ => &[None],
    }
}

/// How a world was reached: from which, and by what.
type Origin = Option<(usize, Step, Writes)>;

struct Explorer<S> {
    /// In the order in which they were reached, which is that in which they are gone on from.
    worlds: IndexSet<World<S>, FxBuildHasher>,
    /// Of each world.
    origins: Vec<Origin>,
    steps: usize,
}

impl<S: Subject> Explorer<S> {
    fn new() -> Self {
        Self {
            worlds: IndexSet::default(),
            origins: Vec::new(),
            steps: 0,
        }
    }

    fn add(&mut self, world: World<S>, origin: Origin) {
        if self.worlds.insert(world) {
            self.origins.push(origin);
        }
    }

    fn run(mut self) -> Result<Found, String> {
        for number in 0.. {
            let Some(world) = self.worlds.get_index(number).cloned() else {
                break;
            };
            if world.forgotten || world.finished {
                continue;
            }
            for step in world.steps() {
                if self.try_step(&world, number, step, Writes::Work)? {
                    self.try_step(&world, number, step, Writes::FailAfter(0))?;
                    self.try_step(&world, number, step, Writes::FailAfter(1))?;
                }
            }
            ends_well(&world)
                .map_err(|broken| format!("{broken}\n{}", self.history(self.origins[number])))?;
        }
        Ok(Found {
            states: self.worlds.len(),
            steps: self.steps,
        })
    }

    fn try_step(
        &mut self,
        world: &World<S>,
        number: usize,
        step: Step,
        writes: Writes,
    ) -> Result<bool, String> {
        self.steps += 1;
        let origin = Some((number, step, writes));
        let mut next = world.clone();
        let wrote = next
            .take(step, writes)
            .map_err(|broken| format!("{broken}\n{}", self.history(origin)))?;
        // Much of what can happen changes nothing: that needs no look into a table of millions.
        if next != *world {
            self.add(next, origin);
        }
        Ok(wrote)
    }

    fn history(&self, mut origin: Origin) -> String {
        let mut steps = Vec::new();
        while let Some((from, step, writes)) = origin {
            steps.push(format!("  {step:?}, writes: {writes:?}"));
            origin = self.origins[from];
            if origin.is_none() {
                steps.push(format!("  {:?}", self.worlds.get_index(from)));
            }
        }
        steps.reverse();
        steps.join("\n")
    }
}

/// From wherever the device is, a sensible world gets it to a good end.
///
/// # Errors
/// If it does not.
pub fn ends_well<S: Subject>(world: &World<S>) -> Checked {
    for answer in [Step::Succeed, Step::Fail] {
        if world.shutdown {
            shuts_down(world.clone(), answer)?;
        } else {
            closes(world.clone(), answer)?;
            is_forgotten(world.clone(), answer)?;
        }
    }
    if world.shutdown {
        return Ok(());
    }
    connects(world.clone())
}

fn shuts_down<S: Subject>(mut world: World<S>, answer: Step) -> Checked {
    world.settle(answer)?;
    if world.finished || world.forgotten {
        return Ok(());
    }
    Err("shutdown does not finish".into())
}

fn closes<S: Subject>(mut world: World<S>, answer: Step) -> Checked {
    world.take(Step::Destroy, Writes::Work)?;
    world.take(Step::Retry, Writes::Work)?;
    world.settle(answer)?;
    if world.forgotten {
        return Ok(());
    }
    let closed = world.node.is_none_or(|node| node.state == State::Closed);
    if closed && !world.image && !world.link {
        return Ok(());
    }
    Err("a destroyed domain's device does not close".into())
}

fn is_forgotten<S: Subject>(mut world: World<S>, answer: Step) -> Checked {
    world.take(Step::RemoveDirectory, Writes::Work)?;
    world.settle(answer)?;
    if world.forgotten {
        return Ok(());
    }
    Err("a removed device is not forgotten".into())
}

fn connects<S: Subject>(mut world: World<S>) -> Checked {
    if world.node.is_none() {
        return Ok(());
    }
    world.take(Step::Online(true), Writes::Work)?;
    world.take(Step::Hotplug(HotplugStatus::Connected), Writes::Work)?;
    world.take(Step::Add, Writes::Work)?;
    world.settle(Step::Succeed)?;
    // Its image may have been lent, and comes back.
    world.take(Step::Retry, Writes::Work)?;
    world.settle(Step::Succeed)?;
    for _ in 0..20 {
        let frontend = world.cooperative_frontend();
        if world.link && frontend == State::Connected {
            let state = world.node.map(|node| node.state);
            if state == Some(State::Connected) || state == Some(State::Closing) {
                return Ok(());
            }
        }
        world.take(Step::Frontend(FrontendSeen::State(frontend)), Writes::Work)?;
        world.settle(Step::Succeed)?;
    }
    Err(format!(
        "a cooperative frontend does not get connected: {world:?}"
    ))
}
