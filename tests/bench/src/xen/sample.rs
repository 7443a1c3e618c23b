//! What one measurement on Xen left: a line of JSON, in which fio's own line is.

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

/// Fields of fio's terse output, version 3, counted from 0; see "TERSE OUTPUT" in fio(1). Those of writes are in the same
/// order as those of reads.
mod field {
    pub(super) const VERSION: usize = 0;
    pub(super) const ERROR: usize = 4;
    pub(super) const READ: usize = 5;
    pub(super) const WRITE: usize = 46;
    pub(super) const KIBIBYTES: usize = 0;
    pub(super) const RUNTIME_MS: usize = 3;
}

/// A measurement, as dom0 writes it down.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Virtual processors of the guest.
    pub vcpus: u32,
    /// Which round, from 1.
    pub round: u32,
    /// The name of what was done.
    pub work: String,
    /// The name of who did it.
    pub contender: String,
    /// Processor time of dom0, by Xen's account, from before fio started until after it ended.
    pub dom0_ns: u64,
    /// Processor time of the guest.
    pub guest_ns: u64,
    /// fio's line.
    pub fio: String,
}

/// How often the kernel and Xen were entered during a work, as dom0 writes it down.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountSample {
    /// The name of what was done.
    pub work: String,
    /// The name of who did it.
    pub contender: String,
    /// fio's line.
    pub fio: String,
    /// System calls of cowbackd, by their names.
    pub system_calls: BTreeMap<String, u64>,
    /// Hypercalls of dom0, by their names.
    pub hypercalls: BTreeMap<String, u64>,
}

/// What fio measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What was read and written, in KiB.
    pub kibibytes: u64,
    /// How long that took, in milliseconds, which is how fio counts.
    pub elapsed_ms: u64,
}

/// Why a line is not a measurement.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SampleError {
    /// fio printed something else.
    #[error("fio's line has no number in field {0}")]
    Field(usize),
    /// fio prints another version of the format.
    #[error("fio's line has version {0}, not 3")]
    Version(u64),
    /// fio met an error.
    #[error("fio met the error {0}")]
    Failed(u64),
    /// Nothing was transferred.
    #[error("fio transferred nothing")]
    Nothing,
}

impl Transfer {
    /// What fio says in a line of terse output.
    ///
    /// # Errors
    /// If fio failed, did nothing, or printed something else.
    pub fn parse(line: &str) -> Result<Self, SampleError> {
        let fields: Vec<&str> = line.split(';').collect();
        let number = |index: usize| {
            let field = fields
                .get(index)
                .and_then(|field| field.parse::<u64>().ok());
            field.ok_or(SampleError::Field(index))
        };
        match number(field::VERSION)? {
            3 => {}
            version => return Err(SampleError::Version(version)),
        }
        match number(field::ERROR)? {
            0 => {}
            error => return Err(SampleError::Failed(error)),
        }
        for direction in [field::READ, field::WRITE] {
            let kibibytes = number(direction + field::KIBIBYTES)?;
            if kibibytes > 0 {
                return Ok(Self {
                    kibibytes,
                    elapsed_ms: number(direction + field::RUNTIME_MS)?.max(1),
                });
            }
        }
        Err(SampleError::Nothing)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A line of fio, with these fields set.
    pub(in crate::xen) fn fio_line(set: &[(usize, &str)]) -> String {
        let mut fields = vec!["0"; 130];
        fields[0] = "3";
        for (index, value) in set {
            fields[*index] = value;
        }
        fields.join(";")
    }

    fn transfer(line: impl AsRef<str>) -> Result<Transfer, SampleError> {
        Transfer::parse(line.as_ref())
    }

    #[test]
    fn reads_and_writes_are_found_where_fio_prints_them() {
        // The beginnings of the two halves of a line that fio 3.39 printed.
        let read = fio_line(&[(5, "200"), (6, "1754"), (7, "438"), (8, "114")]);
        let expected = |kibibytes, elapsed_ms| {
            Ok(Transfer {
                kibibytes,
                elapsed_ms,
            })
        };
        assert_eq!(transfer(read), expected(200, 114));
        let write = fio_line(&[(46, "1200"), (47, "1340"), (48, "335"), (49, "895")]);
        assert_eq!(transfer(write), expected(1200, 895));
    }

    #[test]
    fn what_is_no_measurement_is_refused() {
        assert_eq!(transfer(fio_line(&[])), Err(SampleError::Nothing));
        let failed = fio_line(&[(4, "5"), (5, "4")]);
        assert_eq!(transfer(failed), Err(SampleError::Failed(5)));
        let version = fio_line(&[(0, "5")]);
        assert_eq!(transfer(version), Err(SampleError::Version(5)));
        assert_eq!(transfer("3;fio"), Err(SampleError::Field(4)));
    }
}
