//! Going on where an earlier process stopped, and what the next one needs for it.

use blkif::RawSlot;
use runstate::Left;

use super::Vbd;
use super::in_flight::Origin;
use crate::worker::link::Link;

impl Vbd {
    /// Notes that a frontend was just connected; gives what an earlier process left of it, for [`Vbd::go_on`].
    ///
    /// # Errors
    /// If the rings are not those of that process, for people.
    pub(in crate::worker) fn begin_link(
        &mut self,
        link: &mut Link,
        adopt: bool,
    ) -> Result<Vec<Left>, String> {
        let was_connected = self.noted(|run_state| run_state.was_connected());
        // It may have disconnected, with everything answered, and died before xenstore knew.
        if !adopt || was_connected == Some(false) {
            self.begin_journals(link);
            return Ok(Vec::new());
        }
        let Some(run_state) = &self.run_state else {
            return Err("nothing was left to go on from".to_owned());
        };
        let mut run_state = run_state.borrow_mut();
        let left = run_state
            .resume(link.ring_size(0), &link.rings())
            .map_err(|error| error.to_string())?;
        for (queue, left) in link.queues.iter_mut().zip(&left) {
            queue
                .ring
                .resume_at(left.req_cons)
                .map_err(|error| error.to_string())?;
        }
        Ok(left)
    }

    /// Without a journal the guest is served all the same.
    fn begin_journals(&mut self, link: &Link) {
        let begun = self.noted(|run_state| {
            run_state
                .connect(link.ring_size(0), &link.rings())
                .inspect_err(|_| drop(run_state.remove()))
        });
        if let Some(Err(error)) = begun {
            tracing::error!(device = %self.device, "{error}; its guest will lose the disk if the daemon is killed");
            self.run_state = None;
        }
    }

    /// Goes on where an earlier process stopped. What that has taken and not answered is executed again, when the rings are
    /// served next: nobody saw an answer, so the guest has not touched the pages or relied on the sectors.
    pub(in crate::worker) fn go_on(&mut self, left: Vec<Left>) {
        // It may have died after it published responses, and before it told the frontend.
        for queue in self.link.iter().flat_map(|link| &link.queues) {
            queue.channel.notify();
        }
        for (queue, left) in left.into_iter().enumerate() {
            if !left.unanswered.is_empty() {
                let count = left.unanswered.len();
                tracing::info!(device = %self.device, "executing {count} requests again that were not answered");
            }
            let again = left.unanswered.into_iter().map(|taken| {
                let place = Some(taken.place);
                (Origin { queue, place }, RawSlot(taken.request))
            });
            self.left_over.extend(again);
        }
    }
}
