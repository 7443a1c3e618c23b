//! The daemon itself: what it is, how its workers are doing, and what it logs.

use std::process;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Context;
use super::refusal::{Body, Refusal};

/// The daemon.
#[derive(Serialize, ToSchema)]
pub(super) struct Daemon {
    version: &'static str,
    pid: u32,
    /// How long it has been running.
    uptime_seconds: f64,
    workers: Vec<Worker>,
}

/// A worker thread.
#[derive(Serialize, ToSchema)]
struct Worker {
    /// Disks whose images are open.
    disks: usize,
    /// What it has used of a processor.
    cpu_seconds: f64,
}

/// What the daemon is, and how its workers are doing.
#[utoipa::path(get, path = "/v1/daemon", tag = "daemon", responses((status = OK, body = Daemon), Refusal))]
pub(super) async fn show(State(context): State<Context>) -> Result<Json<Daemon>, Refusal> {
    let survey = context.devices.survey().await;
    let workers = survey.0.iter().map(|survey| Worker {
        disks: survey.vbds.len(),
        cpu_seconds: survey.cpu_time.as_secs_f64(),
    });
    Ok(Json(Daemon {
        version: env!("CARGO_PKG_VERSION"),
        pid: process::id(),
        uptime_seconds: context.started.elapsed().as_secs_f64(),
        workers: workers.collect(),
    }))
}

/// What is logged.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    /// A level, and levels for parts of the daemon.
    #[schema(
        example = "info,blockio=debug",
        pattern = "^([A-Za-z0-9_:]+=)?(off|error|warn|info|debug|trace)(,([A-Za-z0-9_:]+=)?(off|error|warn|info|debug|trace))*$"
    )]
    filter: String,
}

/// What is logged.
#[utoipa::path(get, path = "/v1/log", tag = "daemon", responses((status = OK, body = Log), Refusal))]
pub(super) async fn log(State(context): State<Context>) -> Result<Json<Log>, Refusal> {
    let filter = context.log.filter();
    Ok(Json(Log { filter }))
}

/// Changes what is logged, until the daemon ends.
#[utoipa::path(put, path = "/v1/log", tag = "daemon", request_body = Log,
    responses((status = OK, body = Log), Refusal))]
pub(super) async fn set_log(
    State(context): State<Context>,
    Body(log): Body<Log>,
) -> Result<Json<Log>, Refusal> {
    context.log.set(&log.filter).map_err(|error| {
        let error = format!("filter {:?}: {error}", log.filter);
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, &error)
    })?;
    tracing::info!("logging by the filter {:?} from now on", log.filter);
    Ok(Json(log))
}
