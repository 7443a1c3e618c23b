//! What the toolstack wrote in a backend directory.

use thiserror::Error;

use super::api::{BackendConfig, DeviceMode, RunnerError};
use super::store::Store;
use crate::frontend::Node;
use crate::types::{DeviceClass, DeviceId, DomId, excerpt};

/// The file name of the hotplug script that makes a device ours.
const SCRIPT: &str = "block-cow";

/// A device of ours, and whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The frontend's directory, absolute.
    pub(super) frontend: String,
    pub(super) frontend_domid: DomId,
}

/// Why a device is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum NotOurs {
    #[error("there is no device {0} in xenstore")]
    Absent(DeviceId),
    #[error("device {device} is for the script {script}, not for {SCRIPT}")]
    OtherScript { device: DeviceId, script: String },
    #[error("device {device} is ours, but its node {node} is {value}")]
    Unusable {
        device: DeviceId,
        node: &'static str,
        value: String,
    },
}

/// Whether the device is ours.
pub(super) async fn identify(
    store: &Store,
    device: DeviceId,
) -> Result<Result<Identity, NotOurs>, RunnerError> {
    let paths = ["script", "frontend", "frontend-id"].map(|name| device.node(name));
    let nodes = store.read_all(&paths).await?;
    let [script, frontend, frontend_id] = &nodes[..] else {
        return Ok(Err(NotOurs::Absent(device)));
    };
    Ok(identity(device, script, frontend, frontend_id))
}

fn identity(
    device: DeviceId,
    script: &Node,
    frontend: &Node,
    frontend_id: &Node,
) -> Result<Identity, NotOurs> {
    let Some(script) = script.value() else {
        return Err(NotOurs::Absent(device));
    };
    if script.rsplit('/').next() != Some(SCRIPT) {
        return Err(NotOurs::OtherScript {
            device,
            script: excerpt(script),
        });
    }
    let unusable = |node, value: &Node| NotOurs::Unusable {
        device,
        node,
        value: value.value().map_or("missing".into(), excerpt),
    };
    let frontend_domid: DomId = frontend_id
        .value()
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| unusable("frontend-id", frontend_id))?;
    let frontend = frontend
        .value()
        .filter(|path| is_frontend_path(path, frontend_domid))
        .ok_or_else(|| unusable("frontend", frontend))?;
    Ok(Identity {
        frontend: frontend.to_owned(),
        frontend_domid,
    })
}

/// A directory within the frontend domain's home. The toolstack writes it and is trusted; this keeps
/// its mistakes from becoming reads elsewhere.
fn is_frontend_path(path: &str, domid: DomId) -> bool {
    const MAX_BYTES: usize = 256;
    let home = format!("/local/domain/{domid}/");
    let Some(below) = path.strip_prefix(&home) else {
        return false;
    };
    let sane = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_@".contains(&byte))
    };
    path.len() <= MAX_BYTES && below.split('/').all(sane)
}

/// Reads what there is to know for opening the image; an error is a sentence.
pub(super) async fn read_config(
    store: &Store,
    device: DeviceId,
    frontend_domid: DomId,
) -> Result<Result<BackendConfig, String>, RunnerError> {
    const NAMES: [&str; 6] = [
        "params",
        "mode",
        "device-type",
        "dev",
        "removable",
        "discard-enable",
    ];
    let mut paths = NAMES.map(|name| device.node(name)).to_vec();
    paths.push(format!("/local/domain/{frontend_domid}/vm"));
    paths.push(format!("/local/domain/{frontend_domid}/name"));
    let nodes = store.read_all(&paths).await?;
    let value = |index: usize| nodes.get(index).and_then(Node::value);

    let Some(params) = value(0) else {
        return Ok(Err(format!("device {device} has no params node")));
    };
    let mode = match value(1) {
        Some("r") => DeviceMode::ReadOnly,
        Some("w") => DeviceMode::Writable,
        Some("w!") => DeviceMode::WritableShared,
        other => {
            let other = other.map_or("missing".into(), excerpt);
            return Ok(Err(format!("mode of device {device} is {other}")));
        }
    };
    Ok(Ok(BackendConfig {
        params: target(device.class, params).to_owned(),
        mode,
        device_type: value(2).unwrap_or("disk").to_owned(),
        vdev: value(3).unwrap_or_default().to_owned(),
        frontend_domid,
        removable: value(4) == Some("1"),
        discard_enable: value(5) != Some("0"),
        domain_name: value(7).map(str::to_owned),
        vm: value(6).map(str::to_owned),
    }))
}

/// libxl puts the format before the target of its tap disks, and calls the raw one `aio`.
fn target(class: DeviceClass, params: &str) -> &str {
    match class {
        DeviceClass::Vbd => params,
        DeviceClass::Vbd3 => params.strip_prefix("aio:").unwrap_or(params),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> DeviceId {
        "backend/vbd3/1/51712".parse().unwrap()
    }

    fn identity_of(script: &str, frontend: &str, id: &str) -> Result<Identity, NotOurs> {
        let node = |value: &str| Node::Value(value.to_owned());
        identity(device(), &node(script), &node(frontend), &node(id))
    }

    #[test]
    fn ours_are_those_with_our_script() {
        let frontend = "/local/domain/1/device/vbd/51712";
        assert!(identity_of("/etc/xen/scripts/block-cow", frontend, "1").is_ok());
        assert!(identity_of("block-cow", frontend, "1").is_ok());
        for other in [
            "/etc/xen/scripts/block-tap",
            "/x/block-cow/y",
            "block-cow2",
            "",
        ] {
            assert!(matches!(
                identity_of(other, frontend, "1"),
                Err(NotOurs::OtherScript { .. })
            ));
        }
    }

    #[test]
    fn frontends_live_in_their_own_domain() {
        for bad in [
            "",
            "/local/domain/2/device/vbd/51712",
            "/local/domain/1/device/../../2/x",
            "/local/domain/1/",
            "/local/domain/1/device//vbd",
            "device/vbd/51712",
        ] {
            assert!(identity_of("block-cow", bad, "1").is_err(), "{bad}");
        }
        assert_eq!(
            identity_of("block-cow", "/local/domain/1/device/vbd/51712", "x")
                .unwrap_err()
                .to_string(),
            "device backend/vbd3/1/51712 is ours, but its node frontend-id is \"x\""
        );
    }

    #[test]
    fn only_tap_disks_carry_a_format() {
        assert_eq!(target(DeviceClass::Vbd3, "aio:dscow:/a:/b"), "dscow:/a:/b");
        assert_eq!(target(DeviceClass::Vbd, "aio:/a"), "aio:/a");
    }
}
