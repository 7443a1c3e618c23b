//! Speed and bytes written, of ours and of its peers, side by side.

use std::path::Path;

use crate::contender::Contender::{Direct, OursNbd, Qcow2, Qcow2Extended, QemuRaw, Raw};
use crate::contender::{Contender, Sample, State, Surroundings};
use crate::error::Result;
use crate::pattern::{Direction, Order, Pattern};
use crate::report::{Figure, Row, Target, Unit};
use crate::scale::Scale;
use crate::site::SiteKind;
use crate::tool;

/// The random order of all measurements. It is nothing special.
const SEED: u64 = 1;

/// One kind of work, given to several contenders.
pub struct Workload {
    /// What `--only` finds it by.
    pub id: &'static str,
    /// What is done.
    pub work: &'static str,
    state: State,
    disk: u64,
    pattern: Pattern,
    depth: usize,
    unit: Unit,
    ours: Contender,
    peers: Vec<Contender>,
}

/// All kinds of work.
pub fn workloads(scale: &Scale) -> Vec<Workload> {
    let allocated = |id, work, ours: Contender, peer: Contender, direction| Workload {
        id,
        work,
        state: State::Allocated,
        disk: scale.disk,
        pattern: Pattern {
            direction,
            order: Order::Random { seed: SEED },
            request_len: 4096,
            count: if ours == Direct {
                scale.direct_requests
            } else {
                scale.nbd_requests
            },
            span: scale.disk,
            flush_every: 0,
        },
        depth: 32,
        unit: Unit::RequestsPerSecond,
        ours,
        peers: vec![peer],
    };
    let first_writes = |id, work, ours, peers, flush_every| Workload {
        id,
        work,
        state: State::Fresh,
        disk: scale.sparse_disk,
        pattern: Pattern {
            direction: Direction::Write,
            order: Order::Random { seed: SEED },
            request_len: 4096,
            count: scale.first_writes,
            span: scale.sparse_disk,
            flush_every,
        },
        depth: 32,
        unit: Unit::RequestsPerSecond,
        ours,
        peers,
    };
    let sequential = |id, work, direction| Workload {
        pattern: Pattern {
            direction,
            order: Order::Sequential,
            request_len: 1 << 20,
            count: scale.disk >> 20,
            span: scale.disk,
            flush_every: 0,
        },
        depth: 8,
        unit: Unit::MebibytesPerSecond,
        ..allocated(id, work, OursNbd, QemuRaw, direction)
    };
    let nbd_peers = || vec![Qcow2, Qcow2Extended, QemuRaw];
    let synced = first_writes(
        "synced-first-write-bytes",
        SYNCED,
        Direct,
        vec![Raw, Qcow2, Qcow2Extended],
        1,
    );
    vec![
        allocated(
            "direct-read",
            "4 KiB random reads, depth 32",
            Direct,
            Raw,
            Direction::Read,
        ),
        allocated(
            "direct-write",
            "4 KiB random writes, depth 32",
            Direct,
            Raw,
            Direction::Write,
        ),
        first_writes("direct-first-write-flush", FLUSHED, Direct, vec![Raw], 32),
        allocated(
            "nbd-read",
            "4 KiB random reads, depth 32",
            OursNbd,
            QemuRaw,
            Direction::Read,
        ),
        allocated(
            "nbd-write",
            "4 KiB random writes, depth 32",
            OursNbd,
            QemuRaw,
            Direction::Write,
        ),
        first_writes(
            "nbd-first-write",
            "4 KiB random first writes, depth 32",
            OursNbd,
            nbd_peers(),
            0,
        ),
        first_writes("nbd-first-write-flush", FLUSHED, OursNbd, nbd_peers(), 32),
        sequential(
            "nbd-sequential-read",
            "1 MiB sequential reads, depth 8",
            Direction::Read,
        ),
        sequential(
            "nbd-sequential-write",
            "1 MiB sequential writes, depth 8",
            Direction::Write,
        ),
        Workload {
            pattern: Pattern {
                count: scale.synced_writes,
                ..synced.pattern
            },
            depth: 1,
            unit: Unit::BytesPerRequest,
            ..synced
        },
    ]
}

const FLUSHED: &str = "4 KiB random first writes, depth 32, a flush after each 32";
const SYNCED: &str = "bytes reaching the device for each 4 KiB first write, each flushed";

impl Workload {
    /// Who takes part at this place. A device has no files that could be sparse, and no room for a base.
    fn contenders(&self, site: SiteKind) -> Vec<Contender> {
        let on_device = site == SiteKind::Device;
        let first_over_nbd = self.ours == OursNbd && self.state == State::Fresh;
        if on_device && first_over_nbd {
            return Vec::new();
        }
        let fits =
            |contender: &Contender| !(on_device && matches!(contender, Qcow2 | Qcow2Extended));
        let all = std::iter::once(self.ours).chain(self.peers.iter().copied());
        all.filter(fits).collect()
    }

    /// What is wanted of it.
    fn target(&self, peer: Contender, site: SiteKind) -> Option<Target> {
        let on_device = site == SiteKind::Device;
        let ratio = match (self.id, peer) {
            ("direct-read" | "direct-write", _) => 0.98,
            ("direct-first-write-flush", _) if on_device => 0.95,
            ("direct-first-write-flush", _) => 1.0,
            ("nbd-first-write", Qcow2) => 3.0,
            ("nbd-first-write", Qcow2Extended) => 1.6,
            ("nbd-first-write-flush", Qcow2) => 2.5,
            ("nbd-first-write-flush", Qcow2Extended) => 1.5,
            ("nbd-first-write-flush", _) => 0.9,
            ("synced-first-write-bytes", Raw) if on_device => {
                return Some(Target::FigureAtMost(8192.0));
            }
            ("synced-first-write-bytes", _) => return None,
            _ => 1.0,
        };
        Some(Target::RatioAtLeast(ratio))
    }

    /// Whether its rows are wanted.
    pub fn is_called(&self, only: Option<&str>) -> bool {
        only.is_none_or(|only| self.id.contains(only))
    }

    /// Measures all contenders `rounds` times, and gives one row for each peer. Each round lets all of them do the same
    /// work, one after the other; every round begins with another one.
    ///
    /// # Errors
    /// If a measurement fails.
    pub fn measure(&self, rounds: usize, around: &Surroundings<'_>) -> Result<Vec<Row>> {
        let site = around.site.kind();
        let contenders = self.contenders(site);
        let images = Images::prepare(self, &contenders, around)?;
        let samples = self.sample(rounds, &contenders, &images, around);
        tool::show("");
        images.remove(around)?;
        let samples = samples?;
        let mut figures = contenders
            .iter()
            .zip(samples)
            .map(|(who, samples)| (*who, Figure::new(who.name(), samples)));
        let Some((_, ours)) = figures.next() else {
            return Ok(Vec::new());
        };
        let row = |(peer, figure)| {
            Row::of(self.id, self.work, self.unit, ours.clone())
                .against(figure)
                .wanting(self.target(peer, site))
                .at(site.name())
        };
        Ok(figures.map(row).collect())
    }

    /// One list of figures for each contender.
    fn sample(
        &self,
        rounds: usize,
        contenders: &[Contender],
        images: &Images,
        around: &Surroundings<'_>,
    ) -> Result<Vec<Vec<f64>>> {
        let mut samples = vec![Vec::new(); contenders.len()];
        let (id, site) = (self.id, around.site.kind().name());
        for round in 0..rounds {
            for turn in 0..contenders.len() {
                let index = (round + turn) % contenders.len();
                let who = contenders[index].name();
                tool::show(&format!(
                    "{id}, {site}: round {} of {rounds}, {who}",
                    round + 1
                ));
                let sample = images.measure(self, contenders[index], around)?;
                samples[index].push(self.figure_of(sample));
            }
        }
        Ok(samples)
    }

    fn figure_of(&self, sample: Sample) -> f64 {
        match self.unit {
            Unit::BytesPerRequest => sample.device_bytes_per_request,
            // In requests of 1 MiB these are the same.
            _ => sample.requests_per_second,
        }
    }
}

/// The images that stay for all rounds, if any do: allocated ones in files.
struct Images {
    kept: Vec<(Contender, std::path::PathBuf)>,
}

impl Images {
    fn prepare(
        workload: &Workload,
        contenders: &[Contender],
        around: &Surroundings<'_>,
    ) -> Result<Self> {
        let mut kept = Vec::new();
        // A device has room for one image only, which is made anew for each measurement.
        if workload.state == State::Allocated && around.site.kind() != SiteKind::Device {
            for contender in contenders {
                kept.push((
                    *contender,
                    contender.make_image(State::Allocated, workload.disk, around)?,
                ));
            }
        }
        Ok(Self { kept })
    }

    fn measure(
        &self,
        workload: &Workload,
        contender: Contender,
        around: &Surroundings<'_>,
    ) -> Result<Sample> {
        let measure =
            |image: &Path| contender.measure(image, &workload.pattern, workload.depth, around);
        if let Some((_, image)) = self.kept.iter().find(|(owner, _)| *owner == contender) {
            return measure(image);
        }
        let image = contender.make_image(workload.state, workload.disk, around)?;
        let sample = measure(&image)?;
        around.site.remove(&image)?;
        Ok(sample)
    }

    fn remove(self, around: &Surroundings<'_>) -> Result<()> {
        self.kept
            .iter()
            .try_for_each(|(_, image)| around.site.remove(image))
    }
}
