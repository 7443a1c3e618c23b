//! The whole benchmark.

use std::path::{Path, PathBuf};

use crate::contender::{Contender, State, Surroundings};
use crate::error::{BenchError, Result};
use crate::profile::Profile;
use crate::report::{Report, Row, Settings};
use crate::server::QemuAio;
use crate::site::{LoopDevice, Scratch, Site, SiteKind};
use crate::{alone, chain, disks, host, opening, rings, space, strategies, throughput, tool};

/// What to measure.
pub struct Plan<'a> {
    /// How.
    pub settings: Settings,
    /// Only rows whose names contain this.
    pub only: Option<&'a str>,
    /// A folder to mount on.
    pub scratch: &'a Path,
    /// The program `cowback`.
    pub cowback: &'a Path,
}

/// Measures everything that is wanted. What cannot be measured is reported, and the rest is measured all the same.
///
/// # Errors
/// If nothing can be measured at all.
pub fn run(plan: &Plan<'_>) -> Result<Report> {
    let Plan { settings, only, .. } = plan;
    let scratch = Scratch::mount(plan.scratch)?;
    let qemu_aio = best_aio(&scratch)?;
    let mut report = Report {
        host: host::describe(qemu_aio)?,
        settings: *settings,
        rows: Vec::new(),
        failures: Vec::new(),
    };
    let device = LoopDevice::new(&scratch.path("device"), settings.scale.device)?;
    for kind in SiteKind::ALL {
        let site = Site::prepare(kind, &device, scratch.path("mounted"))?;
        measure_at(&site, plan, &scratch, qemu_aio, &mut report)?;
        site.unmount()?;
    }
    let alone = alone::measure(&settings.scale, settings.rounds, *only, &scratch);
    add(&mut report, "the engine alone", alone);
    let rings = rings::measure(&settings.scale, settings.rounds, *only, &scratch);
    add(&mut report, "from ring to ring", rings);
    let is_wanted = |profile: &Profile| only.is_none_or(|only| profile.id().contains(only));
    for profile in Profile::ALL.into_iter().filter(is_wanted) {
        let rows = profile.measure(&settings.scale, &scratch);
        add(&mut report, profile.id(), rows);
    }
    let disks = disks::measure(&settings.scale, settings.rounds, *only, &scratch);
    add(&mut report, "many disks", disks);
    if let (Some(only), true) = (only, report.rows.is_empty() && report.failures.is_empty()) {
        return Err(BenchError::NoSuchRow((*only).to_owned()));
    }
    Ok(report)
}

fn measure_at(
    site: &Site<'_>,
    plan: &Plan<'_>,
    scratch: &Scratch,
    qemu_aio: QemuAio,
    report: &mut Report,
) -> Result<()> {
    let Settings { rounds, scale, .. } = plan.settings;
    let mut around = Surroundings {
        site,
        base: None,
        scratch: scratch.folder(),
        cowback: plan.cowback,
        qemu_aio,
    };
    let name = site.kind().name();
    // Once is enough for what does not depend on the file system.
    if site.kind() == SiteKind::Ext4 {
        let chains = chain::measure(&scale, rounds, plan.only, &around);
        add(report, "chains", chains);
        let opened = opening::measure(&scale, rounds, plan.only, &around);
        add(report, "opening", opened);
        let space = space::measure(plan.only, &around);
        add(report, "space", space);
    }
    let mut workloads = throughput::workloads(&scale);
    workloads.retain(|workload| workload.is_called(plan.only));
    if workloads.is_empty() && !strategies::is_called(plan.only) {
        return Ok(());
    }
    let base = make_base(&around, scale.sparse_disk)?;
    around.base = base.as_deref();
    let strategies = strategies::measure(&scale, rounds, plan.only, &around);
    add(report, &format!("strategies, {name}"), strategies);
    for workload in workloads {
        let rows = workload.measure(rounds, &around);
        add(report, &format!("{}, {name}", workload.id), rows);
    }
    Ok(())
}

/// The base of all overlays at this place: a raw file that is full of data.
fn make_base(around: &Surroundings<'_>, len: u64) -> Result<Option<PathBuf>> {
    if around.site.kind() == SiteKind::Device {
        return Ok(None);
    }
    let made = Contender::Raw.make_image(State::Allocated, len, around)?;
    let base = around.site.path("base.raw");
    std::fs::rename(&made, &base).map_err(BenchError::io(format!("rename {}", made.display())))?;
    Ok(Some(base))
}

fn add(report: &mut Report, what: &str, rows: Result<Vec<Row>>) {
    match rows {
        Ok(rows) => report.rows.extend(rows),
        Err(cause) => {
            tool::show("");
            eprintln!("{what}: {cause}");
            report.failures.push(format!("{what}: {cause}"));
        }
    }
}

fn best_aio(scratch: &Scratch) -> Result<QemuAio> {
    let probe = scratch.path("probe.raw");
    std::fs::File::create(&probe)
        .and_then(|file| file.set_len(1 << 20))
        .map_err(BenchError::io("make an image to try QEMU with"))?;
    QemuAio::best(&probe, &scratch.path("probe.socket"))
}
