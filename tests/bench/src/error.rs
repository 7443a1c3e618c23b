//! Why a measurement could not be made.

use std::io;

use blockio::image::ImageError;
use thiserror::Error;

use crate::direct::DirectError;

/// Why a measurement could not be made.
#[derive(Debug, Error)]
pub enum BenchError {
    /// The system refused something.
    #[error("cannot {what}: {cause}")]
    Io {
        /// What was attempted, on what.
        what: String,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// A program failed.
    #[error("`{command}` failed, {status}: {stderr}")]
    Failed {
        /// The whole command.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A program printed something else than it should have.
    #[error("`{command}` printed what cannot be used: {problem}")]
    Output {
        /// The whole command.
        command: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A report cannot be read or written.
    #[error("{path}: not a report of the benchmark: {cause}")]
    Report {
        /// Its file.
        path: String,
        /// Why not.
        #[source]
        cause: serde_json::Error,
    },
    /// Nothing matches what `--only` asks for.
    #[error("no row's name contains {0:?}")]
    NoSuchRow(String),
    /// It needs to be root.
    #[error("the benchmark makes loop devices and mounts file systems: run it as root")]
    NotRoot,
    /// An image could not be made.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image could not be driven.
    #[error(transparent)]
    Direct(#[from] DirectError),
    /// The simulated host, or the daemon on it, did not do as it should.
    #[error(transparent)]
    Simulation(#[from] simxen::Error),
    /// A daemon does not serve, or does not say what it uses.
    #[error("process {pid} of the daemon: {problem}")]
    Process {
        /// Which.
        pid: i32,
        /// What is wrong.
        problem: String,
    },
    /// The daemon's worker cannot be watched.
    #[error("no profile of the worker: {0}")]
    NoProfile(String),
    /// A guest's request was answered with an error.
    #[error("a request was answered with status {0}")]
    Request(i16),
}

impl BenchError {
    /// Wraps the system's refusal to do `what`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |cause| Self::Io { what, cause }
    }
}

/// The result of making a measurement.
pub type Result<T> = std::result::Result<T, BenchError>;
