//! How much is measured: all of it, or just enough to see that it works.

use serde::{Deserialize, Serialize};

/// Sizes in bytes and counts of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// The disk behind the measurements on allocated blocks.
    pub disk: u64,
    /// The disk behind the measurements of first writes, larger, since guests' disks are mostly empty.
    pub sparse_disk: u64,
    /// The device on which all images are.
    pub device: u64,
    /// Random requests without a protocol.
    pub direct_requests: u64,
    /// Random requests over NBD.
    pub nbd_requests: u64,
    /// First writes.
    pub first_writes: u64,
    /// First writes that are synced one by one.
    pub synced_writes: u64,
    /// Requests for each figure of the engine alone.
    pub engine_requests: u64,
    /// Requests for each figure from ring to ring.
    #[serde(default)]
    pub ring_requests: u64,
    /// Disks attached to one daemon.
    #[serde(default)]
    pub disks: usize,
    /// How many of them are busy at once.
    #[serde(default)]
    pub busy_disks: usize,
    /// The disk that is opened.
    pub opened_disk: u64,
    /// How much of it is allocated.
    pub opened_allocated: u64,
}

impl Scale {
    /// What the figures in the documentation are made with.
    pub const FULL: Self = Self {
        disk: 1 << 30,
        sparse_disk: 2 << 30,
        device: 7 << 30,
        direct_requests: 200_000,
        nbd_requests: 40_000,
        first_writes: 16_384,
        synced_writes: 2_048,
        engine_requests: 1_000_000,
        ring_requests: 1_000_000,
        disks: 1_000,
        busy_disks: 100,
        opened_disk: 1 << 40,
        opened_allocated: 10 << 30,
    };

    /// A smoke test; its figures mean nothing.
    pub const QUICK: Self = Self {
        disk: 64 << 20,
        sparse_disk: 128 << 20,
        device: 1 << 30,
        direct_requests: 4_000,
        nbd_requests: 2_000,
        first_writes: 1_024,
        synced_writes: 128,
        engine_requests: 20_000,
        ring_requests: 20_000,
        disks: 40,
        busy_disks: 10,
        opened_disk: 1 << 40,
        opened_allocated: 10 << 30,
    };
}
