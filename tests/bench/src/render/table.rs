//! The table for the terminal.

use super::{Cells, SECTIONS, rows_of, section_of};
use crate::report::Report;

/// The report as one table, with what could not be measured below it.
pub fn table(report: &Report) -> String {
    let mut lines =
        vec![["work", "where", "ours", "peer", "ratio", "target", ""].map(str::to_owned)];
    let mut sections = vec![""];
    for row in SECTIONS
        .iter()
        .flat_map(|(_, section)| rows_of(report, section))
    {
        let cells = Cells::of(row);
        let site = row.site.clone().unwrap_or_default();
        lines.push([
            row.work.clone(),
            site,
            cells.ours,
            cells.peer,
            cells.ratio,
            cells.target,
            cells.result.to_owned(),
        ]);
        sections.push(section_of(row));
    }
    let widths: [usize; 7] = std::array::from_fn(|column| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut text = String::new();
    let mut last = "";
    for (line, section) in lines.iter().zip(sections) {
        if section != last {
            text.push_str(&format!("\n{section}\n"));
            last = section;
        }
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    let notes = report
        .rows
        .iter()
        .filter_map(|row| Some(format!("{}: {}", row.work, row.note.as_ref()?)));
    for note in notes {
        text.push_str(&format!("\n{note}"));
    }
    for failure in &report.failures {
        text.push_str(&format!("\nNOT MEASURED: {failure}"));
    }
    text.push_str(&format!("\n{}\n", summary(report)));
    text
}

/// How many targets are met.
pub(super) fn summary(report: &Report) -> String {
    let results: Vec<bool> = report.rows.iter().filter_map(super::Row::is_met).collect();
    let met = results.iter().filter(|met| **met).count();
    format!("targets met: {met} of {}", results.len())
}
