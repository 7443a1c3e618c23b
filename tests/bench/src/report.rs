//! What the benchmark found: kept as JSON, from which the table and the document are made.

use serde::{Deserialize, Serialize};

use crate::scale::Scale;
use crate::stats::{Ratio, median};

/// All that one run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Where and with what it ran.
    pub host: Host,
    /// How.
    pub settings: Settings,
    /// What it found.
    pub rows: Vec<Row>,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

/// Where and with what a benchmark ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The day, UTC.
    pub date: String,
    /// What was measured: the commit.
    pub commit: String,
    /// The kernel.
    pub kernel: String,
    /// The processor's model.
    pub cpu: String,
    /// How many processors there are.
    pub cpus: usize,
    /// Memory, in bytes.
    pub memory: u64,
    /// fio's version.
    pub fio: String,
    /// QEMU's version.
    pub qemu: String,
    /// How QEMU does its I/O.
    pub qemu_aio: String,
}

/// How a benchmark ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Measurements of each contender.
    pub rounds: usize,
    /// Whether it was a smoke test, whose figures mean nothing.
    pub quick: bool,
    /// Sizes and counts.
    pub scale: Scale,
}

/// One comparison, or one figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What `--only` finds it by.
    pub id: String,
    /// What is done.
    pub work: String,
    /// Where, if that matters.
    pub site: Option<String>,
    /// What the figures count.
    pub unit: Unit,
    /// Ours.
    pub ours: Figure,
    /// What it is compared with.
    pub peer: Option<Figure>,
    /// Ours to the peer's.
    pub ratio: Option<Ratio>,
    /// What is wanted.
    pub target: Option<Target>,
    /// What else there is to know.
    pub note: Option<String>,
}

/// What figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Requests in a second.
    RequestsPerSecond,
    /// MiB in a second.
    MebibytesPerSecond,
    /// Bytes for each request.
    BytesPerRequest,
    /// Bytes.
    Bytes,
    /// Nanoseconds of CPU time for each request.
    CpuNanosecondsPerRequest,
    /// Seconds of CPU time for a thousand requests.
    CpuSecondsPerThousandRequests,
    /// Instructions for each request.
    InstructionsPerRequest,
    /// Nanoseconds for each request.
    NanosecondsPerRequest,
    /// Nanoseconds.
    Nanoseconds,
    /// Hundredths of a whole.
    Percent,
}

/// What was measured of one contender.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Who.
    pub who: String,
    /// The median of the samples.
    pub median: f64,
    /// One for each round.
    pub samples: Vec<f64>,
}

/// What is wanted of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The ratio is to be at least this.
    RatioAtLeast(f64),
    /// The ratio is to be at most this.
    RatioAtMost(f64),
    /// Our figure is to be at most this.
    FigureAtMost(f64),
    /// Our figure is to be at least this.
    FigureAtLeast(f64),
}

impl Figure {
    /// The figure of some samples, of which there is at least one.
    pub fn new(who: impl Into<String>, samples: Vec<f64>) -> Self {
        Self {
            who: who.into(),
            median: median(&samples),
            samples,
        }
    }
}

impl Row {
    /// A row with our figure alone.
    pub fn of(id: impl Into<String>, work: impl Into<String>, unit: Unit, ours: Figure) -> Self {
        Self {
            id: id.into(),
            work: work.into(),
            site: None,
            unit,
            ours,
            peer: None,
            ratio: None,
            target: None,
            note: None,
        }
    }

    /// The row, compared with a peer that was measured in the same rounds.
    #[must_use]
    pub fn against(self, peer: Figure) -> Self {
        Self {
            ratio: Some(Ratio::of(&self.ours.samples, &peer.samples)),
            peer: Some(peer),
            ..self
        }
    }

    /// The row, with what is wanted of it.
    #[must_use]
    pub fn wanting(self, target: impl Into<Option<Target>>) -> Self {
        Self {
            target: target.into(),
            ..self
        }
    }

    /// The row, with where it was measured.
    #[must_use]
    pub fn at(self, site: impl Into<String>) -> Self {
        Self {
            site: Some(site.into()),
            ..self
        }
    }

    /// The row, with what else there is to know.
    #[must_use]
    pub fn noting(self, note: impl Into<String>) -> Self {
        Self {
            note: Some(note.into()),
            ..self
        }
    }

    /// Whether its target is met; nothing if it has none.
    pub fn is_met(&self) -> Option<bool> {
        let ratio = self.ratio.map(|ratio| ratio.median);
        Some(match self.target? {
            Target::RatioAtLeast(bound) => ratio? >= bound,
            Target::RatioAtMost(bound) => ratio? <= bound,
            Target::FigureAtMost(bound) => self.ours.median <= bound,
            Target::FigureAtLeast(bound) => self.ours.median >= bound,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, peer: f64) -> Row {
        let ours = Figure::new("ours", vec![ours]);
        Row::of("x", "work", Unit::RequestsPerSecond, ours)
            .against(Figure::new("theirs", vec![peer]))
    }

    #[test]
    fn targets_are_met_at_their_bounds() {
        let at_least = |ours| {
            row(ours, 100.0)
                .wanting(Target::RatioAtLeast(0.98))
                .is_met()
        };
        assert_eq!((at_least(98.0), at_least(97.0)), (Some(true), Some(false)));
        let at_most = |ours| row(ours, 100.0).wanting(Target::RatioAtMost(1.1)).is_met();
        assert_eq!((at_most(110.0), at_most(111.0)), (Some(true), Some(false)));
        let figure = |ours| {
            row(ours, 1.0)
                .wanting(Target::FigureAtMost(1000.0))
                .is_met()
        };
        assert_eq!((figure(1000.0), figure(1000.5)), (Some(true), Some(false)));
        let at_least = |ours| row(ours, 1.0).wanting(Target::FigureAtLeast(5.0)).is_met();
        assert_eq!((at_least(5.0), at_least(4.9)), (Some(true), Some(false)));
        assert_eq!(row(1.0, 2.0).is_met(), None);
    }

    #[test]
    fn a_report_survives_json() {
        let report = crate::render::fixture::report();
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
