//! What Prometheus reads, in the OpenMetrics text format.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use control_api::{Latency, Statistics};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use xenstore_glue::DeviceId;

use super::Context;
use super::refusal::Refusal;
use crate::devices::Device;

/// What the answer is.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics.
pub(super) async fn show(State(context): State<Context>) -> Result<impl IntoResponse, Refusal> {
    let statuses = context.statuses().await?;
    let survey = context.devices.survey().await;
    let workers = survey.0.iter().map(|survey| WorkerSample {
        cpu_time: survey.cpu_time,
        disks: survey.vbds.len() as u64,
    });
    let workers = workers.collect();
    let mut statistics = survey.statistics();
    let disks = statuses.into_iter().map(|status| DiskSample {
        device: status.device,
        connected: status.connected,
        known: context.devices.get(status.device),
        statistics: statistics.remove(&status.device).unwrap_or_default(),
    });
    let sample = Sample {
        started: context.started_at,
        workers,
        disks: disks.collect(),
    };
    let text = sample
        .into_text()
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, &error))?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text))
}

/// Everything at one moment.
#[derive(Debug)]
struct Sample {
    started: SystemTime,
    workers: Vec<WorkerSample>,
    disks: Vec<DiskSample>,
}

#[derive(Debug)]
struct WorkerSample {
    cpu_time: Duration,
    disks: u64,
}

#[derive(Debug)]
struct DiskSample {
    device: DeviceId,
    connected: bool,
    known: Option<Device>,
    statistics: Statistics,
}

/// The names and values of labels.
type Labels = Vec<(&'static str, String)>;

impl DiskSample {
    fn labels(&self) -> Labels {
        let vdev = self.known.as_ref().map(|known| known.vdev.clone());
        vec![
            ("domid", self.device.domid.raw().to_string()),
            ("vdev", vdev.unwrap_or_default()),
            ("device", self.device.to_string()),
        ]
    }

    fn labels_and(&self, name: &'static str, value: &str) -> Labels {
        let mut labels = self.labels();
        labels.push((name, value.to_owned()));
        labels
    }
}

impl Sample {
    fn into_text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("cowback");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// A number of a disk that only grows: its name, what it is, and where it is.
type Count = (&'static str, &'static str, fn(&Statistics) -> u64);

const COUNTS: [Count; 6] = [
    (
        "disk_failed_requests",
        "Requests that failed: storage did not do them, or the guest's pages could not be reached",
        |disk| disk.failed,
    ),
    (
        "disk_rejected_requests",
        "Requests that were refused because they broke the protocol",
        |disk| disk.rejected,
    ),
    (
        "disk_copy_ups",
        "Blocks that were copied up from the base",
        |disk| disk.copy_ups,
    ),
    ("disk_commits", "Commits of the bitmap", |disk| disk.commits),
    (
        "disk_space_waits",
        "How often a write had to wait for space on the host",
        |disk| disk.space_waits,
    ),
    (
        "disk_emulated_requests",
        "Requests of QEMU, which are in no other count",
        |disk| disk.emulated_requests,
    ),
];

/// A number of a disk at this moment: as above, with its unit.
type Level = (
    &'static str,
    &'static str,
    Option<Unit>,
    fn(&DiskSample) -> u64,
);

const LEVELS: [Level; 6] = [
    (
        "disk_connected",
        "Whether the guest's rings are served",
        None,
        |disk| u64::from(disk.connected),
    ),
    (
        "disk_in_flight_requests",
        "Requests taken and not answered",
        None,
        |disk| disk.statistics.in_flight,
    ),
    (
        "disk_waiting_for_space_requests",
        "Writes that wait for space on the host",
        None,
        |disk| disk.statistics.waiting_for_space,
    ),
    (
        "disk_virtual_size",
        "Size of the disk as the guest sees it",
        Some(Unit::Bytes),
        |disk| disk.statistics.virtual_size_bytes,
    ),
    (
        "disk_allocated",
        "Blocks that the image holds itself",
        Some(Unit::Bytes),
        |disk| disk.statistics.allocated_bytes,
    ),
    (
        "disk_kept_pages",
        "Pages of the guest that are kept mapped",
        None,
        |disk| disk.statistics.kept_pages,
    ),
];

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_daemon(&mut encoder)?;
        self.encode_requests(&mut encoder)?;
        for (name, help, count) in COUNTS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for disk in &self.disks {
                counter(&mut family, &disk.labels(), count(&disk.statistics))?;
            }
        }
        for (name, help, unit, level) in LEVELS {
            let unit = unit.as_ref();
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            for disk in &self.disks {
                gauge(&mut family, &disk.labels(), level(disk))?;
            }
        }
        let help = "The image of a disk";
        let mut family = encoder.encode_descriptor("disk_image", help, None, MetricType::Info)?;
        for disk in &self.disks {
            let image = disk.known.as_ref().map(Device::image);
            let labels = disk.labels_and("image", &image.unwrap_or_default());
            family.encode_info(&labels)?;
        }
        Ok(())
    }
}

impl Sample {
    fn encode_daemon(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The version of cowbackd";
        let mut family = encoder.encode_descriptor("build", help, None, MetricType::Info)?;
        family.encode_info(&vec![("version", env!("CARGO_PKG_VERSION"))])?;

        let seconds = Some(&Unit::Seconds);
        let help = "When cowbackd was started, since the epoch";
        let family = encoder.encode_descriptor("start_time", help, seconds, MetricType::Gauge)?;
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        ConstGauge::new(started.as_secs_f64()).encode(family)?;

        let help = "What a worker thread has used of a processor";
        let mut family =
            encoder.encode_descriptor("worker_cpu", help, seconds, MetricType::Counter)?;
        for (index, worker) in self.workers.iter().enumerate() {
            let labels = vec![("worker", index.to_string())];
            let used = worker.cpu_time.as_secs_f64();
            ConstCounter::new(used).encode(family.encode_family(&labels)?)?;
        }
        let help = "Disks of a worker whose images are open";
        let mut family =
            encoder.encode_descriptor("worker_disks", help, None, MetricType::Gauge)?;
        for (index, worker) in self.workers.iter().enumerate() {
            gauge(
                &mut family,
                &vec![("worker", index.to_string())],
                worker.disks,
            )?;
        }
        Ok(())
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests of the guest that were carried out";
        let mut family =
            encoder.encode_descriptor("disk_requests", help, None, MetricType::Counter)?;
        for disk in &self.disks {
            for (kind, count, _) in kinds(&disk.statistics) {
                counter(&mut family, &disk.labels_and("kind", kind), count)?;
            }
        }
        let help = "What the guest has read and written";
        let bytes = Some(&Unit::Bytes);
        let mut family =
            encoder.encode_descriptor("disk_data", help, bytes, MetricType::Counter)?;
        for disk in &self.disks {
            let statistics = &disk.statistics;
            let read = ("read", statistics.read_bytes);
            for (kind, count) in [read, ("write", statistics.written_bytes)] {
                counter(&mut family, &disk.labels_and("kind", kind), count)?;
            }
        }
        let help = "How long requests took that were carried out, from the ring to the answer";
        let seconds = Some(&Unit::Seconds);
        let mut family =
            encoder.encode_descriptor("disk_latency", help, seconds, MetricType::Histogram)?;
        for disk in &self.disks {
            for (kind, _, latency) in kinds(&disk.statistics) {
                let labels = disk.labels_and("kind", kind);
                let buckets: Vec<_> = latency
                    .buckets()
                    .map(|(bound, count)| (bound.map_or(f64::INFINITY, |b| b.as_secs_f64()), count))
                    .collect();
                let count = buckets.iter().map(|(_, count)| count).sum();
                let sum = latency.sum().as_secs_f64();
                family
                    .encode_family(&labels)?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

/// The kinds of requests, each with how many there were and how long they took.
fn kinds(disk: &Statistics) -> [(&'static str, u64, &Latency); 4] {
    let latency = &disk.latency;
    [
        ("read", disk.reads, &latency.read),
        ("write", disk.writes, &latency.write),
        ("flush", disk.flushes, &latency.flush),
        ("discard", disk.discards, &latency.discard),
    ]
}

fn counter(family: &mut MetricEncoder<'_>, labels: &Labels, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(family.encode_family(labels)?)
}

fn gauge(family: &mut MetricEncoder<'_>, labels: &Labels, value: u64) -> fmt::Result {
    ConstGauge::new(value).encode(family.encode_family(labels)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    const MONITORING: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/monitoring");

    fn text() -> String {
        let sample = Sample {
            started: UNIX_EPOCH + Duration::from_secs(1),
            workers: vec![WorkerSample {
                cpu_time: Duration::from_millis(1500),
                disks: 1,
            }],
            disks: vec![DiskSample {
                device: "backend/vbd3/5/51712".parse().unwrap(),
                connected: true,
                known: None,
                statistics: Statistics::default(),
            }],
        };
        sample.into_text().unwrap()
    }

    /// The names of everything that is told.
    fn told() -> BTreeSet<String> {
        let text = text();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let name = |line: &str| line.split(['{', ' ']).next().unwrap().to_owned();
        lines.map(name).collect()
    }

    /// Every query in the examples.
    fn queries() -> Vec<String> {
        let read = |name| fs::read_to_string(format!("{MONITORING}/{name}")).unwrap();
        let alerts = read("cowback-alerts.yml");
        let of_alerts = alerts
            .lines()
            .filter_map(|line| line.trim().strip_prefix("expr: "));
        let mut queries: Vec<_> = of_alerts.map(str::to_owned).collect();
        let dashboard: serde_json::Value =
            serde_json::from_str(&read("cowback-dashboard.json")).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                queries.push(query.replace("$__rate_interval", "5m"));
            }
        }
        queries
    }

    #[test]
    fn counts_and_times_are_told_with_their_units() {
        let text = text();
        for line in [
            "cowback_worker_cpu_seconds_total{worker=\"0\"} 1.5",
            "cowback_disk_connected{domid=\"5\",vdev=\"\",device=\"backend/vbd3/5/51712\"} 1",
            "# TYPE cowback_disk_latency_seconds histogram",
            "# UNIT cowback_disk_data_bytes bytes",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_examples_ask_for_what_there_is_and_are_understood() {
        let (told, queries) = (told(), queries());
        assert!(queries.len() > 15, "{queries:?}");
        for query in queries {
            if let Err(error) = promql_parser::parser::parse(&query) {
                panic!("{query}: {error}");
            }
            let words = query.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            for word in words.filter(|word| word.starts_with("cowback_")) {
                assert!(
                    told.contains(word),
                    "{query} asks for {word}, which nobody tells"
                );
            }
        }
    }
}
