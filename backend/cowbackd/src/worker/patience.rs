//! How long a worker looks at its rings for more before it sleeps.
//!
//! A worker that sleeps has to be woken: the guest makes a hypercall, the kernel passes the event on, and the worker makes
//! calls to the kernel to take it. Where requests follow each other faster than that, it pays to look for the next one for a
//! while. How long is learnt from the sleeps: one that was short need not have been, one that was long shows that looking
//! is in vain. (The kernel's `halt_poll` decides in this way for virtual processors.)

use std::time::Duration;

/// The most that is spent on looking. A sleep that was not longer could have been spared.
const WINDOW_MAX: Duration = Duration::from_micros(50);

/// What it begins with, and below which it is nothing at all.
const WINDOW_MIN: Duration = Duration::from_micros(5);

/// A worker's patience, none in the beginning.
#[derive(Debug, Default)]
pub(super) struct Patience {
    window: Duration,
}

impl Patience {
    /// How long to look before the next sleep.
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Looking for so long, and then sleeping until something happened, took `idle` together.
    pub(super) fn was_idle(&mut self, idle: Duration) {
        if idle <= WINDOW_MAX {
            self.window = (self.window * 2).clamp(WINDOW_MIN, WINDOW_MAX);
        } else {
            self.window /= 2;
            if self.window < WINDOW_MIN {
                self.window = Duration::ZERO;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_sleeps_teach_patience_up_to_a_bound() {
        let mut patience = Patience::default();
        assert_eq!(patience.window(), Duration::ZERO);
        let mut windows = Vec::new();
        for _ in 0..6 {
            patience.was_idle(WINDOW_MAX);
            windows.push(patience.window().as_micros());
        }
        assert_eq!(windows, [5, 10, 20, 40, 50, 50]);
    }

    #[test]
    fn an_idle_worker_soon_stops_looking() {
        let mut patience = Patience::default();
        for _ in 0..6 {
            patience.was_idle(Duration::from_micros(20));
        }
        for _ in 0..4 {
            patience.was_idle(Duration::from_micros(51));
        }
        assert_eq!(patience.window(), Duration::ZERO);
    }
}
