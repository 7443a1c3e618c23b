//! The time in a worker.

use std::time::Instant;

/// The time, asked for once in a round of the worker's loop at most, since that can cost a call to the kernel in a dom0.
#[derive(Debug, Default)]
pub(super) struct RoundClock(Option<Instant>);

impl RoundClock {
    /// A moment in this round.
    pub(super) fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }

    /// A round has ended.
    pub(super) fn next_round(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_round_has_one_time() {
        let mut clock = RoundClock::default();
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(clock.now(), first);
        clock.next_round();
        assert!(clock.now() > first);
    }
}
