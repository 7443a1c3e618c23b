//! When a worker has nothing to do: it looks at its rings for a while, has their frontends notify it, and sleeps.
//!
//! A ring that was found empty is *awake*: its frontend was not asked to notify (`req_event` of ring.h), and the worker looks
//! there by itself. Before it sleeps it asks all of them, looks once more, and only then waits for the event channels.

use std::io;

use blockio::executor::Event;
use rustc_hash::FxHashMap;

use super::Worker;
use crate::worker::vbd::Vbd;

impl Worker {
    /// Gathers what has happened. Looks at the rings for a while, and sleeps when there is nothing to do.
    pub(super) fn wait(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        if !self.backlog.is_empty() {
            // Somebody always has more. Those that are awake were not asked to notify, so they are looked at here, or never.
            self.find_awake_with(Vbd::has_requests);
            return self.executor.poll(events);
        }
        let watch = self.patience.watch();
        let mut looks = 0_u32;
        while self.find_awake_with(Vbd::has_requests) {
            if !self.backlog.is_empty() || self.patience.is_over(watch, looks) {
                break;
            }
            looks += 1;
            self.executor.poll(events)?;
            if !events.is_empty() {
                break;
            }
            std::hint::spin_loop();
        }
        if self.backlog.is_empty() && events.is_empty() {
            self.find_awake_with(Vbd::ask_for_notification);
            self.fall_asleep();
        }
        if !self.backlog.is_empty() {
            return self.executor.poll(events);
        }
        if events.is_empty() {
            self.executor.wait(self.time_to_sleep(), events)?;
        }
        self.patience.was_idle(watch);
        Ok(())
    }

    /// Moves the rings that have something from those that are awake to the backlog. Returns whether any is awake still.
    fn find_awake_with(&mut self, has: fn(&mut Vbd, usize) -> bool) -> bool {
        let (vbds, backlog) = (&mut self.vbds, &mut self.backlog);
        self.awake.retain(|&(number, queue)| {
            let has_requests = vbds.get_mut(&number).is_some_and(|vbd| has(vbd, queue));
            if has_requests {
                set_awake(vbds, number, queue, false);
                backlog.push((number, queue));
            }
            !has_requests
        });
        !self.awake.is_empty()
    }

    /// The frontends of all rings were asked to notify.
    fn fall_asleep(&mut self) {
        for (number, queue) in self.awake.drain(..) {
            set_awake(&mut self.vbds, number, queue, false);
        }
    }

    /// A ring was found empty.
    pub(super) fn keep_awake(&mut self, number: usize, queue: usize) {
        if set_awake(&mut self.vbds, number, queue, true) {
            self.awake.push((number, queue));
        }
    }
}

/// Notes whether a ring is awake; returns whether that is new.
fn set_awake(vbds: &mut FxHashMap<usize, Vbd>, number: usize, queue: usize, awake: bool) -> bool {
    let link = vbds.get_mut(&number).and_then(|vbd| vbd.link.as_mut());
    link.and_then(|link| link.queues.get_mut(queue))
        .is_some_and(|queue| std::mem::replace(&mut queue.is_awake, awake) != awake)
}
