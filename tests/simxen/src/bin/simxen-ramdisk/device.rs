//! A device and its states.

use std::io;
use std::os::fd::RawFd;

use crate::Machine;
use crate::ring::{INDIRECT_SEGMENTS_MAX, Layout, PageAccess, Ring};

const RING_ORDER_MAX: u32 = 4;
const QUEUES_MAX: u32 = 4;

pub(crate) struct Device {
    path: String,
    rings: Vec<Ring>,
}

impl Device {
    pub(crate) fn new(path: String) -> Self {
        Self {
            path,
            rings: Vec::new(),
        }
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.rings.iter().map(|ring| ring.channel.fd())
    }

    pub(crate) fn serve(&mut self, machine: &Machine) -> io::Result<()> {
        self.rings
            .iter_mut()
            .try_for_each(|ring| ring.serve(machine))
    }

    fn set(&self, machine: &mut Machine, name: &str, value: &str) -> io::Result<()> {
        machine.store.write(&format!("{}/{name}", self.path), value)
    }

    fn number(&self, machine: &mut Machine, name: &str) -> io::Result<u32> {
        let node = format!("{}/{name}", self.path);
        Ok(machine.store.number(&node)?.unwrap_or(0))
    }

    /// Looks at both ends' states and does what comes next.
    pub(crate) fn follow(&mut self, machine: &mut Machine) -> io::Result<()> {
        let home = machine.store.read(&format!("{}/frontend", self.path))?;
        let home = home.unwrap_or_default();
        let frontend = machine.store.number(&format!("{home}/state"))?.unwrap_or(0);
        let backend = self.number(machine, "state")?;
        let online = self.number(machine, "online")? == 1;
        match (backend, frontend) {
            (1, _) => self.announce(machine),
            (2, 3 | 4) => self.connect(machine, &home),
            // Found so after a restart.
            (4, 4) if self.rings.is_empty() => self.map_rings(machine, &home),
            (2 | 4, 5) | (4, 0) => {
                self.rings.clear();
                self.set(machine, "state", "5")
            }
            (4 | 5, 6) | (5, 0 | 1) => {
                self.rings.clear();
                self.set(machine, "state", "6")
            }
            (6, 1) if online => self.announce(machine),
            _ => Ok(()),
        }
    }

    fn announce(&self, machine: &mut Machine) -> io::Result<()> {
        let persistent = machine.access == PageAccess::Persistent;
        for (name, value) in [
            ("feature-persistent", u32::from(persistent)),
            ("feature-flush-cache", 1),
            ("feature-discard", 1),
            (
                "feature-max-indirect-segments",
                u32::try_from(INDIRECT_SEGMENTS_MAX).unwrap_or(0),
            ),
            ("max-ring-page-order", RING_ORDER_MAX),
            ("multi-queue-max-queues", QUEUES_MAX),
        ] {
            self.set(machine, name, &value.to_string())?;
        }
        self.set(machine, "state", "2")
    }

    fn connect(&mut self, machine: &mut Machine, home: &str) -> io::Result<()> {
        let status = format!("{}/hotplug-status", self.path);
        if machine.store.read(&status)?.as_deref() != Some("connected") {
            return Ok(());
        }
        self.map_rings(machine, home)?;
        let sectors = machine.image.metadata()?.len() / 512;
        self.set(machine, "sectors", &sectors.to_string())?;
        self.set(machine, "info", "0")?;
        self.set(machine, "sector-size", "512")?;
        self.set(machine, "physical-sector-size", "4096")?;
        self.set(machine, "state", "4")
    }

    fn map_rings(&mut self, machine: &mut Machine, home: &str) -> io::Result<()> {
        let domain = self.number(machine, "frontend-id")?;
        let protocol = machine.store.read(&format!("{home}/protocol"))?;
        let layout = Layout {
            aligned_to_8: protocol.as_deref() != Some("x86_32-abi"),
        };
        let queues = machine
            .store
            .number(&format!("{home}/multi-queue-num-queues"))?;
        let directories = match queues {
            Some(count) => (0..count).map(|n| format!("{home}/queue-{n}")).collect(),
            None => vec![home.to_owned()],
        };
        for directory in directories {
            let grants = ring_grants(machine, &directory)?;
            let port = machine
                .store
                .number(&format!("{directory}/event-channel"))?;
            let port = port.ok_or_else(|| io::Error::other("no event-channel"))?;
            let ring = Ring::new(machine, domain, &grants, port, layout)?;
            self.rings.push(ring);
        }
        Ok(())
    }
}

fn ring_grants(machine: &mut Machine, directory: &str) -> io::Result<Vec<u32>> {
    if let Some(only) = machine.store.number(&format!("{directory}/ring-ref"))? {
        return Ok(vec![only]);
    }
    let mut grants = Vec::new();
    while let Some(grant) = machine
        .store
        .number(&format!("{directory}/ring-ref{}", grants.len()))?
    {
        grants.push(grant);
    }
    Ok(grants)
}
