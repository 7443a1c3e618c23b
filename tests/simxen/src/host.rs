//! The simulated host: everything of one machine, in one value.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::control;
use crate::control::wire::SOCKET_VARIABLE;
use crate::daemon::{Daemon, DaemonCommand};
use crate::error::{Error, Result};
use crate::hypervisor::{BackendAccount, Domain, Hypervisor};
use crate::ids::{DOM0, DomId};
use crate::locate;
use crate::toolstack::Toolstack;
use crate::xenstore::{self, Xenstore};

/// How much memory a domain has unless it is told otherwise: 256 MiB, which cost nothing until touched.
const DOMAIN_PAGES: u32 = 65_536;

/// A simulated Xen host. Dropping it disconnects all processes and removes its files.
#[derive(Debug)]
pub struct Host {
    xenstore: Xenstore,
    hypervisor: Arc<Hypervisor>,
    xenstore_server: xenstore::Server,
    _control_server: control::Server,
    domain_zero: Domain,
    directory: TempDir,
}

impl Host {
    /// Starts a host with domain 0 and nothing else.
    ///
    /// # Errors
    /// [`Error::Io`] if its sockets or memory cannot be made.
    pub fn start() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("simxen-")
            .tempdir()
            .map_err(Error::io("make the host's directory"))?;
        let xenstore = Xenstore::new();
        let xenstore_server = xenstore.serve(&directory.path().join("xenstored"))?;
        let hypervisor = Hypervisor::new();
        let control_server =
            control::Server::start(&directory.path().join("hypervisor"), &hypervisor)?;
        let domain_zero = Domain::create(&hypervisor, DOM0, DOMAIN_PAGES)?;
        write_domain_nodes(&xenstore, DOM0)?;
        Ok(Self {
            xenstore,
            hypervisor,
            xenstore_server,
            _control_server: control_server,
            domain_zero,
            directory,
        })
    }

    /// The store.
    #[must_use]
    pub fn xenstore(&self) -> &Xenstore {
        &self.xenstore
    }

    /// Cuts the connections of all xenstore clients, as a crash of xenstored would; they can connect again.
    pub fn disconnect_xenstore_clients(&self) {
        self.xenstore_server.disconnect_all();
    }

    /// A directory that lives as long as the host: for images, run state, sockets.
    #[must_use]
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Domain 0, which may have frontends too.
    #[must_use]
    pub fn domain_zero(&self) -> &Domain {
        &self.domain_zero
    }

    /// Makes a domain with 256 MiB of memory and its nodes in xenstore, and introduces it.
    ///
    /// # Errors
    /// [`Error::DomainExists`], or [`Error::Io`] if its memory cannot be made.
    pub fn new_domain(&self, id: u16) -> Result<Domain> {
        self.new_domain_with_pages(id, DOMAIN_PAGES)
    }

    /// As [`Self::new_domain`], with as many pages of memory as are asked for.
    ///
    /// # Errors
    /// As [`Self::new_domain`].
    pub fn new_domain_with_pages(&self, id: u16, page_count: u32) -> Result<Domain> {
        let id = DomId(id);
        let domain = Domain::create(&self.hypervisor, id, page_count)?;
        write_domain_nodes(&self.xenstore, id)?;
        self.xenstore.introduce(id);
        Ok(domain)
    }

    /// The domain is gone at once, as if it had been destroyed behind the toolstack's back: its memory, grants and
    /// channels, its nodes in xenstore; `@releaseDomain` fires. The backends' nodes stay: see
    /// [`Toolstack::destroy_domain`] for the orderly way.
    ///
    /// # Errors
    /// None for a domain of this host; the type is that of the store's operations.
    pub fn vanish_domain(&self, domain: &Domain) -> Result<()> {
        domain.vanish();
        self.xenstore
            .rm(&format!("/local/domain/{}", domain.id()))?;
        self.xenstore.rm(&format!("/vm/{}", vm_uuid(domain.id())))?;
        self.xenstore.release(domain.id());
        Ok(())
    }

    /// The toolstack, which attaches disks to domains.
    #[must_use]
    pub fn toolstack(&self) -> Toolstack<'_> {
        Toolstack::new(self)
    }

    /// The environment in which a process finds this host: xenstore, gntdev, event channels.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] if the shim is missing.
    pub fn environment(&self) -> Result<Vec<(OsString, OsString)>> {
        let shim = locate::shim()?;
        let libraries = self.library_directory(&shim)?;
        let mut library_path = libraries.into_os_string();
        if let Some(inherited) = std::env::var_os("LD_LIBRARY_PATH") {
            library_path.push(":");
            library_path.push(inherited);
        }
        let mut environment = self.xenstore_environment();
        environment.extend([
            (
                SOCKET_VARIABLE.into(),
                self.directory.path().join("hypervisor").into(),
            ),
            ("LD_PRELOAD".into(), shim.into()),
            ("LD_LIBRARY_PATH".into(), library_path),
        ]);
        Ok(environment)
    }

    /// The environment in which a process finds this host's xenstore, and nothing more: for command-line tools.
    #[must_use]
    pub fn xenstore_environment(&self) -> Vec<(OsString, OsString)> {
        let socket = self.directory.path().join("xenstored");
        vec![("XENSTORED_PATH".into(), socket.into())]
    }

    /// A directory with the shim under the name by which event channels are looked for.
    fn library_directory(&self, shim: &std::path::Path) -> Result<PathBuf> {
        let directory = self.directory.path().join("lib");
        let link = directory.join("libxenevtchn.so");
        if !link.exists() {
            std::fs::create_dir_all(&directory)
                .and_then(|()| symlink(shim, &link))
                .map_err(Error::io(format!("link {}", link.display())))?;
        }
        Ok(directory)
    }

    /// Starts a backend in the environment of this host.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] if the shim is missing, [`Error::Io`] if the program cannot be started.
    pub fn start_daemon(&self, command: DaemonCommand) -> Result<Daemon> {
        let mut complete = command;
        for (name, value) in self.environment()? {
            complete = complete.env(name, value);
        }
        Daemon::spawn(complete)
    }

    /// A command in the environment of this host, for anything that is no daemon.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] if the shim is missing.
    pub fn command(&self, program: impl AsRef<std::path::Path>) -> Result<Command> {
        let mut command = Command::new(program.as_ref());
        command.envs(self.environment()?);
        Ok(command)
    }

    /// What each connected backend process holds now.
    #[must_use]
    pub fn accounts(&self) -> Vec<BackendAccount> {
        self.hypervisor.accounts()
    }

    /// Waits until the accounts are as wanted.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last accounts.
    pub fn wait_for_accounts(
        &self,
        what: &str,
        predicate: impl Fn(&[BackendAccount]) -> bool,
        timeout: Duration,
    ) -> Result<Vec<BackendAccount>> {
        self.hypervisor.wait_for_accounts(what, predicate, timeout)
    }

    /// Waits until no process holds a grant or a channel: what remains after that is a leak.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the last accounts.
    pub fn wait_until_clear(&self, timeout: Duration) -> Result<()> {
        self.wait_for_accounts(
            "all grants and channels to be given back",
            |accounts| accounts.iter().all(BackendAccount::is_clear),
            timeout,
        )
        .map(drop)
    }
}

fn vm_uuid(id: DomId) -> String {
    format!("00000000-0000-4000-8000-{:012x}", id.0)
}

/// The nodes that libxl makes for any domain, as far as a backend may look at them.
fn write_domain_nodes(xenstore: &Xenstore, id: DomId) -> Result<()> {
    let home = format!("/local/domain/{id}");
    let vm = format!("/vm/{}", vm_uuid(id));
    let name = if id == DOM0 {
        "Domain-0".to_owned()
    } else {
        format!("guest-{id}")
    };
    xenstore.write(&format!("{home}/domid"), id.to_string())?;
    xenstore.write(&format!("{home}/name"), &name)?;
    xenstore.write(&format!("{home}/vm"), &vm)?;
    xenstore.mkdir(&format!("{home}/device"))?;
    xenstore.write(&format!("{vm}/uuid"), vm_uuid(id))?;
    xenstore.write(&format!("{vm}/name"), &name)?;
    let owner = format!("n{id}");
    xenstore.set_permissions(&format!("{home}/device"), &[&owner])
}
