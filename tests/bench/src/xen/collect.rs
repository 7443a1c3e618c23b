//! Reading what `tests/xen/bench/run` has left.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::counts::{self, CountError};
use super::report::{self, Dom0, Machine, RowsError, Settings, XenReport};
use crate::error::BenchError;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum CollectError {
    /// A file is not there.
    #[error(transparent)]
    Read(#[from] BenchError),
    /// A file holds something else.
    #[error("{}, line {line}: {cause}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
    /// The measurements cannot be compared.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// Nor the counts.
    #[error(transparent)]
    Counts(#[from] CountError),
}

/// What the host's side writes down.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostSide {
    date: String,
    commit: String,
    cpu: String,
    cpus: usize,
    emulator: String,
    others: f64,
    quick: bool,
}

/// Makes a report of what is in this folder.
///
/// # Errors
/// Names the file that is missing or cannot be understood, or the measurement.
pub fn collect(folder: &Path) -> Result<XenReport, CollectError> {
    let measured = folder.join("measure");
    let host: HostSide = one(&measured.join("host.json"))?;
    let dom0: Dom0 = one(&measured.join("dom0.json"))?;
    let samples = lines(&measured.join("samples.jsonl"))?;
    let counted = folder.join("count").join("counts.jsonl");
    // A run may be asked to do without; the report says so.
    let counted = match counted.exists() {
        true => lines(&counted)?,
        false => Vec::new(),
    };
    Ok(XenReport {
        machine: Machine {
            date: host.date,
            commit: host.commit,
            cpu: host.cpu,
            cpus: host.cpus,
            emulator: host.emulator,
            others: host.others,
            dom0,
        },
        settings: Settings {
            quick: host.quick,
            rounds: report::rounds(&samples),
        },
        files: lines(&measured.join("files.jsonl"))?,
        rows: report::rows(&samples)?,
        counts: counts::counts(&counted)?,
    })
}

fn read(path: &Path) -> Result<String, BenchError> {
    fs::read_to_string(path).map_err(BenchError::io(format!("read {}", path.display())))
}

fn one<T: DeserializeOwned>(path: &Path) -> Result<T, CollectError> {
    parse(path, 1, &read(path)?)
}

fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, CollectError> {
    let text = read(path)?;
    let numbered = text.lines().enumerate();
    numbered
        .map(|(index, line)| parse(path, index + 1, line))
        .collect()
}

fn parse<T: DeserializeOwned>(path: &Path, line: usize, text: &str) -> Result<T, CollectError> {
    serde_json::from_str(text).map_err(|cause| CollectError::Json {
        path: path.to_owned(),
        line,
        cause,
    })
}
