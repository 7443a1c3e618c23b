//! A server on a thread of its own, over images in a folder of its own.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use blockio::disk::{Disk, DiskNumber, DiskOptions};
use blockio::executor::{Executor, PoolExecutor, UringExecutor};
use blockio::image::{CheckReport, CreateOptions, Image, ImageAccess, check, create};
use dscow::engine::OnNoSpace;
use tempfile::TempDir;

use super::client::Client;
use crate::{Export, Offer, RunError, Socket, Statistics, Until, run};

/// Size of the disk in bytes.
pub(super) const SIZE: u64 = 64 << 20;

/// The base holds this much; what follows on the disk is held by nobody.
pub(super) const BASE_BYTES: usize = 1 << 20;

/// How the server is run.
#[derive(Clone, Copy)]
pub(super) struct Setup {
    pub(super) read_only: bool,
    pub(super) clients_max: usize,
    pub(super) until: Until,
    pub(super) threads: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            read_only: false,
            clients_max: 16,
            until: Until::Stopped,
            threads: false,
        }
    }
}

/// A server that serves an overlay over a base of [`BASE_BYTES`] bytes of 0x55.
pub(super) struct Rig {
    folder: TempDir,
    stop: Option<UnixStream>,
    server: JoinHandle<Result<(), RunError>>,
    statistics: mpsc::Receiver<Statistics>,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(Setup::default())
    }

    pub(super) fn with(setup: Setup) -> Self {
        Self::over(new_folder(), setup)
    }

    /// Serves what is in the folder, which an earlier rig may have left.
    pub(super) fn over(folder: TempDir, setup: Setup) -> Self {
        let (stop, stopped) = UnixStream::pair().unwrap();
        let (ready, is_ready) = mpsc::channel();
        let image = folder.path().join("vm.cow");
        let socket = Socket::listen(&folder.path().join("sock")).unwrap();
        let server = thread::spawn(move || {
            let (export, mut executor) = open(&image, socket, setup);
            let tell = |export: &Export| ready.send(export.statistics()).unwrap();
            run(
                export,
                executor.as_mut(),
                stopped.as_fd(),
                setup.until,
                tell,
            )
        });
        let statistics = is_ready;
        statistics.recv().unwrap();
        Self {
            folder,
            stop: Some(stop),
            server,
            statistics,
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A client that has not said anything.
    pub(super) fn connect(&self) -> Client {
        Client::connect(&self.path("sock"))
    }

    /// A client in transmission, with structured replies and both contexts.
    pub(super) fn client(&self) -> Client {
        let mut client = self.connect();
        client.negotiate();
        client
    }

    /// Stops the server as a signal would, and waits for its end.
    pub(super) fn stop(mut self) -> Stopped {
        drop(self.stop.take());
        self.wait()
    }

    /// Waits until the server ends by itself.
    pub(super) fn wait(self) -> Stopped {
        self.server.join().unwrap().unwrap();
        assert!(!self.folder.path().join("sock").exists());
        // Nothing is ever sent twice.
        assert!(self.statistics.try_recv().is_err());
        Stopped {
            folder: self.folder,
        }
    }
}

/// What a server leaves.
pub(super) struct Stopped {
    pub(super) folder: TempDir,
}

impl Stopped {
    /// The image, which must be without fault and closed cleanly.
    pub(super) fn check(&self) -> CheckReport {
        let report = check(&self.folder.path().join("vm.cow")).unwrap();
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert!(report.closed_cleanly);
        report
    }
}

/// A folder with an image over a base.
pub(super) fn new_folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    let base = folder.path().join("base.img");
    fs::write(&base, vec![0x55; BASE_BYTES]).unwrap();
    let options = CreateOptions {
        base: Some(base),
        size: Some(SIZE),
        ..CreateOptions::default()
    };
    create(&folder.path().join("vm.cow"), &options).unwrap();
    folder
}

/// An export that is being opened, and the executor that it is served by.
pub(super) fn open(image: &Path, socket: Socket, setup: Setup) -> (Export, Box<dyn Executor>) {
    let mut executor: Box<dyn Executor> = if setup.threads {
        Box::new(PoolExecutor::new(4).unwrap())
    } else {
        Box::new(UringExecutor::new().unwrap())
    };
    let access = if setup.read_only {
        ImageAccess::ReadOnly
    } else {
        ImageAccess::Writable
    };
    let image = Image::open(image, access).unwrap();
    let (engine, files) = image.into_engine(OnNoSpace::Report);
    let number = DiskNumber(5);
    let options = DiskOptions::default();
    let disk = Disk::new(number, engine, files, options, executor.as_mut());
    let offer = Offer {
        name: "disk".into(),
        description: "a disk".into(),
        read_only: setup.read_only,
        clients_max: setup.clients_max,
    };
    let export = Export::new(disk, number, socket, offer, executor.as_mut()).unwrap();
    (export, executor)
}
