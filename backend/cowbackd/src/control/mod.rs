//! The control API: HTTP with JSON on a unix socket, described by itself at `/v1/openapi.json`. Every refusal is
//! `{"error": "a sentence"}`.
//!
//! What Prometheus reads is on a socket of its own, since what is passed on from there may go to anybody.

mod access;
mod daemon;
mod devices;
mod metrics;
mod refusal;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use axum::Json;
use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware;
use axum::routing::get;
use control_api::Statistics;
use tokio::net::UnixListener;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use xenstore_glue::DeviceId;
use xenstore_glue::runner::{DeviceStatus, Handle};

use self::access::Peer;
use self::refusal::{Refusal, RefusalBody};
use crate::daemon::DaemonError;
use crate::devices::Devices;
use crate::logging::Log;
use crate::settings::ControlAccess;

/// Names of the sockets in the runtime directory.
const SOCKET: &str = "control.sock";
const METRICS_SOCKET: &str = "metrics.sock";

/// Where the daemon listens.
pub(crate) struct Sockets {
    control: UnixListener,
    metrics: UnixListener,
}

/// Makes the sockets.
pub(crate) fn listen(runtime_dir: &Path, access: ControlAccess) -> Result<Sockets, DaemonError> {
    let mode = match access {
        ControlAccess::Root => 0o600,
        ControlAccess::Group => 0o660,
    };
    let listen = |name| {
        let path = runtime_dir.join(name);
        access::listen(&path, mode).map_err(|cause| DaemonError::Control { path, cause })
    };
    Ok(Sockets {
        control: listen(SOCKET)?,
        metrics: listen(METRICS_SOCKET)?,
    })
}

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) handle: Handle,
    pub(crate) devices: Devices,
    pub(crate) log: Log,
    pub(crate) started: Instant,
    /// The same by the host's clock as it was then: two readers are told the same.
    pub(crate) started_at: SystemTime,
    /// The daemon is stopping: the next one will do better.
    pub(crate) ending: Arc<AtomicBool>,
}

impl Context {
    /// What the hotplug script is told: this, or that the daemon is ending.
    fn refuse_to_script(&self, reason: &str) -> Refusal {
        let status = if self.ending.load(Ordering::Acquire) {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::CONFLICT
        };
        Refusal::new(status, &reason)
    }

    /// How every device is doing that the daemon knows.
    async fn statuses(&self) -> Result<Vec<DeviceStatus>, Refusal> {
        let snapshot = self.handle.snapshot().await;
        snapshot.map_err(|error| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &error))
    }

    /// How a device is doing.
    async fn status(&self, device: DeviceId) -> Result<DeviceStatus, Refusal> {
        let statuses = self.statuses().await?;
        let mut statuses = statuses.into_iter();
        let found = statuses.find(|status| status.device == device);
        found.ok_or_else(|| {
            let error = format!("{device}: cowbackd does not serve such a disk");
            Refusal::new(StatusCode::NOT_FOUND, &error)
        })
    }
}

/// The description of the API.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "cowbackd",
        description = "The control API of the cowback daemon, on the unix socket /run/cowback/control.sock."
    ),
    components(schemas(RefusalBody, devices::Class, Statistics)),
    tags((name = "disks"), (name = "daemon"), (name = "hotplug", description = "For the hotplug script"))
)]
struct Description;

/// The control API, with its description.
fn api() -> (Router<Context>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(devices::list))
        .routes(routes!(devices::inspect, devices::set_policies))
        .routes(routes!(devices::resize))
        .routes(routes!(devices::hotplug_add))
        .routes(routes!(devices::hotplug_remove))
        .routes(routes!(daemon::show))
        .routes(routes!(daemon::log, daemon::set_log))
        .split_for_parts()
}

/// Serves the control API, and the metrics.
pub(crate) async fn serve(sockets: Sockets, context: Context) -> io::Result<()> {
    let (router, description) = api();
    let description = Arc::new(description);
    let metrics = get(metrics::show);
    let control = router
        .route(
            "/v1/openapi.json",
            get(async move || Json((*description).clone())),
        )
        .route("/metrics", metrics.clone())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(access::check))
        .with_state(context.clone());
    let metrics = Router::new()
        .route("/metrics", metrics)
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(context);
    let control = control.into_make_service_with_connect_info::<Peer>();
    tokio::try_join!(
        async { axum::serve(sockets.control, control).await },
        async { axum::serve(sockets.metrics, metrics).await },
    )?;
    Ok(())
}

async fn unknown(uri: Uri) -> Refusal {
    let error = format!("there is no {}; see /v1/openapi.json", uri.path());
    Refusal::new(StatusCode::NOT_FOUND, &error)
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    let error = format!(
        "{} does not know {method}; see /v1/openapi.json",
        uri.path()
    );
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, &error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who changes the API sees here what others will see of it.
    #[test]
    fn the_description_names_every_path() {
        let (_, description) = api();
        let described: Vec<_> = description.paths.paths.keys().map(String::as_str).collect();
        let expected = [
            "/v1/daemon",
            "/v1/devices",
            "/v1/devices/{class}/{domid}/{devid}",
            "/v1/hotplug/add",
            "/v1/hotplug/remove",
            "/v1/log",
            "/v1/resize",
        ];
        assert_eq!(described, expected);
        let text = serde_json::to_string(&description).unwrap();
        for reference in text.split("#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            let components = description.components.as_ref().unwrap();
            assert!(
                components.schemas.contains_key(name),
                "{name} is not described"
            );
        }
    }
}
