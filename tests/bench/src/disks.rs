//! Many disks of one daemon with one worker: what each costs while it is idle, whether the last attaches as fast as the
//! first, and how those that are busy share the worker.

use std::path::Path;
use std::time::{Duration, Instant};

use blockio::image::{CreateOptions, create};

use crate::error::{BenchError, Result};
use crate::pattern::{Direction, Order, Pattern, Step};
use crate::report::{Figure, Row, Target, Unit};
use crate::rig::{Guest, Rig, Storage, Usage};
use crate::scale::Scale;
use crate::site::Scratch;
use crate::tool;

/// What the rows' names begin with.
const ID: &str = "disks";

/// Bytes of each disk.
const DISK: u64 = 1 << 30;

/// Requests of each busy disk that are under way at a time.
const DEPTH: usize = 8;

/// Bytes of their requests. So large that the worker is the bottleneck, and not the guests, which are one thread here: else
/// the order in which that looks at its guests is what would be measured.
const REQUEST: u64 = 44 << 10;

/// How long the daemon is watched doing nothing.
const IDLE: Duration = Duration::from_secs(10);

/// How long disks are busy in each round.
const BUSY: Duration = Duration::from_secs(2);

/// Attaches so many disks as the scale says, and measures.
///
/// # Errors
/// If a measurement fails.
pub fn measure(
    scale: &Scale,
    rounds: usize,
    only: Option<&str>,
    scratch: &Scratch,
) -> Result<Vec<Row>> {
    if only.is_some_and(|only| !ID.contains(only)) {
        return Ok(Vec::new());
    }
    tool::show(ID);
    let folder = scratch.path("disks");
    std::fs::create_dir_all(&folder)
        .map_err(BenchError::io(format!("make {}", folder.display())))?;
    let rig = Rig::start(Storage::Files, &folder)?;
    let before = Usage::of(rig.pid(), rig.runtime())?;
    let (mut guests, attached) = attach(&rig, scale.disks, &folder)?;
    let after = Usage::of(rig.pid(), rig.runtime())?;
    let mut rows = memory_rows(scale.disks, before, after);
    rows.push(attaching_row(&attached));
    rows.push(idle_row(&rig, scale.disks)?);
    rows.push(sharing_row(&mut guests[..scale.busy_disks], rounds)?);
    tool::show("");
    Ok(rows)
}

/// Attaches disks one after the other; gives how many nanoseconds each took until its guest was connected.
fn attach(rig: &Rig, count: usize, folder: &Path) -> Result<(Vec<Guest>, Vec<f64>)> {
    let (mut guests, mut times) = (Vec::new(), Vec::new());
    for number in 1..=count {
        let image = folder.join(format!("{number}.cow"));
        let options = CreateOptions {
            size: Some(DISK),
            ..CreateOptions::default()
        };
        create(&image, &options)?;
        let domain = rig.domain(u16::try_from(number).expect("fewer than domains can be"))?;
        let begun = Instant::now();
        guests.push(rig.attach(&domain, &image, 0)?);
        times.push(begun.elapsed().as_nanos() as f64);
    }
    Ok((guests, times))
}

fn memory_rows(disks: usize, before: Usage, after: Usage) -> Vec<Row> {
    let each = |used: u64| used as f64 / disks as f64;
    let private = each(after.private.saturating_sub(before.private));
    let run_states = each(after.run_states.saturating_sub(before.run_states));
    let row = |id: &str, work: String, bytes| {
        Row::of(id, work, Unit::Bytes, Figure::new("each", vec![bytes]))
    };
    let descriptors = (after.descriptors - before.descriptors) as f64 / disks as f64;
    let work = format!("memory of each of {disks} connected disks of 1 GiB, idle");
    vec![
        row("disks-memory", work, private + run_states)
            .wanting(Target::FigureAtMost(f64::from(1 << 20)))
            .noting(format!("{descriptors:.1} descriptors each")),
        row("disks-memory", "of that, run states".into(), run_states),
    ]
}

/// The last tenth against the first.
fn attaching_row(times: &[f64]) -> Row {
    let tenth = (times.len() / 10).max(1);
    let first = Figure::new(format!("the first {tenth}"), times[..tenth].to_vec());
    let last = times[times.len() - tenth..].to_vec();
    let last = Figure::new(format!("the last {tenth}"), last);
    let work = format!("attaching and connecting one of {} disks", times.len());
    Row::of("disks-attach", work, Unit::Nanoseconds, last)
        .against(first)
        .wanting(Target::RatioAtMost(1.5))
}

fn idle_row(rig: &Rig, disks: usize) -> Result<Row> {
    let cpu = || Ok::<_, BenchError>(Usage::of(rig.pid(), rig.runtime())?.cpu);
    // What attaching has left to do is done.
    std::thread::sleep(Duration::from_secs(2));
    let before = cpu()?;
    std::thread::sleep(IDLE);
    let used = cpu()?.saturating_sub(before).as_nanos() as f64;
    let work = format!("CPU time of the daemon in {IDLE:?}, {disks} disks idle");
    let figure = Figure::new("all threads", vec![used]);
    // A thousandth of a processor.
    let target = Target::FigureAtMost(IDLE.as_nanos() as f64 / 1000.0);
    Ok(Row::of("disks-idle", work, Unit::Nanoseconds, figure).wanting(target))
}

/// The slowest of the busy disks against all of them on average.
fn sharing_row(guests: &mut [Guest], rounds: usize) -> Result<Row> {
    let (mut slowest, mut average) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let answered = keep_busy(guests)?;
        let rates = answered
            .iter()
            .map(|count| *count as f64 / BUSY.as_secs_f64());
        slowest.push(rates.clone().fold(f64::INFINITY, f64::min));
        average.push(rates.sum::<f64>() / guests.len() as f64);
    }
    let work = format!("{} disks busy at once with 44 KiB reads", guests.len());
    let slowest = Figure::new("the slowest", slowest);
    Ok(
        Row::of("disks-sharing", work, Unit::RequestsPerSecond, slowest)
            .against(Figure::new("on average", average))
            .wanting(Target::RatioAtLeast(0.8)),
    )
}

/// Keeps [`DEPTH`] requests of each guest under way for a while; gives how many of each were answered.
fn keep_busy(guests: &mut [Guest]) -> Result<Vec<usize>> {
    let pattern = Pattern {
        direction: Direction::Read,
        order: Order::Random { seed: 1 },
        request_len: REQUEST,
        count: 4096,
        span: DISK,
        flush_every: 0,
    };
    let steps = pattern.steps();
    let mut next = steps.iter().copied().cycle();
    let mut put = |guest: &mut Guest, count| {
        let more: Vec<Step> = next.by_ref().take(count).collect();
        guest.put(&more)
    };
    let mut answered = vec![0; guests.len()];
    for guest in &mut *guests {
        put(guest, DEPTH)?;
    }
    let begun = Instant::now();
    let mut first = 0;
    while begun.elapsed() < BUSY {
        // Each look at all of them begins with another one: else those at the end would always come when the worker has just
        // begun its next round, since both go in the same order.
        for number in (first..guests.len()).chain(0..first) {
            let taken = guests[number].take()?;
            answered[number] += taken;
            put(&mut guests[number], taken)?;
        }
        first = (first + 1) % guests.len();
    }
    // Before the next round everything is answered.
    for guest in guests {
        guest.finish()?;
    }
    Ok(answered)
}
