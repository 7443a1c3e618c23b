//! The life of the daemon.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use sd_notify::NotifyState;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use xenstore_glue::runner::{Channels, Connection, Handle, Runner, RunnerConfig, RunnerError};

use crate::OpenExecutor;
use crate::control::{self, Context};
use crate::devices::Devices;
use crate::emulated::Sockets;
use crate::inheritance::{Inheritance, InheritanceError};
use crate::logging::Log;
use crate::settings::Settings;
use crate::sole::{Sole, SoleError};
use crate::worker::{WorkerHandle, accepted, advertised};
use crate::xentop;

/// Why the daemon ended.
#[derive(Debug, Error)]
pub(crate) enum DaemonError {
    /// Something of the operating system did not work.
    #[error("cannot {action}: {cause}")]
    System {
        action: &'static str,
        #[source]
        cause: io::Error,
    },
    /// The runtime directory is another daemon's.
    #[error(transparent)]
    Sole(#[from] SoleError),
    /// The control socket cannot be made.
    #[error("{}: cannot listen for the control API: {cause}", path.display())]
    Control {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// Xenstore cannot be reached, or not any more.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// What was left cannot be taken over.
    #[error(transparent)]
    Inheritance(#[from] InheritanceError),
    /// The control API ended.
    #[error("the control API failed: {0}")]
    ControlEnded(#[source] io::Error),
}

pub(crate) fn failed(action: &'static str) -> impl FnOnce(io::Error) -> DaemonError {
    move |cause| DaemonError::System { action, cause }
}

/// Runs the daemon until it is told to stop.
pub(crate) fn run(
    settings: &Settings,
    log: Log,
    open_executor: OpenExecutor,
) -> Result<(), DaemonError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start the runtime"))?
        .block_on(serve(settings, log, open_executor))
}

async fn serve(
    settings: &Settings,
    log: Log,
    open_executor: OpenExecutor,
) -> Result<(), DaemonError> {
    let (started, started_at) = (Instant::now(), SystemTime::now());
    // Before anything is opened, so that an early signal is not lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("wait for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("wait for signals"))?;
    let _sole = Sole::become_in(&settings.runtime_dir)?;
    let listeners = control::listen(&settings.runtime_dir, settings.control_access)?;
    let inheritance = Inheritance::find(&settings.runtime_dir)?;
    let sockets = Sockets::make(&settings.runtime_dir)
        .map_err(failed("make the folder of the sockets for QEMU"))?;
    let queues_max = u32::from(settings.queues());
    let Channels {
        runner,
        handle,
        mut orders,
        reports,
    } = Runner::set_up(
        Connection::open().await.map_err(failed("reach xenstore"))?,
        RunnerConfig::new(advertised(queues_max), accepted(queues_max)),
    );
    let workers = (0..settings.workers())
        .map(|index| WorkerHandle::start(index, reports.clone(), open_executor))
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed("start a worker"))?;
    tracing::info!(
        "cowbackd {} with {} workers",
        env!("CARGO_PKG_VERSION"),
        workers.len()
    );
    let devices = Devices::new(
        workers,
        reports,
        inheritance,
        sockets,
        handle.clone(),
        xentop_folder(settings),
    );

    let mut runner = tokio::spawn(runner.run());
    let context = Context {
        handle: handle.clone(),
        devices: devices.clone(),
        log,
        started,
        started_at,
        ending: Arc::default(),
    };
    let ending = Arc::clone(&context.ending);
    let mut control = tokio::spawn(control::serve(listeners, context));
    notify(NotifyState::Ready);

    let mut stopping: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        tokio::select! {
            Some(order) = orders.recv() => devices.obey(order),
            _ = terminate.recv(), if stopping.is_none() => stopping = Some(stop(&handle, &ending)),
            _ = interrupt.recv(), if stopping.is_none() => stopping = Some(stop(&handle, &ending)),
            ended = &mut runner => {
                finish(ended, stopping.is_some())?;
                break;
            }
            ended = &mut control, if stopping.is_none() => {
                return Err(DaemonError::ControlEnded(match ended {
                    Ok(Err(error)) => error,
                    Ok(Ok(())) => io::Error::other("it ended"),
                    Err(panic) => io::Error::other(panic),
                }));
            }
        }
    }
    control.abort();
    let _ = control.await;
    devices.stop();
    tracing::info!("stopped");
    Ok(())
}

/// Begins to stop: every disk is drained and closed, for the next daemon to take over.
fn stop(handle: &Handle, ending: &AtomicBool) -> tokio::task::JoinHandle<()> {
    tracing::info!("stopping: answering what was taken, and closing the images");
    notify(NotifyState::Stopping);
    ending.store(true, Ordering::Release);
    let handle = handle.clone();
    tokio::spawn(async move {
        // An error means that the runner has ended, which is what is waited for.
        let _ = handle.shutdown().await;
    })
}

fn finish(
    ended: Result<Result<(), RunnerError>, tokio::task::JoinError>,
    stopping: bool,
) -> Result<(), DaemonError> {
    match ended {
        Ok(Ok(())) if stopping => Ok(()),
        Ok(Ok(())) => Err(failed("serve xenstore")(io::Error::other(
            "the runner ended",
        ))),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => Err(failed("serve xenstore")(io::Error::other(panic))),
    }
}

/// Where xentop reads, if that can be made: disks are served without it, too.
fn xentop_folder(settings: &Settings) -> Option<xentop::Folder> {
    let made = xentop::Folder::make(&settings.shared_memory, &settings.runtime_dir);
    made.inspect_err(|error| {
        let place = settings.shared_memory.display();
        tracing::warn!(
            "{place}: cannot make a folder there, so that xentop shows no disks: {error}"
        );
    })
    .ok()
}

/// Tells the service manager, if there is one.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}
