//! The control API: HTTP with JSON on a unix socket. Every refusal is `{"error": "a sentence"}`.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use xenstore_glue::DeviceId;
use xenstore_glue::runner::{DeviceStatus, Handle};

use crate::daemon::DaemonError;
use crate::devices::{Devices, ResizeError};
use crate::worker::VbdStatistics;

/// Name of the socket in the runtime directory.
const SOCKET: &str = "control.sock";

/// Makes the control socket, for root only. One that an earlier daemon left behind is replaced.
pub(crate) fn listen(runtime_dir: &Path) -> Result<UnixListener, DaemonError> {
    let path = runtime_dir.join(SOCKET);
    try_listen(&path).map_err(|cause| DaemonError::Control { path, cause })
}

fn try_listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// What the handlers work with.
#[derive(Clone)]
struct Context {
    handle: Handle,
    devices: Devices,
}

/// Serves the control API.
pub(crate) async fn serve(
    listener: UnixListener,
    handle: Handle,
    devices: Devices,
) -> io::Result<()> {
    let router = Router::new()
        .route("/v1/devices", get(list))
        .route("/v1/hotplug/add", post(hotplug_add))
        .route("/v1/hotplug/remove", post(hotplug_remove))
        .route("/v1/resize", post(resize))
        .with_state(Context { handle, devices });
    axum::serve(listener, router).await
}

/// A refusal.
struct Refusal {
    status: StatusCode,
    error: String,
}

impl Refusal {
    fn new(status: StatusCode, error: &impl ToString) -> Self {
        Self {
            status,
            error: error.to_string(),
        }
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), &rejection.body_text())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "error": self.error });
        (self.status, Json(body)).into_response()
    }
}

/// A device in the list.
#[derive(Serialize)]
struct Listed {
    device: String,
    domid: u16,
    devid: u32,
    vdev: String,
    image: Option<String>,
    read_only: bool,
    state: String,
    frontend_state: String,
    connected: bool,
    reason: Option<String>,
    #[serde(flatten)]
    statistics: Option<VbdStatistics>,
}

async fn list(State(context): State<Context>) -> Result<Json<Vec<Listed>>, Refusal> {
    let snapshot = context
        .handle
        .snapshot()
        .await
        .map_err(|error| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, &error))?;
    let mut listed = Vec::with_capacity(snapshot.len());
    for status in snapshot {
        listed.push(describe(&context.devices, status).await);
    }
    Ok(Json(listed))
}

async fn describe(devices: &Devices, status: DeviceStatus) -> Listed {
    let device = status.device;
    let known = devices.get(device);
    let statistics = if status.image_open {
        devices.statistics(device).await
    } else {
        None
    };
    Listed {
        device: device.to_string(),
        domid: device.domid.raw(),
        devid: device.devid.raw(),
        vdev: known
            .as_ref()
            .map(|known| known.vdev.clone())
            .unwrap_or_default(),
        image: known.as_ref().map(crate::devices::Device::image),
        read_only: known.is_some_and(|known| known.read_only),
        state: format!("{:?}", status.backend_state),
        frontend_state: format!("{:?}", status.frontend),
        connected: status.connected,
        reason: status.reason,
        statistics,
    }
}

/// Names a device by its xenbus path.
#[derive(Deserialize)]
struct Named {
    device: String,
}

impl Named {
    fn id(&self) -> Result<DeviceId, Refusal> {
        self.device
            .parse()
            .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, &error))
    }
}

#[derive(Serialize)]
struct Added {
    image: String,
    /// For the toolstack: the socket at which QEMU finds the disk, or the image.
    path: String,
}

async fn hotplug_add(
    State(context): State<Context>,
    body: Result<Json<Named>, JsonRejection>,
) -> Result<Json<Added>, Refusal> {
    let Json(named) = body?;
    let device = named.id()?;
    context
        .handle
        .hotplug_add(device)
        .await
        .map_err(|reason| Refusal::new(StatusCode::CONFLICT, &reason))?;
    let image = context
        .devices
        .get(device)
        .map(|known| known.image())
        .unwrap_or_default();
    let path = context.devices.path_for_toolstack(device);
    let path = path.unwrap_or_default();
    Ok(Json(Added { image, path }))
}

async fn hotplug_remove(
    State(context): State<Context>,
    body: Result<Json<Named>, JsonRejection>,
) -> Result<Json<serde_json::Value>, Refusal> {
    let Json(named) = body?;
    context
        .handle
        .hotplug_remove(named.id()?)
        .await
        .map_err(|reason| Refusal::new(StatusCode::CONFLICT, &reason))?;
    Ok(Json(serde_json::json!({})))
}

/// Names a disk by its image, which no two disks write to.
#[derive(Deserialize)]
struct Resize {
    /// The path of the image, by whichever name.
    image: PathBuf,
    virtual_size_bytes: u64,
}

#[derive(Serialize)]
struct Resized {
    device: String,
    virtual_size_bytes_before: u64,
    virtual_size_bytes: u64,
}

/// Not found: no disk is served from this image, so that others than the daemon may know more.
async fn resize(
    State(context): State<Context>,
    body: Result<Json<Resize>, JsonRejection>,
) -> Result<Json<Resized>, Refusal> {
    let Json(wanted) = body?;
    let resized = context
        .devices
        .resize(&wanted.image, wanted.virtual_size_bytes)
        .await
        .map_err(|error| {
            let status = match error {
                ResizeError::NotServed(_) => StatusCode::NOT_FOUND,
                _ => StatusCode::CONFLICT,
            };
            Refusal::new(status, &error)
        })?;
    Ok(Json(Resized {
        device: resized.device.to_string(),
        virtual_size_bytes_before: resized.before,
        virtual_size_bytes: resized.after,
    }))
}
