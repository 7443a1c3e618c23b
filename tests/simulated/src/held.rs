//! What a daemon holds on behalf of guests, in a form that can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::{PATIENCE, Rig};

/// What memory of the simulation's guests is called.
const SIMULATED_MEMORY: &str = "memfd:simxen-";

/// What a daemon holds, and what it has left in the host.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// How many descriptors there are of each kind.
    pub descriptors: BTreeMap<String, usize>,
    /// How many mappings there are of each file. Not those without one: threads and allocators come and go by
    /// themselves. Nor those of guests' memory, since the simulation keeps one for each guest: grants say that.
    pub mappings: BTreeMap<String, usize>,
    /// Grants that are mapped.
    pub grants: usize,
    /// Event channels that are bound.
    pub channels: usize,
    /// Nodes of disks, and of errors, in the daemon's home.
    pub nodes: Vec<(String, String)>,
    /// Files in the runtime directory.
    pub files: Vec<String>,
}

impl Held {
    fn by(rig: &Rig) -> Self {
        let account = rig.host.accounts();
        let xenstore = rig.host.xenstore();
        let mut held = Self {
            grants: account.iter().map(|account| account.grants_mapped).sum(),
            channels: account.iter().map(|account| account.channels_bound).sum(),
            ..Self::default()
        };
        for directory in ["backend", "error"] {
            let nodes = xenstore.dump(&format!("/local/domain/0/{directory}"));
            held.nodes.extend(nodes.into_iter().filter(is_of_a_disk));
        }
        let process = format!("/proc/{}", rig.daemon.pid());
        for entry in fs::read_dir(format!("{process}/fd")).expect("its descriptors") {
            // One that was closed meanwhile is not held.
            if let Ok(target) = fs::read_link(entry.expect("a descriptor").path()) {
                *held.descriptors.entry(kind(&target)).or_default() += 1;
            }
        }
        let maps = fs::read_to_string(format!("{process}/maps")).expect("its mappings");
        for line in maps.lines() {
            if let Some(at) = line.find('/')
                && !line.contains(SIMULATED_MEMORY)
            {
                *held.mappings.entry(line[at..].to_owned()).or_default() += 1;
            }
        }
        files_below(&rig.path("run"), &mut held.files);
        held.files.sort();
        held
    }
}

/// Whether a node is of a disk, and not of the directories above, which stay as the toolstack made them.
fn is_of_a_disk((path, _): &(String, String)) -> bool {
    path.split('/').count() > 6
}

/// The kind of what a descriptor refers to. Numbers of sockets and pipes differ between two equal situations.
fn kind(target: &Path) -> String {
    let target = target.to_string_lossy();
    match target.split_once(":[") {
        Some((kind, _)) => kind.to_owned(),
        None => target.into_owned(),
    }
}

fn files_below(folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files_below(&path, files);
        }
        files.push(path.display().to_string());
    }
}

impl Rig {
    /// What the daemon holds, once that does not change any more.
    ///
    /// # Panics
    /// If it goes on changing.
    #[must_use]
    pub fn held(&self) -> Held {
        let begun = Instant::now();
        let mut held = Held::by(self);
        loop {
            // Whatever goes on takes a request to the daemon's own thread to finish.
            let _ = self.list();
            let now = Held::by(self);
            if now == held {
                return held;
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on changing: {held:?}");
            held = now;
        }
    }

    /// Waits until the daemon holds again what it held before.
    ///
    /// # Panics
    /// If it does not come to that.
    pub fn assert_holds(&self, before: &Held, after: &str) {
        let begun = Instant::now();
        loop {
            let now = Held::by(self);
            if now == *before {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{after}, it holds\n{now:#?}\nand before it held\n{before:#?}"
            );
            let _ = self.list();
        }
    }

    /// Memory of the daemon's own that it uses now, in bytes.
    ///
    /// # Panics
    /// As [`Rig::start`].
    #[must_use]
    pub fn anonymous_memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.daemon.pid()));
        let status = status.expect("its status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.expect("a size").parse::<usize>().expect("a number") << 10
    }
}
