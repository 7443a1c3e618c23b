//! How `cowback top` looks.

use control_api::{Latency, Statistics};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Paragraph, Row, Table, TableState};

use super::app::App;
use super::rates::Rates;
use crate::disks::{self, display};
use dscow::size;

/// The columns of the list, each with how wide it is; what is 0 wide has the rest.
const COLUMNS: [(&str, u16); 12] = [
    ("DOM", 5),
    ("VDEV", 6),
    ("READ/s", 8),
    ("WRITE/s", 8),
    ("FLUSH/s", 8),
    ("R MiB/s", 8),
    ("W MiB/s", 8),
    ("R LAT", 8),
    ("W LAT", 8),
    ("FLY", 4),
    ("ALLOC", 9),
    ("IMAGE", 0),
];

/// The texts of a disk, one for each column.
pub(super) fn cells(rates: &Rates) -> [String; 12] {
    let disk = &rates.disk;
    let statistic = |of: fn(&Statistics) -> u64| disk.statistics.as_ref().map(of);
    let mib = |bytes: f64| format!("{:.1}", bytes / f64::from(1 << 20));
    let mut image = disk.image.clone().unwrap_or_else(|| "-".to_owned());
    if let Some(no_space) = disks::no_space(disk) {
        image = format!("{no_space}: {image}");
    } else if !disk.connected {
        image = format!("{}: {image}", disk.state);
    }
    let allocated = statistic(|disk| disk.allocated_bytes);
    let in_flight = statistic(|disk| disk.in_flight);
    [
        disk.domid.to_string(),
        disk.vdev.clone(),
        format!("{:.0}", rates.reads),
        format!("{:.0}", rates.writes),
        format!("{:.0}", rates.flushes),
        mib(rates.read_bytes),
        mib(rates.written_bytes),
        display(rates.latency.read.mean()),
        display(rates.latency.write.mean()),
        in_flight.map_or_else(|| "-".to_owned(), |count| count.to_string()),
        allocated.map_or_else(|| "-".to_owned(), size::display),
        image,
    ]
}

/// The list as lines of text, for where there is no terminal.
pub(super) fn plain(disks: &[Rates]) -> Vec<String> {
    let line = |cells: &[&str]| {
        let cells = cells
            .iter()
            .zip(COLUMNS)
            .map(|(cell, (_, width))| match width {
                0 => (*cell).to_owned(),
                width => format!("{cell:>width$}", width = usize::from(width)),
            });
        cells.collect::<Vec<_>>().join(" ")
    };
    let heading = COLUMNS.map(|(name, _)| name);
    let mut lines = vec![line(&heading)];
    for rates in disks {
        let cells = cells(rates);
        lines.push(line(&cells.each_ref().map(String::as_str)));
    }
    lines
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App) {
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(1),
    ]);
    let [top, middle, bottom] = areas.areas(frame.area());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Line::styled(app.title(), bold), top);
    match app.detail() {
        Some(rates) => frame.render_widget(Paragraph::new(detail(rates)), middle),
        None => {
            let widths = COLUMNS.map(|(_, width)| match width {
                0 => Constraint::Min(10),
                width => Constraint::Length(width),
            });
            let rows = app.disks().iter().map(|rates| Row::new(cells(rates)));
            let reversed = Style::new().add_modifier(Modifier::REVERSED);
            let table = Table::new(rows, widths)
                .header(Row::new(COLUMNS.map(|(name, _)| name)).style(bold))
                .row_highlight_style(reversed);
            let mut state = TableState::new().with_selected(app.selected());
            frame.render_stateful_widget(table, middle, &mut state);
        }
    }
    frame.render_widget(Line::raw(app.help()), bottom);
}

/// A disk on its own: all of its numbers, and how long its requests took since the last look.
fn detail(rates: &Rates) -> Vec<Line<'static>> {
    let mut lines: Vec<Line<'static>> = super::super::show::lines(&rates.disk)
        .into_iter()
        .map(|(label, text)| Line::raw(format!("{label:14} {text}")))
        .collect();
    let latency = &rates.latency;
    for (kind, latency) in [
        ("reads", &latency.read),
        ("writes", &latency.write),
        ("flushes", &latency.flush),
        ("discards", &latency.discard),
    ] {
        if latency.count() > 0 {
            lines.push(Line::raw(""));
            let count = latency.count();
            lines.push(Line::raw(format!("{kind} since the last look: {count}")));
            lines.extend(bars(latency).into_iter().map(Line::raw));
        }
    }
    lines
}

/// How many requests took how long, as bars.
fn bars(latency: &Latency) -> Vec<String> {
    const LONGEST: u64 = 40;
    let filled = || latency.buckets().filter(|(_, count)| *count > 0);
    let most = filled().map(|(_, count)| count).max().unwrap_or(1);
    let bar = |(bound, count): (Option<_>, u64)| {
        let bound = match bound {
            Some(_) => format!("<= {}", display(bound)),
            None => "longer".to_owned(),
        };
        let length = usize::try_from((count * LONGEST).div_ceil(most)).expect("40 at most");
        format!("{bound:>12} {count:>8} {}", "#".repeat(length))
    };
    filled().map(bar).collect()
}
