//! What is done on Xen, who does it, and what is wanted of ours. The names are those of `tests/xen/bench/dom0`.

use crate::report::{Target, Unit};

/// One kind of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Its name.
    pub id: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// The size of a request, in KiB.
    pub block_kib: u64,
    /// How it counts in targets.
    pub kind: Kind,
}

/// How a work counts in targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One request at a time, of blocks that were not written before.
    ShallowFirstWrite,
    /// One request at a time.
    Shallow,
    /// One request at a time, each write followed by a flush.
    Flushed,
    /// Many requests at a time.
    Deep,
    /// Large requests in the order of the disk.
    Sequential,
}

const fn work(id: &'static str, title: &'static str, block_kib: u64, kind: Kind) -> Work {
    Work {
        id,
        title,
        block_kib,
        kind,
    }
}

/// Starting and ending fio: what is done besides the requests.
pub const NOTHING: &str = "nothing";

/// All works, as they are shown.
pub const WORKS: [Work; 11] = [
    work(
        "first-write-1",
        "4 KiB random first writes, depth 1",
        4,
        Kind::ShallowFirstWrite,
    ),
    work(
        "rewrite-1",
        "4 KiB random rewrites, depth 1",
        4,
        Kind::Shallow,
    ),
    work("read-1", "4 KiB random reads, depth 1", 4, Kind::Shallow),
    work(
        "first-write-fsync-1",
        "4 KiB random first writes, an fsync after each",
        4,
        Kind::Flushed,
    ),
    work(
        "rewrite-fsync-1",
        "4 KiB random rewrites, an fsync after each",
        4,
        Kind::Flushed,
    ),
    work(
        "first-write-32",
        "4 KiB random first writes, depth 32",
        4,
        Kind::Deep,
    ),
    work(
        "rewrite-32",
        "4 KiB random rewrites, depth 32",
        4,
        Kind::Deep,
    ),
    work("read-32", "4 KiB random reads, depth 32", 4, Kind::Deep),
    work(
        "first-sequential-write",
        "256 KiB sequential first writes, depth 4",
        256,
        Kind::Sequential,
    ),
    work(
        "sequential-rewrite",
        "256 KiB sequential rewrites, depth 4",
        256,
        Kind::Sequential,
    ),
    work(
        "sequential-read",
        "256 KiB sequential reads, depth 4",
        256,
        Kind::Sequential,
    ),
];

impl Work {
    /// What its rates count.
    pub const fn unit(self) -> Unit {
        match self.kind {
            Kind::Sequential => Unit::MebibytesPerSecond,
            _ => Unit::RequestsPerSecond,
        }
    }
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// cowbackd with an overlay.
    Ours,
    /// The kernel's backend on a loop device on a raw file.
    Blkback,
    /// QEMU with a raw file.
    QdiskRaw,
    /// QEMU with an overlay.
    Qcow2,
    /// The kernel's backend on a device-mapper snapshot.
    Snapshot,
}

impl Contender {
    /// Whom ours is compared with.
    pub const PEERS: [Self; 4] = [Self::Blkback, Self::QdiskRaw, Self::Qcow2, Self::Snapshot];

    /// The name in samples.
    pub const fn id(self) -> &'static str {
        match self {
            Self::Ours => "cowback",
            Self::Blkback => "blkback",
            Self::QdiskRaw => "qdisk",
            Self::Qcow2 => "qcow2",
            Self::Snapshot => "snapshot",
        }
    }

    /// The name for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Blkback => "blkback raw",
            Self::QdiskRaw => "qdisk raw",
            Self::Qcow2 => "qdisk qcow2",
            Self::Snapshot => "blkback dm-snapshot",
        }
    }
}

/// How fast ours is to be, compared with a peer.
pub fn wanted_rate(kind: Kind, peer: Contender) -> Option<Target> {
    let bound = match (peer, kind) {
        (Contender::Blkback, Kind::Deep | Kind::Sequential) => 1.0,
        (Contender::Blkback, Kind::Shallow | Kind::ShallowFirstWrite) => 0.9,
        (Contender::Qcow2, Kind::ShallowFirstWrite) => 3.0,
        (Contender::Snapshot, Kind::ShallowFirstWrite) => 5.0,
        _ => return None,
    };
    Some(Target::RatioAtLeast(bound))
}

/// How much processor time of dom0 ours may take, compared with a peer.
pub fn wanted_cpu(peer: Contender) -> Option<Target> {
    (peer == Contender::Blkback).then_some(Target::RatioAtMost(1.25))
}
