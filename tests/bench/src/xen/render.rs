//! The report of Xen as tables for the terminal, and as a document.

mod reach;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::counts::Count;
use super::report::XenReport;
use super::work::Contender;
use crate::render::Cells;
use crate::render::numbers::figure;
use crate::report::Row;

/// What was found out about where the time goes; written by hand.
const ANALYSIS: &str = include_str!("render/analysis.md");

/// What the names mean.
const ENTRIES_NOTE: &str = "
`read` and `write` take events from event channels and unmask these, `notify` sends one; `(to-kernel-worker)` counts what \
io_uring could not do at once and handed to a thread of the kernel. Hypercalls are those of all of dom0, without what it does \
when nothing is asked of a disk: a PV kernel returns from interrupts and system calls by `iret`, `stack_switch` and \
`set_segment_base` are made when it changes from one thread to another, `sched_op` when a processor has nothing to do.
";

/// What is compared, by what the names of the rows begin with.
const MEASURES: [(&str, &str); 2] = [
    ("speed-", "Speed"),
    ("cpu-", "Processor time of dom0 for 1,000 requests"),
];

/// All tables.
pub fn tables(report: &XenReport) -> String {
    let mut text = String::new();
    for site in sites(report) {
        for (prefix, title) in MEASURES {
            let rows: Vec<&Row> = report
                .rows
                .iter()
                .filter(|row| row.id.starts_with(prefix) && row.site.as_deref() == Some(site))
                .collect();
            text.push_str(&format!("\n## {title}, {site}\n\n{}", matrix(&rows)));
        }
    }
    text.push_str(&format!("\n## Targets\n\n{}", targets(&report.rows)));
    text.push_str(&format!(
        "\n## What is in reach\n\n{}",
        reach::section(&report.rows, grid)
    ));
    text.push_str(&format!(
        "\n## Entering the kernel and Xen\n\n{}",
        entries(&report.counts)
    ));
    text
}

/// docs/performance-xen.md.
pub fn document(report: &XenReport) -> String {
    let mut text = String::from(
        "<!-- Made by `make xen-bench-report` from what `make xen-bench` measured. Do not edit: run both again. -->\n\n\
         # Performance on Xen\n\n",
    );
    text.push_str(&introduction(report));
    text.push_str(&tables(report));
    text.push_str(&format!("\n{ANALYSIS}"));
    text
}

fn introduction(report: &XenReport) -> String {
    let (machine, dom0) = (&report.machine, &report.machine.dom0);
    let mut text = String::new();
    if report.settings.quick {
        text.push_str("**This was a smoke test (`--quick`); its figures mean nothing.**\n\n");
    }
    text.push_str(&format!(
        "Measured on {} at commit {}: Xen {} with Linux {} in dom0 and in a PV guest, in a machine that {} emulates in \
         software on {} × {}; qdisk is QEMU {}, the guest's client is fio {}. {}\n\n",
        machine.date,
        machine.commit,
        dom0.xen,
        dom0.kernel,
        machine.emulator,
        machine.cpus,
        machine.cpu,
        dom0.qemu,
        dom0.fio.trim_start_matches("fio-"),
        others(machine.others),
    ));
    text.push_str(
        "Nothing here is as fast as on a real machine; what counts are the ratios. In emulation, changing between process, \
         kernel and Xen weighs more than on a real machine, and a RAM disk has no latency of its own: so this is about what \
         a backend does, and about nothing that a disk does.\n\n",
    );
    text.push_str(&format!(
        "All images are on ext4 on a RAM disk in dom0, as disks of 128 MiB; overlays are over a base that is full of data, raw \
         files are sparse. Each backend gives its disk to the same running guest. In each round, all do the same requests, one \
         after the other, and each round begins with another one. What was written through dom0's page cache is written back \
         before each of them, and on nobody's account: QEMU's disks have this for free. A figure is the median of the rounds \
         ({}); the ratio beside it, ours to theirs, is the median of the rounds' ratios with the lowest and the highest. First \
         writes go to blocks that the overlay does not hold yet; rewrites and reads to the same ones afterwards. Processor time \
         is Xen's account of dom0, all of it, less what it takes to start and end fio. With 2 vcpus, what is deep is done by \
         two jobs with half of the depth each.\n\n",
        rounds(report),
    ));
    text.push_str(&files(report));
    text
}

/// What everything but the emulator took of the host's processors, of 1. It is the difference of two accounts of the kernel's, so
/// little may come out as less than nothing.
fn others(share: f64) -> String {
    if share < 0.005 {
        "Everything else on the host took less of its processors meanwhile than could be measured."
            .into()
    } else {
        format!(
            "Everything else on the host took {:.0} % of its processors meanwhile.",
            share * 100.0
        )
    }
}

fn rounds(report: &XenReport) -> String {
    let rounds = report.settings.rounds.iter();
    let words: Vec<String> = rounds
        .map(|(vcpus, rounds)| format!("{rounds} with {}", super::report::site(*vcpus)))
        .collect();
    words.join(", ")
}

fn files(report: &XenReport) -> String {
    let (direct, cached): (Vec<_>, Vec<_>) = report.files.iter().partition(|file| file.direct);
    let names = |files: Vec<&super::report::OpenFile>| {
        let names: Vec<String> = files
            .iter()
            .map(|file| format!("`{}` by {}", file.file, file.who))
            .collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    };
    format!(
        "Open past dom0's page cache: {}. Through it: {}.\n",
        names(direct),
        names(cached)
    )
}

/// The sites of a report, in their order.
fn sites(report: &XenReport) -> Vec<&str> {
    let mut sites: Vec<&str> = Vec::new();
    for row in &report.rows {
        let site = row.site.as_deref().unwrap_or_default();
        if !sites.contains(&site) {
            sites.push(site);
        }
    }
    sites
}

/// A line for each work, a column for each contender.
fn matrix(rows: &[&Row]) -> String {
    let mut lines = vec![vec!["work".to_owned(), "ours".to_owned()]];
    lines[0].extend(Contender::PEERS.map(|peer| peer.title().to_owned()));
    for row in rows {
        if lines.last().is_none_or(|line| line[0] != row.work) {
            lines.push(vec![row.work.clone(), figure(row.unit, row.ours.median)]);
        }
        let (Some(peer), Some(ratio)) = (&row.peer, row.ratio) else {
            continue;
        };
        let cell = format!(
            "{} · {:.2} ({:.2} to {:.2})",
            figure(row.unit, peer.median),
            ratio.median,
            ratio.lowest,
            ratio.highest
        );
        if let Some(line) = lines.last_mut() {
            line.push(cell);
        }
    }
    grid(&lines)
}

fn targets(rows: &[Row]) -> String {
    let wanted: Vec<&Row> = rows.iter().filter(|row| row.target.is_some()).collect();
    let header = ["what", "work", "where", "against", "ratio", "target", ""];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for row in &wanted {
        let cells = Cells::of(row);
        let measure = MEASURES
            .iter()
            .find(|(prefix, _)| row.id.starts_with(prefix));
        lines.push(vec![
            match measure {
                Some(("cpu-", _)) => "processor time".to_owned(),
                _ => "speed".to_owned(),
            },
            row.work.clone(),
            row.site.clone().unwrap_or_default(),
            row.peer
                .as_ref()
                .map(|peer| peer.who.clone())
                .unwrap_or_default(),
            cells.ratio,
            cells.target,
            match cells.result {
                "missed" => "**missed**".to_owned(),
                result => result.to_owned(),
            },
        ]);
    }
    let met = wanted
        .iter()
        .filter(|row| row.is_met() == Some(true))
        .count();
    format!("{}\ntargets met: {met} of {}\n", grid(&lines), wanted.len())
}

fn entries(counts: &[Count]) -> String {
    if counts.is_empty() {
        return "Not counted in this run.\n".to_owned();
    }
    let header = [
        "work",
        "who",
        "system calls for each request",
        "hypercalls for each request",
    ];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for count in counts {
        lines.push(vec![
            count.work.clone(),
            count.who.clone(),
            sum_and_parts(&count.system_calls),
            sum_and_parts(&count.hypercalls),
        ]);
    }
    format!("{}{ENTRIES_NOTE}", grid(&lines))
}

/// The sum, and what it is made of, the most frequent first; without what is rare.
fn sum_and_parts(counts: &BTreeMap<String, f64>) -> String {
    let mut parts: Vec<(&String, &f64)> =
        counts.iter().filter(|(_, count)| **count >= 0.05).collect();
    parts.sort_by(|one, other| other.1.total_cmp(one.1));
    let words: Vec<String> = parts
        .iter()
        .map(|(name, count)| format!("{name} {count:.1}"))
        .collect();
    // What is in parentheses happened besides.
    let entries = counts.iter().filter(|(name, _)| !name.starts_with('('));
    let sum: f64 = entries.map(|(_, count)| count).sum();
    match words.as_slice() {
        [] => "none".to_owned(),
        words => format!("{sum:.1}: {}", words.join(", ")),
    }
}

/// A table in Markdown, of which the first line is the header, with its columns aligned for those who read it as it is.
fn grid(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if index == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            text.push_str(&format!("|{}|\n", rules.join("|")));
        }
    }
    text
}
