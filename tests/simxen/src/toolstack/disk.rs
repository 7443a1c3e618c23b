//! A disk: what the user asked for, and the nodes that stand for it.

use super::hotplug::Hotplug;
use super::vdev::device_number;
use crate::error::Result;
use crate::hypervisor::Domain;
use crate::ids::{DOM0, DomId};
use crate::xenstore::{Transaction, Xenstore};

/// Which backend directory a disk is in, and so how it was specified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// `backend/vbd`: a disk with only `script=`.
    Vbd,
    /// `backend/vbd3`: a disk with `backendtype=tap` on Xen 4.19 and later.
    Vbd3,
}

impl BackendKind {
    /// The name of the directory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vbd => "vbd",
            Self::Vbd3 => "vbd3",
        }
    }

    /// What libxl writes into `type` (`libxl_device_disk_string_of_backend`).
    fn type_node(self) -> &'static str {
        match self {
            Self::Vbd => "phy",
            Self::Vbd3 => "tap",
        }
    }
}

/// What `xl` is told of a disk.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    pub(super) vdev: String,
    pub(super) target: String,
    pub(super) backend_kind: BackendKind,
    pub(super) script: String,
    pub(super) read_only: bool,
    pub(super) discard: bool,
    pub(super) direct_io_safe: bool,
    pub(super) protocol: Option<String>,
    pub(super) hotplug: Hotplug,
}

impl DiskSpec {
    /// A writable disk in `vbd3` with `script=block-cow`; its hotplug step says only that it is connected.
    #[must_use]
    pub fn new(vdev: &str, target: &str) -> Self {
        Self {
            vdev: vdev.to_owned(),
            target: target.to_owned(),
            backend_kind: BackendKind::Vbd3,
            script: "/etc/xen/scripts/block-cow".to_owned(),
            read_only: false,
            discard: true,
            direct_io_safe: false,
            protocol: None,
            hotplug: Hotplug::Pretend {
                physical_device_path: String::new(),
            },
        }
    }

    /// In which directory the backend is.
    #[must_use]
    pub fn backend_kind(mut self, kind: BackendKind) -> Self {
        self.backend_kind = kind;
        self
    }

    /// The script, with its path.
    #[must_use]
    pub fn script(mut self, path: &str) -> Self {
        path.clone_into(&mut self.script);
        self
    }

    /// A disk that the guest may only read.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Whether `discard-enable` is set; it is by default.
    #[must_use]
    pub fn discard(mut self, enabled: bool) -> Self {
        self.discard = enabled;
        self
    }

    /// A disk with `direct-io-safe`.
    #[must_use]
    pub fn direct_io_safe(mut self) -> Self {
        self.direct_io_safe = true;
        self
    }

    /// The ABI that libxl writes for a PV guest; by default none, as for HVM and PVH.
    #[must_use]
    pub fn protocol(mut self, protocol: &str) -> Self {
        self.protocol = Some(protocol.to_owned());
        self
    }

    /// What happens in the hotplug step.
    #[must_use]
    pub fn hotplug(mut self, hotplug: Hotplug) -> Self {
        self.hotplug = hotplug;
        self
    }
}

/// A disk of a domain: where its nodes are.
#[derive(Clone, Debug)]
pub struct Disk {
    xenstore: Xenstore,
    domain: Domain,
    spec: DiskSpec,
    device_number: u32,
    frontend_path: String,
    backend_path: String,
    libxl_path: String,
}

impl Disk {
    pub(super) fn new(xenstore: Xenstore, domain: Domain, spec: DiskSpec) -> Result<Self> {
        let number = device_number(&spec.vdev)?;
        let id = domain.id();
        let kind = spec.backend_kind.name();
        Ok(Self {
            frontend_path: format!("/local/domain/{id}/device/vbd/{number}"),
            backend_path: format!("/local/domain/{DOM0}/backend/{kind}/{id}/{number}"),
            libxl_path: format!("/libxl/{id}/device/vbd/{number}"),
            device_number: number,
            xenstore,
            domain,
            spec,
        })
    }

    /// The domain that has the disk.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The store that has the nodes.
    #[must_use]
    pub fn xenstore(&self) -> &Xenstore {
        &self.xenstore
    }

    /// The number of the virtual device.
    #[must_use]
    pub fn device_number(&self) -> u32 {
        self.device_number
    }

    /// `/local/domain/<domain>/device/vbd/<number>`.
    #[must_use]
    pub fn frontend_path(&self) -> &str {
        &self.frontend_path
    }

    /// `/local/domain/0/backend/<kind>/<domain>/<number>`.
    #[must_use]
    pub fn backend_path(&self) -> &str {
        &self.backend_path
    }

    /// The backend's path as the script gets it in `XENBUS_PATH`: relative to domain 0's home.
    #[must_use]
    pub fn xenbus_path(&self) -> &str {
        self.backend_path
            .strip_prefix("/local/domain/0/")
            .unwrap_or(&self.backend_path)
    }

    /// A node of the frontend.
    #[must_use]
    pub fn frontend_node(&self, name: &str) -> String {
        format!("{}/{name}", self.frontend_path)
    }

    /// A node of the backend.
    #[must_use]
    pub fn backend_node(&self, name: &str) -> String {
        format!("{}/{name}", self.backend_path)
    }

    /// The backend's state as in `XenbusState`, zero if it has none.
    #[must_use]
    pub fn backend_state(&self) -> u32 {
        self.number(&self.backend_node("state"))
    }

    /// The frontend's state as in `XenbusState`, zero if it has none.
    #[must_use]
    pub fn frontend_state(&self) -> u32 {
        self.number(&self.frontend_node("state"))
    }

    fn number(&self, path: &str) -> u32 {
        let text = self.xenstore.read_text(path);
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub(super) fn spec(&self) -> &DiskSpec {
        &self.spec
    }

    pub(super) fn write_nodes(&self) -> Result<()> {
        loop {
            let transaction = self.xenstore.transaction();
            self.write_nodes_in(&transaction)?;
            if transaction.commit()? {
                return Ok(());
            }
        }
    }

    fn write_nodes_in(&self, transaction: &Transaction) -> Result<()> {
        let guest = self.domain.id();
        let backend_nodes = self.backend_nodes();
        transaction.write(
            &format!("{}/frontend", self.libxl_path),
            &self.frontend_path,
        )?;
        transaction.write(&format!("{}/backend", self.libxl_path), &self.backend_path)?;

        transaction.mkdir(&self.frontend_path)?;
        set_owner(transaction, &self.frontend_path, guest, DOM0)?;
        transaction.write(&self.frontend_node("backend"), &self.backend_path)?;
        for (name, value) in self.frontend_nodes() {
            transaction.write(&self.frontend_node(name), value)?;
        }

        transaction.mkdir(&self.backend_path)?;
        set_owner(transaction, &self.backend_path, DOM0, guest)?;
        transaction.write(&self.backend_node("frontend"), &self.frontend_path)?;
        for (name, value) in &backend_nodes {
            transaction.write(&self.backend_node(name), value)?;
            transaction.write(&format!("{}/{name}", self.libxl_path), value)?;
        }
        Ok(())
    }

    fn frontend_nodes(&self) -> Vec<(&'static str, String)> {
        let mut nodes = vec![
            ("backend-id", DOM0.to_string()),
            ("state", "1".to_owned()),
            ("virtual-device", self.device_number.to_string()),
            ("device-type", "disk".to_owned()),
            ("trusted", "1".to_owned()),
        ];
        if let Some(protocol) = &self.spec.protocol {
            nodes.push(("protocol", protocol.clone()));
        }
        nodes
    }

    fn backend_nodes(&self) -> Vec<(&'static str, String)> {
        let spec = &self.spec;
        let flag = |set: bool| if set { "1" } else { "0" }.to_owned();
        let params = match spec.backend_kind {
            BackendKind::Vbd => spec.target.clone(),
            BackendKind::Vbd3 => format!("aio:{}", spec.target),
        };
        let mut nodes = vec![
            ("params", params),
            ("script", spec.script.clone()),
            ("frontend-id", self.domain.id().to_string()),
            ("online", "1".to_owned()),
            ("removable", "0".to_owned()),
            ("bootable", "1".to_owned()),
            ("state", "1".to_owned()),
            ("dev", spec.vdev.clone()),
            ("type", spec.backend_kind.type_node().to_owned()),
            ("mode", if spec.read_only { "r" } else { "w" }.to_owned()),
            ("device-type", "disk".to_owned()),
        ];
        if spec.direct_io_safe {
            nodes.push(("direct-io-safe", "1".to_owned()));
        }
        nodes.push(("discard-enable", flag(spec.discard)));
        nodes.push(("specification", "xen".to_owned()));
        nodes
    }

    pub(super) fn delete_nodes(&self) -> Result<()> {
        self.xenstore.rm(&self.frontend_path)?;
        self.xenstore.rm(&self.backend_path)?;
        self.xenstore.rm(&self.libxl_path)
    }
}

/// Sets a directory's permissions: its owner may do all, the other end may read.
fn set_owner(transaction: &Transaction, path: &str, owner: DomId, reader: DomId) -> Result<()> {
    let (owner, reader) = (format!("n{owner}"), format!("r{reader}"));
    transaction.set_permissions(path, &[&owner, &reader])
}
