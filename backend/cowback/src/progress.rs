//! How far long work is, on standard error.

use std::io::{self, IsTerminal};

use blockio::offline::{Progress, Silent};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::output;

/// Whether and how to show progress.
#[derive(clap::Args)]
pub(crate) struct ProgressArgs {
    /// Show progress also if standard error is no terminal: a line for each percent, of JSON with --json
    #[arg(long, conflicts_with = "no_progress")]
    progress: bool,
    /// Show no progress
    #[arg(long)]
    no_progress: bool,
}

impl ProgressArgs {
    pub(crate) fn reporter(&self, json: bool) -> Box<dyn Progress> {
        let is_terminal = io::stderr().is_terminal();
        if self.no_progress || !(is_terminal || self.progress) {
            Box::new(Silent)
        } else if is_terminal && !(json && self.progress) {
            Box::new(Bar(ProgressBar::hidden()))
        } else {
            Box::new(Lines::new(json, Box::new(output::note)))
        }
    }
}

/// A bar that is drawn over and over.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn begin(&mut self, step: &'static str, total_bytes: u64) {
        let style = "{msg} [{wide_bar:.green}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        let style = ProgressStyle::with_template(style).expect("a template with known names");
        self.0.finish_and_clear();
        self.0 = ProgressBar::new(total_bytes)
            .with_style(style.progress_chars("=> "))
            .with_message(step);
    }

    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A line for each percent.
struct Lines {
    json: bool,
    print: Box<dyn FnMut(&str)>,
    step: &'static str,
    total: u64,
    done: u64,
    percent: Option<u128>,
}

impl Lines {
    fn new(json: bool, print: Box<dyn FnMut(&str)>) -> Self {
        Self {
            json,
            print,
            step: "",
            total: 0,
            done: 0,
            percent: None,
        }
    }

    fn report(&mut self) {
        let percent = (u128::from(self.done) * 100)
            .checked_div(u128::from(self.total))
            .unwrap_or(100);
        if self.percent.replace(percent) == Some(percent) {
            return;
        }
        let line = if self.json {
            json!({ "step": self.step, "done_bytes": self.done, "total_bytes": self.total })
                .to_string()
        } else {
            format!("{}: {percent} %", self.step)
        };
        (self.print)(&line);
    }
}

impl Progress for Lines {
    fn begin(&mut self, step: &'static str, total_bytes: u64) {
        (self.step, self.total, self.done, self.percent) = (step, total_bytes, 0, None);
        self.report();
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.report();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    fn lines(json: bool, total: u64, steps: &[u64]) -> Vec<String> {
        let lines = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&lines);
        let print = Box::new(move |line: &str| seen.borrow_mut().push(line.to_owned()));
        let mut progress = Lines::new(json, print);
        progress.begin("copy", total);
        steps.iter().for_each(|step| progress.advance(*step));
        lines.take()
    }

    #[test]
    fn a_line_is_printed_when_the_percentage_changes() {
        assert_eq!(
            lines(false, 1000, &[4, 4, 4, 488, 500]),
            ["copy: 0 %", "copy: 1 %", "copy: 50 %", "copy: 100 %"]
        );
        assert_eq!(lines(false, 1 << 40, &[1; 5000]).len(), 1);
    }

    #[test]
    fn lines_for_programs_are_json() {
        let lines = lines(true, 1000, &[1000]);
        let last: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
        let expected = json!({ "step": "copy", "done_bytes": 1000, "total_bytes": 1000 });
        assert_eq!(last, expected);
    }
}
