//! The disks: to list them, to look at one, and to change how they are served.

use std::path::PathBuf;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use control_api::{Disk, Policies, Statistics};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use xenstore_glue::DeviceId;
use xenstore_glue::runner::DeviceStatus;

use super::Context;
use super::refusal::{Body, Refusal};
use crate::devices::{Device, ResizeError};

/// The kinds of devices, as directories below `backend`.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "for the description; paths are read by the glue")]
pub(super) enum Class {
    Vbd,
    Vbd3,
}

/// Every disk that the daemon knows, with how it is doing.
#[utoipa::path(get, path = "/v1/devices", tag = "disks",
    responses((status = OK, body = Vec<Disk>), Refusal))]
pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<Disk>>, Refusal> {
    let statuses = context.statuses().await?;
    let mut statistics = context.devices.survey().await.statistics();
    let described = |status: DeviceStatus| {
        let statistics = statistics.remove(&status.device);
        describe(status, &context, statistics)
    };
    Ok(Json(statuses.into_iter().map(described).collect()))
}

/// One disk.
#[utoipa::path(get, path = "/v1/devices/{class}/{domid}/{devid}", tag = "disks",
    params(("class" = Class, Path), ("domid" = u16, Path, maximum = 32751), ("devid" = u32, Path, maximum = 4294967295.0)),
    responses((status = OK, body = Disk), Refusal))]
pub(super) async fn inspect(
    State(context): State<Context>,
    path: Result<Path<(String, String, String)>, PathRejection>,
) -> Result<Json<Disk>, Refusal> {
    let device = device(path)?;
    let status = context.status(device).await?;
    let statistics = context.devices.statistics(device).await;
    Ok(Json(describe(status, &context, statistics)))
}

/// What is told of a disk.
fn describe(status: DeviceStatus, context: &Context, statistics: Option<Statistics>) -> Disk {
    let device = status.device;
    let known = context.devices.get(device);
    let vdev = known.as_ref().map(|known| known.vdev.clone());
    Disk {
        device: device.to_string(),
        domid: device.domid.raw(),
        devid: device.devid.raw(),
        vdev: vdev.unwrap_or_default(),
        image: known.as_ref().map(Device::image),
        read_only: known.is_some_and(|known| known.read_only),
        state: format!("{:?}", status.backend_state),
        frontend_state: format!("{:?}", status.frontend),
        connected: status.connected,
        reason: status.reason,
        statistics: statistics.filter(|_| status.image_open),
    }
}

/// The device that a path names.
fn device(
    path: Result<Path<(String, String, String)>, PathRejection>,
) -> Result<DeviceId, Refusal> {
    let Path((class, domid, devid)) = path?;
    parse(&format!("backend/{class}/{domid}/{devid}"))
}

fn parse(device: &str) -> Result<DeviceId, Refusal> {
    device
        .parse()
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, &error))
}

/// Changes how a disk is served. This holds until its image is closed; what the disk's target says holds again then.
#[utoipa::path(patch, path = "/v1/devices/{class}/{domid}/{devid}", tag = "disks", request_body = Policies,
    params(("class" = Class, Path), ("domid" = u16, Path, maximum = 32751), ("devid" = u32, Path, maximum = 4294967295.0)),
    responses((status = OK, body = Disk), Refusal))]
pub(super) async fn set_policies(
    State(context): State<Context>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    Body(policies): Body<Policies>,
) -> Result<Json<Disk>, Refusal> {
    let device = device(path)?;
    if policies == Policies::default() {
        let error = "nothing is to be changed: give on_enospc or detect_zeroes";
        return Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, &error));
    }
    let status = context.status(device).await?;
    let Some(statistics) = context.devices.set_policies(device, policies).await else {
        let error = format!("{device}: its image is not open");
        return Err(Refusal::new(StatusCode::CONFLICT, &error));
    };
    tracing::info!(%device, on_enospc = statistics.on_enospc.as_str(), detect_zeroes = statistics.detect_zeroes, "policies changed");
    Ok(Json(describe(status, &context, Some(statistics))))
}

/// Names a disk by its image, which no two disks write to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Resize {
    /// The path of the image, by whichever name.
    #[schema(value_type = String)]
    image: PathBuf,
    /// The size that it is to have. It can only grow.
    #[serde(deserialize_with = "whole_number")]
    virtual_size_bytes: u64,
}

/// A number without a fraction, also if it is written with a point: in JSON both are the same.
fn whole_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let text = number.to_string();
    let whole = text.strip_suffix(".0").unwrap_or(&text);
    whole
        .parse()
        .map_err(|_| D::Error::custom(format!("{number} is not a whole number of 64 bits")))
}

/// A disk that has grown.
#[derive(Serialize, ToSchema)]
pub(super) struct Resized {
    device: String,
    virtual_size_bytes_before: u64,
    virtual_size_bytes: u64,
}

/// Makes a disk larger, and tells its guest. Not found: no disk is served from this image, so that others than the daemon
/// may know more.
#[utoipa::path(post, path = "/v1/resize", tag = "disks", request_body = Resize,
    responses((status = OK, body = Resized), Refusal))]
pub(super) async fn resize(
    State(context): State<Context>,
    Body(wanted): Body<Resize>,
) -> Result<Json<Resized>, Refusal> {
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

/// Names a device by its xenbus path.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    #[schema(
        example = "backend/vbd3/5/51712",
        pattern = "^backend/(vbd|vbd3)/(0|[1-9][0-9]{0,3}|[12][0-9]{4}|3[01][0-9]{3})/(0|[1-9][0-9]{0,8})$"
    )]
    device: String,
}

/// What the toolstack is to know of a disk.
#[derive(Serialize, ToSchema)]
pub(super) struct Added {
    /// The socket at which QEMU finds the disk, or the image where there is none.
    path: String,
}

/// The hotplug script was asked to add a disk. The answer comes when its image is open.
#[utoipa::path(post, path = "/v1/hotplug/add", tag = "hotplug", request_body = Named,
    responses((status = OK, body = Added), Refusal))]
pub(super) async fn hotplug_add(
    State(context): State<Context>,
    Body(named): Body<Named>,
) -> Result<Json<Added>, Refusal> {
    let device = parse(&named.device)?;
    context
        .handle
        .hotplug_add(device)
        .await
        .map_err(|reason| context.refuse_to_script(&reason))?;
    let path = context.devices.path_for_toolstack(device);
    let path = path.unwrap_or_default();
    Ok(Json(Added { path }))
}

/// Nothing more to say.
#[derive(Serialize, ToSchema)]
pub(super) struct Removed {}

/// The hotplug script was asked to remove a disk. The answer comes when its image is closed.
#[utoipa::path(post, path = "/v1/hotplug/remove", tag = "hotplug", request_body = Named,
    responses((status = OK, body = Removed), Refusal))]
pub(super) async fn hotplug_remove(
    State(context): State<Context>,
    Body(named): Body<Named>,
) -> Result<Json<Removed>, Refusal> {
    context
        .handle
        .hotplug_remove(parse(&named.device)?)
        .await
        .map_err(|reason| context.refuse_to_script(&reason))?;
    Ok(Json(Removed {}))
}
