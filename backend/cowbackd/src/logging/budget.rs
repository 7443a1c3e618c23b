//! How much may be logged about a device: much of it happens because a guest wants it to, as often as it likes.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Lines of a level about a device that may come at once. A disk's whole life, with a few reboots, takes less.
const LINES_MAX: u32 = 100;

/// How long it takes until one more may come.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Lets no more be logged about a device than is good: of each level on its own, so that what a guest can bring about
/// as often as it likes does not hide what it cannot. Who asks for details (`debug`) gets them all.
#[derive(Default)]
pub(super) struct Budgets {
    by_device: Mutex<HashMap<(String, Level), Budget>>,
}

/// Lines that may still come.
struct Budget {
    lines: u32,
    /// When the last line was added.
    since: Instant,
}

/// What becomes of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Logged,
    /// It is logged, and is the last one for a while.
    Last,
    LeftOut,
}

impl Budget {
    fn full(now: Instant) -> Self {
        Self {
            lines: LINES_MAX,
            since: now,
        }
    }

    fn take(&mut self, now: Instant) -> Verdict {
        self.refill(now);
        match self.lines {
            0 => Verdict::LeftOut,
            _ => {
                self.lines -= 1;
                if self.lines == 0 {
                    Verdict::Last
                } else {
                    Verdict::Logged
                }
            }
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_secs() / LINE_INTERVAL.as_secs();
        let added = u32::try_from(passed).unwrap_or(LINES_MAX).min(LINES_MAX);
        self.lines = (self.lines + added).min(LINES_MAX);
        if self.lines == LINES_MAX {
            self.since = now;
        } else {
            self.since += LINE_INTERVAL * added;
        }
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.lines == LINES_MAX
    }
}

impl Budgets {
    fn take(&self, device: &str, level: Level, now: Instant) -> Verdict {
        let mut budgets = self
            .by_device
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let key = (device.to_owned(), level);
        if !budgets.contains_key(&key) {
            // Those of devices that are long gone are full again.
            budgets.retain(|_, budget| !budget.is_full(now));
        }
        let budget = budgets.entry(key).or_insert_with(|| Budget::full(now));
        budget.take(now)
    }
}

impl<S: Subscriber> Layer<S> for Budgets {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return true;
        }
        let mut device = DeviceField::default();
        event.record(&mut device);
        let Some(device) = device.0 else { return true };
        match self.take(&device, level, Instant::now()) {
            Verdict::Logged => true,
            Verdict::LeftOut => false,
            Verdict::Last => {
                tracing::warn!(
                    "more lines of level {level} about device {device} are left out, all but one every {} seconds",
                    LINE_INTERVAL.as_secs()
                );
                true
            }
        }
    }
}

/// The field `device` of an event.
#[derive(Default)]
struct DeviceField(Option<String>);

impl Visit for DeviceField {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "device" {
            let text = self.0.insert(String::new());
            // Writing to a string does not fail.
            let _ = write!(text, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_at_once_and_then_few() {
        let budgets = Budgets::default();
        let mut now = Instant::now();
        for line in 1..=LINES_MAX {
            let expected = if line < LINES_MAX {
                Verdict::Logged
            } else {
                Verdict::Last
            };
            assert_eq!(budgets.take("one", Level::INFO, now), expected);
        }
        assert_eq!(budgets.take("one", Level::INFO, now), Verdict::LeftOut);
        // Other devices and levels have their own.
        assert_eq!(budgets.take("two", Level::INFO, now), Verdict::Logged);
        assert_eq!(budgets.take("one", Level::WARN, now), Verdict::Logged);
        now += LINE_INTERVAL * 3 / 2;
        assert_eq!(budgets.take("one", Level::INFO, now), Verdict::Last);
        assert_eq!(budgets.take("one", Level::INFO, now), Verdict::LeftOut);
        // The half that is left counts.
        now += LINE_INTERVAL / 2;
        assert_eq!(budgets.take("one", Level::INFO, now), Verdict::Last);
    }

    #[test]
    fn what_is_full_again_is_forgotten() {
        let budgets = Budgets::default();
        let now = Instant::now();
        for device in 0..1000 {
            budgets.take(&device.to_string(), Level::INFO, now);
        }
        let later = now + LINE_INTERVAL * 2 * LINES_MAX;
        budgets.take("new", Level::INFO, later);
        assert_eq!(budgets.by_device.lock().unwrap().len(), 1);
    }
}
