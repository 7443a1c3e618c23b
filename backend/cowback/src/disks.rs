//! The disks that the daemon serves: how they are named and shown.

use std::time::Duration;

use control_api::Disk;
use serde_json::Value;

use crate::client::{Client, ClientError};

/// A duration in few letters.
pub(crate) fn display(duration: Option<Duration>) -> String {
    match duration.map(|duration| duration.as_micros()) {
        None => "-".to_owned(),
        Some(micros @ 0..1_000) => format!("{micros}us"),
        Some(micros @ 1_000..1_000_000) => format!("{}.{}ms", micros / 1_000, micros / 100 % 10),
        Some(micros) => format!("{}.{}s", micros / 1_000_000, micros / 100_000 % 10),
    }
}

/// The path of a disk in the API, by its xenbus path, with or without `backend/` in front, or as domain and name in the
/// guest: `vbd3/5/51712` or `5:xvda`.
pub(crate) fn api_path(client: &Client<'_>, name: &str) -> Result<String, ClientError> {
    let device = match name.split_once(':') {
        Some((domid, vdev)) => {
            let disks: Vec<Disk> = client.get("/v1/devices")?;
            let is_meant = |disk: &&Disk| disk.domid.to_string() == domid && disk.vdev == vdev;
            let found = disks.iter().find(is_meant).map(|disk| disk.device.clone());
            found.ok_or_else(|| {
                let known = disks
                    .iter()
                    .map(|disk| format!("{}:{}", disk.domid, disk.vdev));
                let known: Vec<_> = known.collect();
                let known = match known.len() {
                    0 => "no disk at all".to_owned(),
                    _ => known.join(", "),
                };
                ClientError::NotFound(format!(
                    "{name}: cowbackd does not serve such a disk; it serves {known}"
                ))
            })?
        }
        None => name.to_owned(),
    };
    let device = device.strip_prefix("backend/").unwrap_or(&device);
    if !device
        .chars()
        .all(|letter| letter.is_ascii_alphanumeric() || letter == '/')
    {
        let error =
            format!("{name}: is neither like 5:xvda nor a xenbus path like backend/vbd3/5/51712");
        return Err(ClientError::NotFound(error));
    }
    Ok(format!("/v1/devices/{device}"))
}

/// How many of a disk's writes wait for space on the host, if any do.
pub(crate) fn no_space(disk: &Disk) -> Option<String> {
    let waiting = disk.statistics.as_ref()?.waiting_for_space;
    (waiting > 0).then(|| format!("NO SPACE ({waiting} wait)"))
}

/// A disk as the daemon describes it, for programs, and for us.
pub(crate) fn read(value: Value) -> Result<Disk, ClientError> {
    serde_json::from_value(value).map_err(ClientError::Answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let shown = |micros| display(Some(Duration::from_micros(micros)));
        assert_eq!(shown(999), "999us");
        assert_eq!(shown(1_500), "1.5ms");
        assert_eq!(shown(12_340_000), "12.3s");
        assert_eq!(display(None), "-");
    }
}
