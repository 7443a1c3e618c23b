//! The disks that the daemon serves, as its control API describes them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::client::{Client, ClientError};

/// The bound of the first bucket of latencies; each next one's is twice as much.
const FIRST_BOUND: Duration = Duration::from_micros(16);

/// A disk.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Disk {
    /// Its xenbus path.
    pub(crate) device: String,
    pub(crate) domid: u16,
    pub(crate) vdev: String,
    pub(crate) image: Option<String>,
    pub(crate) read_only: bool,
    pub(crate) state: String,
    pub(crate) connected: bool,
    pub(crate) reason: Option<String>,
    /// Absent while its image is not open.
    #[serde(flatten)]
    pub(crate) statistics: Option<Statistics>,
}

/// How a disk is doing. Counts are since its image was opened.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Statistics {
    pub(crate) on_enospc: String,
    pub(crate) detect_zeroes: bool,
    pub(crate) virtual_size_bytes: u64,
    pub(crate) allocated_bytes: u64,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
    pub(crate) discards: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) failed: u64,
    pub(crate) rejected: u64,
    pub(crate) copy_ups: u64,
    pub(crate) commits: u64,
    pub(crate) kept_pages: u64,
    pub(crate) in_flight: u64,
    pub(crate) waiting_for_space: u64,
    pub(crate) space_waits: u64,
    pub(crate) emulated_clients: u64,
    pub(crate) emulated_requests: u64,
    pub(crate) latency: Latencies,
}

/// How long requests took.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Latencies {
    pub(crate) read: Latency,
    pub(crate) write: Latency,
    pub(crate) flush: Latency,
    pub(crate) discard: Latency,
}

/// How long requests of a kind took.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Latency {
    sum_micros: u64,
    buckets: Vec<u64>,
}

impl Latency {
    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How long they took on average; `None` if there were none.
    pub(crate) fn mean(&self) -> Option<Duration> {
        let micros = self.sum_micros.checked_div(self.count())?;
        Some(Duration::from_micros(micros))
    }

    /// The bound of the bucket below which so many of a thousand lie; `None` if there were none, or if it has no bound.
    pub(crate) fn quantile(&self, of_thousand: u64) -> Option<Duration> {
        let wanted = (self.count() * of_thousand).div_ceil(1000).max(1);
        let mut so_far = 0;
        let bounded = self.buckets.split_last().map_or(&[][..], |(_, rest)| rest);
        let index = bounded.iter().position(|count| {
            so_far += count;
            so_far >= wanted
        })?;
        Some(FIRST_BOUND * (1 << index))
    }

    /// Those that are in this one and were not in an earlier one.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let before = earlier.buckets.iter().copied().chain(std::iter::repeat(0));
        let pairs = self.buckets.iter().zip(before);
        Self {
            sum_micros: self.sum_micros.saturating_sub(earlier.sum_micros),
            buckets: pairs
                .map(|(now, before)| now.saturating_sub(before))
                .collect(),
        }
    }

    /// The bounds of the buckets that are not empty, with how many are in each; `None` is without bound.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let last = self.buckets.len().saturating_sub(1);
        let counts = self.buckets.iter().copied().enumerate();
        counts
            .filter(|(_, count)| *count > 0)
            .map(move |(index, count)| {
                let bound = (index < last).then(|| FIRST_BOUND * (1 << index));
                (bound, count)
            })
    }
}

/// A duration in few letters.
pub(crate) fn display(duration: Option<Duration>) -> String {
    match duration.map(|duration| duration.as_micros()) {
        None => "-".to_owned(),
        Some(micros @ 0..1_000) => format!("{micros}us"),
        Some(micros @ 1_000..1_000_000) => format!("{}.{}ms", micros / 1_000, micros / 100 % 10),
        Some(micros) => format!("{}.{}s", micros / 1_000_000, micros / 100_000 % 10),
    }
}

/// The path of a disk in the API, by its xenbus path, with or without `backend/` in front, or as domain and name in the
/// guest: `vbd3/5/51712` or `5:xvda`.
pub(crate) fn api_path(client: &Client<'_>, name: &str) -> Result<String, ClientError> {
    let device = match name.split_once(':') {
        Some((domid, vdev)) => {
            let disks: Vec<Disk> = client.get("/v1/devices")?;
            let is_meant = |disk: &&Disk| disk.domid.to_string() == domid && disk.vdev == vdev;
            let found = disks.iter().find(is_meant).map(|disk| disk.device.clone());
            found.ok_or_else(|| {
                let known = disks
                    .iter()
                    .map(|disk| format!("{}:{}", disk.domid, disk.vdev));
                let known: Vec<_> = known.collect();
                let known = match known.len() {
                    0 => "no disk at all".to_owned(),
                    _ => known.join(", "),
                };
                ClientError::NotFound(format!(
                    "{name}: cowbackd does not serve such a disk; it serves {known}"
                ))
            })?
        }
        None => name.to_owned(),
    };
    let device = device.strip_prefix("backend/").unwrap_or(&device);
    if !device
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == '/')
    {
        let error =
            format!("{name}: is neither like 5:xvda nor a xenbus path like backend/vbd3/5/51712");
        return Err(ClientError::NotFound(error));
    }
    Ok(format!("/v1/devices/{device}"))
}

/// A disk as the daemon describes it, for programs, and for us.
pub(crate) fn read(value: Value) -> Result<Disk, ClientError> {
    serde_json::from_value(value).map_err(ClientError::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(buckets: &[u64], sum_micros: u64) -> Latency {
        let mut all = buckets.to_vec();
        all.resize(21, 0);
        Latency {
            sum_micros,
            buckets: all,
        }
    }

    #[test]
    fn quantiles_are_the_bounds_of_buckets() {
        let micros = |count| Some(Duration::from_micros(count));
        let some = latency(&[50, 49, 0, 1], 2000);
        assert_eq!(some.count(), 100);
        assert_eq!(some.mean(), micros(20));
        assert_eq!(some.quantile(500), micros(16));
        assert_eq!(some.quantile(990), micros(32));
        assert_eq!(some.quantile(999), micros(128));
        assert_eq!(Latency::default().quantile(500), None);
        assert_eq!(Latency::default().mean(), None);
        let mut slow = latency(&[1], 10_000_000);
        slow.buckets[20] = 1;
        assert_eq!(slow.quantile(999), None);
        assert_eq!(
            slow.buckets().collect::<Vec<_>>(),
            [(micros(16), 1), (None, 1)]
        );
    }

    #[test]
    fn what_was_there_before_can_be_taken_off() {
        let earlier = latency(&[1, 2], 30);
        let later = latency(&[1, 5, 1], 200);
        let between = later.since(&earlier);
        assert_eq!((between.count(), between.sum_micros), (4, 170));
        // The image was closed and opened again: the counts began anew.
        assert_eq!(earlier.since(&later).count(), 0);
    }

    #[test]
    fn durations_are_short() {
        let shown = |micros| display(Some(Duration::from_micros(micros)));
        assert_eq!(shown(999), "999us");
        assert_eq!(shown(1_500), "1.5ms");
        assert_eq!(shown(12_340_000), "12.3s");
        assert_eq!(display(None), "-");
    }

    #[test]
    fn a_disk_is_read_with_and_without_statistics() {
        let plain = serde_json::json!({
            "device": "backend/vbd3/5/51712", "domid": 5, "devid": 51712, "vdev": "xvda", "image": null,
            "read_only": false, "state": "Initialising", "frontend_state": "Unknown", "connected": false, "reason": null,
        });
        assert!(read(plain).unwrap().statistics.is_none());
    }
}
