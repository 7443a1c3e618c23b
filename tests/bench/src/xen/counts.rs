//! How often dom0 enters its kernel and Xen for a request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::sample::{CountSample, SampleError, Transfer};
use super::work::{NOTHING, WORKS};

/// What one request takes, on average.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Count {
    /// What is done.
    pub work: String,
    /// The name of who does it.
    pub who: String,
    /// System calls of the backend's process, by their names; those of the kernel's backend are none.
    pub system_calls: BTreeMap<String, f64>,
    /// Hypercalls of dom0, by their names.
    pub hypercalls: BTreeMap<String, f64>,
}

/// Why there is no count.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CountError {
    /// A sample cannot be used.
    #[error("counting {work} by {who}: {cause}")]
    Sample {
        /// What was done.
        work: String,
        /// Who did it.
        who: String,
        /// What is wrong with it.
        #[source]
        cause: SampleError,
    },
    /// What is done beside the requests was not counted.
    #[error("nothing but the requests of {0} was counted")]
    NothingBeside(String),
}

/// What each request took in these samples, without what was counted when nothing was done.
///
/// # Errors
/// If a sample cannot be used, or the one of nothing is missing.
pub fn counts(samples: &[CountSample]) -> Result<Vec<Count>, CountError> {
    let mut counts = Vec::new();
    for sample in samples {
        let Some(work) = WORKS.iter().find(|work| work.id == sample.work) else {
            continue;
        };
        let beside = samples
            .iter()
            .find(|other| other.work == NOTHING && other.contender == sample.contender)
            .ok_or_else(|| CountError::NothingBeside(sample.contender.clone()))?;
        let transfer = Transfer::parse(&sample.fio).map_err(|cause| CountError::Sample {
            work: sample.work.clone(),
            who: sample.contender.clone(),
            cause,
        })?;
        let requests = (transfer.kibibytes / work.block_kib) as f64;
        counts.push(Count {
            work: work.title.to_owned(),
            who: sample.contender.clone(),
            system_calls: for_each(&sample.system_calls, &beside.system_calls, requests),
            hypercalls: for_each(&sample.hypercalls, &beside.hypercalls, requests),
        });
    }
    Ok(counts)
}

fn for_each(
    counted: &BTreeMap<String, u64>,
    beside: &BTreeMap<String, u64>,
    requests: f64,
) -> BTreeMap<String, f64> {
    let of_requests = |(name, count): (&String, &u64)| {
        let beside = beside.get(name).copied().unwrap_or(0);
        (name.clone(), count.saturating_sub(beside) as f64 / requests)
    };
    counted.iter().map(of_requests).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::xen::sample::tests::fio_line;

    /// Ours, which reads 100 blocks with 250 calls, of which 50 are made anyway.
    pub(in crate::xen) fn samples() -> Vec<CountSample> {
        let sample = |work: &str, calls: u64, kibibytes: &str| CountSample {
            work: work.to_owned(),
            contender: "cowback".to_owned(),
            fio: fio_line(&[(5, kibibytes), (8, "1000")]),
            system_calls: BTreeMap::from([
                ("io_uring_enter".to_owned(), calls),
                ("(to-kernel-worker)".to_owned(), calls - 50),
            ]),
            hypercalls: BTreeMap::from([("iret".to_owned(), 2 * calls), ("rare".to_owned(), 1)]),
        };
        vec![sample("read-1", 250, "400"), sample(NOTHING, 50, "4")]
    }

    #[test]
    fn a_request_takes_what_nothing_does_not() {
        let counts = counts(&samples()).unwrap();
        assert_eq!(counts.len(), 1);
        assert_eq!(counts[0].work, "4 KiB random reads, depth 1");
        assert_eq!(counts[0].system_calls["io_uring_enter"], 2.0);
        assert_eq!(counts[0].hypercalls["iret"], 4.0);
        assert_eq!(counts[0].hypercalls["rare"], 0.0);
    }

    #[test]
    fn what_cannot_be_told_is_named() {
        let mut samples = samples();
        samples[0].fio = fio_line(&[(4, "5")]);
        assert_eq!(
            counts(&samples).unwrap_err().to_string(),
            "counting read-1 by cowback: fio met the error 5"
        );
        samples.truncate(1);
        assert_eq!(
            counts(&samples),
            Err(CountError::NothingBeside("cowback".to_owned()))
        );
    }
}
