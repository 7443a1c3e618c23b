//! What the measurements on Xen found: kept as JSON, from which the table and the document are made.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::counts::Count;
use super::sample::{Sample, SampleError, Transfer};
use super::work::{Contender, NOTHING, WORKS, Work, wanted_cpu, wanted_rate};
use crate::report::{Figure, Row, Unit};
use crate::stats::median;

/// All that one run found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct XenReport {
    /// Where and with what it ran.
    pub machine: Machine,
    /// How much was done.
    pub settings: Settings,
    /// Who had which image open, and how.
    pub files: Vec<OpenFile>,
    /// The comparisons.
    pub rows: Vec<Row>,
    /// How often the kernel and Xen are entered.
    pub counts: Vec<Count>,
}

/// Where and with what it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The day, UTC.
    pub date: String,
    /// What was measured: the commit.
    pub commit: String,
    /// The processor's model.
    pub cpu: String,
    /// How many processors there are.
    pub cpus: usize,
    /// What emulates the machine that Xen runs on.
    pub emulator: String,
    /// The part of the processors' time that anything but the emulator took meanwhile, from 0 to 1.
    pub others: f64,
    /// What runs in the emulated machine.
    pub dom0: Dom0,
}

/// Versions of what runs in the emulated machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dom0 {
    /// Xen.
    pub xen: String,
    /// Linux, of dom0 and of the guest.
    pub kernel: String,
    /// QEMU, which is behind qdisk.
    pub qemu: String,
    /// fio, in the guest.
    pub fio: String,
}

/// How much was done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether it was a smoke test, whose figures mean nothing.
    pub quick: bool,
    /// Rounds, by the guest's number of virtual processors.
    pub rounds: BTreeMap<u32, usize>,
}

/// An image that someone had open during a round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// The process, or `loop`.
    pub who: String,
    /// The image.
    pub file: String,
    /// Whether past dom0's page cache.
    pub direct: bool,
}

/// Why samples cannot be compared.
#[derive(Debug, Error)]
pub enum RowsError {
    /// A sample cannot be used.
    #[error("{work} by {contender}, {vcpus} vcpus, round {round}: {cause}")]
    Sample {
        /// What was done.
        work: String,
        /// Who did it.
        contender: String,
        /// Virtual processors of the guest.
        vcpus: u32,
        /// The round.
        round: u32,
        /// What is wrong with it.
        #[source]
        cause: SampleError,
    },
    /// A measurement was not made, or made twice.
    #[error("{work} by {contender}, {vcpus} vcpus: measured {found} times in {rounds} rounds")]
    Rounds {
        /// What was done.
        work: String,
        /// Who did it.
        contender: String,
        /// Virtual processors of the guest.
        vcpus: u32,
        /// How often it was measured.
        found: usize,
        /// How often it had to be.
        rounds: usize,
    },
}

/// How many rounds there were, by the guest's number of virtual processors.
pub fn rounds(samples: &[Sample]) -> BTreeMap<u32, usize> {
    let mut seen: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for sample in samples {
        seen.entry(sample.vcpus).or_default().insert(sample.round);
    }
    seen.into_iter()
        .map(|(vcpus, rounds)| (vcpus, rounds.len()))
        .collect()
}

/// The comparisons of ours with each peer: the rates, then dom0's processor time.
///
/// # Errors
/// If a measurement is missing or cannot be used.
pub fn rows(samples: &[Sample]) -> Result<Vec<Row>, RowsError> {
    let mut rows = Vec::new();
    for (vcpus, rounds) in rounds(samples) {
        let pass = Pass {
            samples,
            vcpus,
            rounds,
        };
        for work in WORKS {
            let ours = pass.measured(work, Contender::Ours)?;
            for peer in Contender::PEERS {
                let theirs = pass.measured(work, peer)?;
                let rate = Row::of(
                    format!("speed-{}", work.id),
                    work.title,
                    work.unit(),
                    ours.rate.clone(),
                );
                rows.push(
                    rate.against(theirs.rate)
                        .wanting(wanted_rate(work.kind, peer))
                        .at(site(vcpus)),
                );
                let cpu = Row::of(
                    format!("cpu-{}", work.id),
                    work.title,
                    Unit::CpuSecondsPerThousandRequests,
                    ours.cpu.clone(),
                );
                rows.push(
                    cpu.against(theirs.cpu)
                        .wanting(wanted_cpu(peer))
                        .at(site(vcpus)),
                );
            }
        }
    }
    Ok(rows)
}

/// Where a row was measured.
pub fn site(vcpus: u32) -> String {
    let plural = if vcpus == 1 { "" } else { "s" };
    format!("{vcpus} vcpu{plural}")
}

/// Processor time for a request of which less is noise, in a few requests of a smoke test even less than nothing.
const LEAST_NS: f64 = 1000.0;

/// The samples of guests with so many processors.
struct Pass<'a> {
    samples: &'a [Sample],
    vcpus: u32,
    rounds: usize,
}

/// One contender's figures for one work.
struct Measured {
    rate: Figure,
    cpu: Figure,
}

impl Pass<'_> {
    fn measured(&self, work: Work, contender: Contender) -> Result<Measured, RowsError> {
        let beside = self.of(NOTHING, contender)?;
        let beside: Vec<f64> = beside.iter().map(|sample| sample.dom0_ns as f64).collect();
        // Of all rounds together: one of them varies as much as a small work takes.
        let beside_ns = median(&beside);
        let mut rates = Vec::new();
        let mut cpu = Vec::new();
        for sample in self.of(work.id, contender)? {
            let transfer = Transfer::parse(&sample.fio).map_err(|cause| RowsError::Sample {
                work: work.id.to_owned(),
                contender: contender.id().to_owned(),
                vcpus: self.vcpus,
                round: sample.round,
                cause,
            })?;
            let requests = (transfer.kibibytes / work.block_kib) as f64;
            let counted = match work.unit() {
                Unit::MebibytesPerSecond => transfer.kibibytes as f64 / 1024.0,
                _ => requests,
            };
            rates.push(counted * 1000.0 / transfer.elapsed_ms as f64);
            let busy_ns = (sample.dom0_ns as f64 - beside_ns).max(LEAST_NS * requests);
            cpu.push(busy_ns / 1e9 / requests * 1000.0);
        }
        Ok(Measured {
            rate: Figure::new(contender.title(), rates),
            cpu: Figure::new(contender.title(), cpu),
        })
    }

    /// The samples of one work by one contender, by rounds.
    fn of(&self, work: &str, contender: Contender) -> Result<Vec<&Sample>, RowsError> {
        let of_this = |sample: &&Sample| {
            sample.vcpus == self.vcpus && sample.work == work && sample.contender == contender.id()
        };
        let mut found: Vec<&Sample> = self.samples.iter().filter(of_this).collect();
        found.sort_by_key(|sample| sample.round);
        let distinct: BTreeSet<u32> = found.iter().map(|sample| sample.round).collect();
        if found.len() != self.rounds || distinct.len() != self.rounds {
            return Err(RowsError::Rounds {
                work: work.to_owned(),
                contender: contender.id().to_owned(),
                vcpus: self.vcpus,
                found: found.len(),
                rounds: self.rounds,
            });
        }
        Ok(found)
    }
}

#[cfg(test)]
pub(super) mod tests;
