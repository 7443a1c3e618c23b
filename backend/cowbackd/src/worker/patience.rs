//! How long a worker looks at its rings for more before it sleeps.
//!
//! A worker that sleeps has to be woken: the guest makes a hypercall, the kernel passes the event on, and the worker makes
//! calls to the kernel to take it. Where requests follow each other faster than that, it pays to look for the next one for a
//! while. How long is learnt from the sleeps: one that was short need not have been, one that was long shows that looking
//! is in vain. (The kernel's `halt_poll` decides in this way for virtual processors.)

use std::time::{Duration, Instant};

/// The most that is spent on looking. A sleep that was not longer could have been spared.
const WINDOW_MAX: Duration = Duration::from_micros(50);

/// What it begins with, and below which it is nothing at all.
const WINDOW_MIN: Duration = Duration::from_micros(5);

/// How many looks are between two readings of the clock, which in a dom0 can cost a call to the kernel.
const LOOKS_PER_READING: u32 = 64;

/// Without patience, every so many sleeps are measured, to see whether some would be worth it.
const SLEEPS_PER_MEASUREMENT: u32 = 8;

/// A worker's patience, none in the beginning.
#[derive(Debug, Default)]
pub(super) struct Patience {
    window: Duration,
    sleeps: u32,
}

/// When a worker ran out of work, if that is measured.
#[derive(Clone, Copy)]
pub(super) struct Watch(Option<Instant>);

impl Patience {
    /// A worker has run out of work.
    pub(super) fn watch(&mut self) -> Watch {
        self.sleeps = self.sleeps.wrapping_add(1);
        let measured = !self.window.is_zero() || self.sleeps.is_multiple_of(SLEEPS_PER_MEASUREMENT);
        Watch(measured.then(Instant::now))
    }

    /// Whether to sleep, after so many looks in vain.
    pub(super) fn is_over(&self, watch: Watch, looks: u32) -> bool {
        let Some(begun) = watch.0.filter(|_| !self.window.is_zero()) else {
            return true;
        };
        looks.is_multiple_of(LOOKS_PER_READING) && looks > 0 && begun.elapsed() >= self.window
    }

    /// Looking, and then sleeping until something happened, is over.
    pub(super) fn was_idle(&mut self, watch: Watch) {
        if let Some(begun) = watch.0 {
            self.learn(begun.elapsed());
        }
    }

    fn learn(&mut self, idle: Duration) {
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
        assert_eq!(patience.window, Duration::ZERO);
        let mut windows = Vec::new();
        for _ in 0..6 {
            patience.learn(WINDOW_MAX);
            windows.push(patience.window.as_micros());
        }
        assert_eq!(windows, [5, 10, 20, 40, 50, 50]);
    }

    #[test]
    fn an_idle_worker_soon_stops_looking() {
        let mut patience = Patience::default();
        for _ in 0..6 {
            patience.learn(Duration::from_micros(20));
        }
        for _ in 0..4 {
            patience.learn(Duration::from_micros(51));
        }
        assert_eq!(patience.window, Duration::ZERO);
    }
}
