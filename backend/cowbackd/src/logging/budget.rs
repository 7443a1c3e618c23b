//! How much may be logged about a device: much of it happens because a guest wants it to, as often as it likes.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

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

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Budgets {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut device = DeviceField::default();
        attributes.record(&mut device);
        if let (Some(_), Some(span)) = (&device.0, context.span(id)) {
            span.extensions_mut().insert(device);
        }
    }

    fn event_enabled(&self, event: &Event<'_>, context: Context<'_, S>) -> bool {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return true;
        }
        let mut device = DeviceField::default();
        event.record(&mut device);
        let Some(device) = device.0.or_else(|| device_around(event, &context)) else {
            return true;
        };
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

/// The device of the span that an event is in.
fn device_around<S>(event: &Event<'_>, context: &Context<'_, S>) -> Option<String>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let mut around = context.event_scope(event)?;
    around.find_map(|span| span.extensions().get::<DeviceField>()?.0.clone())
}

/// The field `device` of an event or a span.
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
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::SubscriberExt;

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

    /// Counts what is let through.
    #[derive(Clone, Default)]
    struct Counter(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Counter {
        fn on_event(&self, _event: &Event<'_>, _context: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn lines_within_the_span_of_a_device_count_as_its_own() {
        let counter = Counter::default();
        let registry = tracing_subscriber::registry().with(counter.clone());
        tracing::subscriber::with_default(registry.with(Budgets::default()), || {
            let span = crate::logging::span("backend/vbd3/1/51712".parse().unwrap());
            for _ in 0..1000 {
                tracing::error!(parent: &span, "a line");
                tracing::info!(device = "backend/vbd3/1/51712", "a line of another level");
            }
        });
        // And one each that says so.
        let let_through = counter.0.load(Ordering::Relaxed);
        let expected = usize::try_from(2 * LINES_MAX).unwrap();
        assert!(
            (expected..expected + 5).contains(&let_through),
            "{let_through}"
        );
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
