//! A simulated Xen host for tests: xenstore, grants, event channels, a blkif frontend.
//!
//! The backend under test runs unmodified, as a process of its own: [`Host::start_daemon`] starts it with the shim
//! library beneath it, which makes `/dev/xen/gntdev` and `libxenevtchn` lead to this process. The rest of the machine
//! is here: [`Xenstore`], the guests' memory ([`Domain`]), the [`Toolstack`] that plays libxl, and [`Frontend`].
//!
//! ```no_run
//! use simxen::{DaemonCommand, DiskSpec, Frontend, FrontendOptions, Host};
//!
//! # fn main() -> simxen::Result<()> {
//! let host = Host::start()?;
//! let daemon = host.start_daemon(DaemonCommand::new("target/debug/cowbackd").arg("--verbose"))?;
//! let guest = host.new_domain(1)?;
//! let disk = host.toolstack().attach(&guest, &DiskSpec::new("xvda", "dscow:/vm1.cow:/base.img"))?;
//! let mut frontend = Frontend::connect(&disk, FrontendOptions::default())?;
//! frontend.write(0, &[7; 4096])?;
//! assert_eq!(frontend.read(0, 4096)?, [7; 4096]);
//! host.toolstack().detach_connected(&disk, frontend)?;
//! # drop(daemon);
//! # Ok(())
//! # }
//! ```

pub mod control;
mod daemon;
mod error;
pub mod frontend;
mod host;
mod hypervisor;
mod ids;
pub mod locate;
mod memory;
mod process;
mod toolstack;
mod xenstore;

pub use daemon::{Daemon, DaemonCommand};
pub use error::{Error, Result};
pub use frontend::{Abi, Completion, DiskInfo, Frontend, FrontendOptions, Request, RequestId};
pub use host::Host;
pub use hypervisor::{Access, BackendAccount, Domain, EventChannel};
pub use ids::{DOM0, DomId, EventPort, GrantRef, PAGE_SIZE, PageIndex};
pub use toolstack::{
    BackendKind, Disk, DiskSpec, Hotplug, HotplugCommand, Toolstack, device_number,
};
pub use xenstore::{Transaction, Xenstore, XsError};
