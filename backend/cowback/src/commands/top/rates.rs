//! What happened between two looks at the disks.

use std::collections::HashMap;
use std::time::Duration;

use control_api::{Disk, Latencies, Latency, Statistics};

/// A disk, and what it did in one second of the time between.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) disk: Disk,
    pub(super) reads: f64,
    pub(super) writes: f64,
    pub(super) flushes: f64,
    pub(super) read_bytes: f64,
    pub(super) written_bytes: f64,
    /// Of requests that ended in the time between.
    pub(super) latency: Latencies,
}

/// What to order disks by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Order {
    /// Requests each second
    #[default]
    Requests,
    /// Bytes each second
    Bytes,
    /// How long reads and writes take on average
    Latency,
    /// Requests in flight
    InFlight,
    /// Bytes that the image holds itself
    Allocated,
    /// Domain and name
    Name,
}

/// What happened to each disk that is there `now`, in `time` since `before`.
pub(super) fn between(before: &[Disk], now: Vec<Disk>, time: Duration) -> Vec<Rates> {
    let before: HashMap<_, _> = before
        .iter()
        .filter_map(|disk| Some((disk.device.as_str(), disk.statistics.as_ref()?)))
        .collect();
    let seconds = time.as_secs_f64().max(0.001);
    let rates = now.into_iter().map(|disk| {
        let earlier = before.get(disk.device.as_str());
        match (&disk.statistics, earlier) {
            (Some(now), Some(earlier)) => of(disk.clone(), earlier, now, seconds),
            _ => Rates {
                disk,
                ..Rates::default()
            },
        }
    });
    rates.collect()
}

fn of(disk: Disk, before: &Statistics, now: &Statistics, seconds: f64) -> Rates {
    // Counts begin anew when an image is opened anew.
    let rate = |of: fn(&Statistics) -> u64| as_float(of(now).saturating_sub(of(before))) / seconds;
    let (latency, earlier) = (&now.latency, &before.latency);
    Rates {
        reads: rate(|disk| disk.reads),
        writes: rate(|disk| disk.writes),
        flushes: rate(|disk| disk.flushes),
        read_bytes: rate(|disk| disk.read_bytes),
        written_bytes: rate(|disk| disk.written_bytes),
        latency: Latencies {
            read: latency.read.since(&earlier.read),
            write: latency.write.since(&earlier.write),
            flush: latency.flush.since(&earlier.flush),
            discard: latency.discard.since(&earlier.discard),
        },
        disk,
    }
}

/// Precise enough to look at.
#[allow(clippy::cast_precision_loss)]
fn as_float(count: u64) -> f64 {
    count as f64
}

impl Rates {
    fn requests(&self) -> f64 {
        self.reads + self.writes + self.flushes
    }

    fn mean_latency(&self) -> Duration {
        let of = |latency: &Latency| latency.mean().unwrap_or_default();
        of(&self.latency.read).max(of(&self.latency.write))
    }

    fn statistic(&self, of: fn(&Statistics) -> u64) -> u64 {
        self.disk.statistics.as_ref().map_or(0, of)
    }
}

/// Orders disks, what is most first; those that are equal by their names.
pub(super) fn sort(disks: &mut [Rates], order: Order, reversed: bool) {
    disks.sort_by(|a, b| {
        let name = |rates: &Rates| (rates.disk.domid, rates.disk.vdev.clone());
        let by_name = || name(a).cmp(&name(b));
        let compared = match order {
            Order::Requests => b.requests().total_cmp(&a.requests()),
            Order::Bytes => {
                let bytes = |rates: &Rates| rates.read_bytes + rates.written_bytes;
                bytes(b).total_cmp(&bytes(a))
            }
            Order::Latency => b.mean_latency().cmp(&a.mean_latency()),
            Order::InFlight => {
                let in_flight = |rates: &Rates| rates.statistic(|disk| disk.in_flight);
                in_flight(b).cmp(&in_flight(a))
            }
            Order::Allocated => {
                let allocated = |rates: &Rates| rates.statistic(|disk| disk.allocated_bytes);
                allocated(b).cmp(&allocated(a))
            }
            Order::Name => by_name(),
        };
        let compared = if reversed {
            compared.reverse()
        } else {
            compared
        };
        compared.then_with(by_name)
    });
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A disk that has done so much.
    pub(in crate::commands::top) fn disk(domid: u16, reads: u64, written_bytes: u64) -> Disk {
        Disk {
            device: format!("vbd3/{domid}/51712"),
            domid,
            vdev: "xvda".to_owned(),
            image: Some(format!("/images/{domid}.cow")),
            state: "Connected".to_owned(),
            connected: true,
            statistics: Some(Statistics {
                reads,
                written_bytes,
                allocated_bytes: u64::from(domid) << 20,
                virtual_size_bytes: 1 << 30,
                ..Statistics::default()
            }),
            ..Disk::default()
        }
    }

    #[test]
    fn rates_are_differences_over_time() {
        let before = [disk(1, 100, 0), disk(2, 50, 0)];
        let now = vec![disk(1, 300, 4096), disk(2, 10, 0), disk(3, 7, 7)];
        let rates = between(&before, now, Duration::from_secs(2));
        assert_eq!((rates[0].reads, rates[0].written_bytes), (100.0, 2048.0));
        assert_eq!(rates[1].reads, 0.0, "its image was opened anew");
        assert_eq!(rates[2].reads, 0.0, "it was not there before");
    }

    #[test]
    fn what_is_most_comes_first() {
        let before = [disk(1, 0, 0), disk(2, 0, 0), disk(3, 0, 0)];
        let now = vec![disk(1, 5, 9), disk(2, 9, 5), disk(3, 5, 1)];
        let mut rates = between(&before, now, Duration::from_secs(1));
        let mut sorted = |order, reversed| {
            sort(&mut rates, order, reversed);
            rates
                .iter()
                .map(|rates| rates.disk.domid)
                .collect::<Vec<_>>()
        };
        assert_eq!(sorted(Order::Requests, false), [2, 1, 3]);
        assert_eq!(sorted(Order::Bytes, false), [1, 2, 3]);
        assert_eq!(sorted(Order::Bytes, true), [3, 2, 1]);
        assert_eq!(sorted(Order::Allocated, false), [3, 2, 1]);
        assert_eq!(sorted(Order::Name, false), [1, 2, 3]);
        assert_eq!(sorted(Order::Latency, false), [1, 2, 3]);
    }
}
