//! A disk, how it is doing, and how it is to be served.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::Ref;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema};

use crate::latency::Latencies;

/// A disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Disk {
    /// Its xenbus path: type, domain and number.
    #[schema(example = "backend/vbd3/5/51712")]
    pub device: String,
    /// The number of its guest's domain.
    pub domid: u16,
    /// Its number in the guest.
    pub devid: u32,
    /// Its name in the guest.
    pub vdev: String,
    /// The path of its image.
    pub image: Option<String>,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
    /// The backend's xenbus state.
    pub state: String,
    /// The frontend's xenbus state.
    pub frontend_state: String,
    /// Whether its rings are served.
    pub connected: bool,
    /// Why it is not served, if it could not be.
    pub reason: Option<String>,
    /// Absent while its image is not open.
    #[serde(flatten)]
    #[schema(schema_with = statistics_or_none)]
    pub statistics: Option<Statistics>,
}

/// What a disk has beside the rest while its image is open.
fn statistics_or_none() -> Schema {
    AnyOfBuilder::new()
        .item(Ref::from_schema_name("Statistics"))
        .item(ObjectBuilder::new())
        .build()
        .into()
}

/// How a disk is doing. Counts are since its image was opened.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Statistics {
    /// What is done for a write that finds no space on the host.
    pub on_enospc: OnEnospc,
    /// Whether writes are searched for blocks of zeros, which become holes.
    pub detect_zeroes: bool,
    /// Size of the virtual disk in bytes.
    pub virtual_size_bytes: u64,
    /// Blocks allocated, in bytes.
    pub allocated_bytes: u64,
    /// Requests answered.
    pub reads: u64,
    /// As above.
    pub writes: u64,
    /// As above.
    pub flushes: u64,
    /// As above.
    pub discards: u64,
    /// Bytes read by the guest.
    pub read_bytes: u64,
    /// Bytes written by the guest.
    pub written_bytes: u64,
    /// Requests that failed: storage did not do them, or the guest's pages could not be reached.
    pub failed: u64,
    /// Requests that were refused because they broke the protocol.
    pub rejected: u64,
    /// How often no more was taken from a ring, since what was taken already took too much memory.
    pub throttles: u64,
    /// Blocks that were copied up from the base.
    pub copy_ups: u64,
    /// Commits of the bitmap.
    pub commits: u64,
    /// Pages of the guest that are kept mapped.
    pub kept_pages: u64,
    /// Requests taken and not answered at this moment.
    pub in_flight: u64,
    /// Writes that wait for space on the host at this moment.
    pub waiting_for_space: u64,
    /// How often a write had to wait for space.
    pub space_waits: u64,
    /// QEMUs that are connected at this moment.
    pub emulated_clients: u64,
    /// Requests of theirs, which are in none of the counts above.
    pub emulated_requests: u64,
    /// How long the guest's requests took that did not fail.
    pub latency: Latencies,
}

/// What is done for a write that finds no space on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnEnospc {
    /// It waits until there is some.
    #[default]
    Pause,
    /// The guest is told of the error.
    Report,
}

impl OnEnospc {
    /// The word for it, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Report => "report",
        }
    }
}

/// How a disk is to be served from now on. What is not given stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1)]
pub struct Policies {
    /// What is done for a write that finds no space on the host, and for those that wait already.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub on_enospc: Option<OnEnospc>,
    /// Whether writes are searched for blocks of zeros, which become holes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub detect_zeroes: Option<bool>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_disk_is_told_and_read_with_and_without_statistics() {
        let plain = Disk::default();
        let open = Disk {
            statistics: Some(Statistics {
                on_enospc: OnEnospc::Report,
                reads: 3,
                ..Statistics::default()
            }),
            ..Disk::default()
        };
        let through = |disk: &Disk| -> Disk {
            serde_json::from_value(serde_json::to_value(disk).unwrap()).unwrap()
        };
        assert!(through(&plain).statistics.is_none());
        let told = serde_json::to_value(&open).unwrap();
        assert_eq!(
            (&told["reads"], &told["on_enospc"]),
            (&json!(3), &json!("report"))
        );
        assert_eq!(through(&open).statistics.unwrap().reads, 3);
    }

    #[test]
    fn only_what_is_to_change_is_said() {
        let policies = Policies {
            on_enospc: Some(OnEnospc::Report),
            detect_zeroes: None,
        };
        let said = serde_json::to_value(policies).unwrap();
        assert_eq!(said, json!({"on_enospc": OnEnospc::Report.as_str()}));
    }
}
