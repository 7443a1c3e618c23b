//! The connection of a frontend over xenstore, in the order in which Linux's blkfront does it.

use std::time::Duration;

use super::FrontendOptions;
use super::ring::FrontRing;
use crate::error::{Error, Result};
use crate::toolstack::Disk;
use crate::xenstore::Transaction;

/// What the backend says of the disk and of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskInfo {
    /// Size of the disk, in sectors of 512 bytes.
    pub sectors: u64,
    /// `VDISK_*` flags: 1 CD-ROM, 2 removable, 4 read-only.
    pub info: u32,
    /// Logical sector size, in bytes.
    pub sector_size: u32,
    /// Physical sector size, in bytes.
    pub physical_sector_size: u32,
    /// Whether grants may stay mapped.
    pub persistent: bool,
    /// Whether flushes are understood.
    pub flush: bool,
    /// Whether barriers are understood.
    pub barrier: bool,
    /// Whether discards are understood.
    pub discard: bool,
    /// In bytes; zero if it is not said.
    pub discard_granularity: u32,
    /// In bytes.
    pub discard_alignment: u32,
    /// Whether secure discards are understood.
    pub discard_secure: bool,
    /// Most segments of an indirect request; zero if there are none.
    pub indirect_segments_max: u32,
    /// Most pages of a ring, as an exponent of two.
    pub ring_order_max: u32,
    /// Most queues; zero if the backend says nothing of queues.
    pub queues_max: u32,
}

impl DiskInfo {
    pub(super) fn read(disk: &Disk) -> Self {
        let number = |name: &str| -> u64 {
            let text = disk.xenstore().read_text(&disk.backend_node(name));
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let small = |name: &str| u32::try_from(number(name)).unwrap_or(u32::MAX);
        let flag = |name: &str| number(name) == 1;
        Self {
            sectors: number("sectors"),
            info: small("info"),
            sector_size: small("sector-size"),
            physical_sector_size: small("physical-sector-size"),
            persistent: flag("feature-persistent"),
            flush: flag("feature-flush-cache"),
            barrier: flag("feature-barrier"),
            discard: flag("feature-discard"),
            discard_granularity: small("discard-granularity"),
            discard_alignment: small("discard-alignment"),
            discard_secure: flag("discard-secure"),
            indirect_segments_max: small("feature-max-indirect-segments"),
            ring_order_max: small("max-ring-page-order"),
            queues_max: small("multi-queue-max-queues"),
        }
    }
}

/// Waits for one of the backend's states.
pub(super) fn wait_for_backend(disk: &Disk, wanted: &[&str], timeout: Duration) -> Result<String> {
    let node = disk.backend_node("state");
    let is_wanted = |state: Option<&[u8]>| {
        state.is_some_and(|state| wanted.iter().any(|wanted| wanted.as_bytes() == state))
    };
    let state = disk
        .xenstore()
        .wait_for(&node, is_wanted, timeout)
        .map_err(|error| match error {
            Error::Timeout { waited, last, .. } => Error::Timeout {
                what: format!("{node} to be {}", wanted.join(" or ")),
                waited,
                last,
            },
            other => other,
        })?;
    Ok(String::from_utf8_lossy(&state.unwrap_or_default()).into_owned())
}

/// Brings the frontend into state 1 and waits for the backend to be in state 2.
pub(super) fn begin(disk: &Disk, timeout: Duration) -> Result<DiskInfo> {
    if disk.frontend_state() != 1 {
        set_state(disk, 1)?;
    }
    wait_for_backend(disk, &["2"], timeout)?;
    Ok(DiskInfo::read(disk))
}

pub(super) fn set_state(disk: &Disk, state: u32) -> Result<()> {
    disk.xenstore()
        .write(&disk.frontend_node("state"), state.to_string())
}

/// Publishes the rings, goes to state 3, waits for the backend's 4 and goes to 4 as well.
pub(super) fn connect(
    disk: &Disk,
    rings: &[FrontRing],
    options: &FrontendOptions,
) -> Result<DiskInfo> {
    loop {
        let transaction = disk.xenstore().transaction();
        publish(&transaction, disk, rings, options)?;
        if transaction.commit()? {
            break;
        }
    }
    set_state(disk, 3)?;
    let reached = wait_for_backend(disk, &["4", "5", "6"], options.timeout)?;
    if reached != "4" {
        return Err(Error::Protocol(format!(
            "the backend went to state {reached} instead of connecting; its error node: {:?}",
            disk.xenstore()
                .read_text(&disk.backend_node("hotplug-error"))
        )));
    }
    let info = DiskInfo::read(disk);
    set_state(disk, 4)?;
    Ok(info)
}

fn publish(
    transaction: &Transaction,
    disk: &Disk,
    rings: &[FrontRing],
    options: &FrontendOptions,
) -> Result<()> {
    let home = disk.frontend_path();
    if rings.len() > 1 {
        let count = rings.len().to_string();
        transaction.write(&format!("{home}/multi-queue-num-queues"), count)?;
    }
    if options.ring_order > 0 {
        let order = options.ring_order.to_string();
        transaction.write(&format!("{home}/ring-page-order"), order)?;
    }
    for (queue, ring) in rings.iter().enumerate() {
        let directory = if rings.len() > 1 {
            format!("{home}/queue-{queue}")
        } else {
            home.to_owned()
        };
        publish_ring(transaction, &directory, ring, options)?;
    }
    if let Some(protocol) = &options.protocol_node() {
        transaction.write(&format!("{home}/protocol"), protocol)?;
    }
    let persistent = if options.persistent { "1" } else { "0" };
    transaction.write(&format!("{home}/feature-persistent"), persistent)
}

fn publish_ring(
    transaction: &Transaction,
    directory: &str,
    ring: &FrontRing,
    options: &FrontendOptions,
) -> Result<()> {
    match ring.grants() {
        [only] if !options.numbered_ring_refs => {
            transaction.write(&format!("{directory}/ring-ref"), only.to_string())?;
        }
        grants => {
            for (index, grant) in grants.iter().enumerate() {
                transaction.write(&format!("{directory}/ring-ref{index}"), grant.to_string())?;
            }
        }
    }
    let port = ring.channel().port().to_string();
    transaction.write(&format!("{directory}/event-channel"), port)
}
