//! Where the log goes: standard error, in the way that journald likes it if it reads along.

mod budget;

use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as format, reload};

use thiserror::Error;
use tracing::Span;
use xenstore_glue::DeviceId;

use budget::Budgets;

/// Libraries that tell more than an operator wants to know, unless the filter asks for them by name.
const QUIET: &str = "xenevtchn=warn,xenstore_rs=warn";

/// How much may be logged, from nothing to everything.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why a filter is not understood. More than this is understood by tracing's `EnvFilter`, which takes a misspelt level for the
/// name of a part, and logs nothing else.
#[derive(Debug, Error)]
pub(crate) enum FilterError {
    /// One of its words is not.
    #[error("{0:?} is neither a level ({levels}) nor of the form PART=LEVEL", levels = LEVELS.join(", "))]
    Word(String),
    /// It cannot be put to use.
    #[error("it cannot be put to use: {0}")]
    Useless(String),
}

/// What is logged, to be asked for and to be changed. Clones are the same.
#[derive(Clone)]
pub(crate) struct Log {
    filter: Arc<Mutex<String>>,
    used: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// What is let through.
    pub(crate) fn filter(&self) -> String {
        let filter = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        filter.clone()
    }

    /// Changes what is let through.
    ///
    /// # Errors
    /// If the filter is not understood; everything is as before then.
    pub(crate) fn set(&self, filter: &str) -> Result<(), FilterError> {
        let parsed = parse(filter)?;
        let mut known = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        self.used
            .reload(parsed)
            .map_err(|error| FilterError::Useless(error.to_string()))?;
        filter.clone_into(&mut known);
        Ok(())
    }
}

/// What is logged within it is about a device, and says so.
pub(crate) fn span(device: DeviceId) -> Span {
    tracing::error_span!("disk", %device)
}

/// Whether a filter is understood: levels, one for everything and others for parts, with commas between them.
pub(crate) fn check(filter: &str) -> Result<(), FilterError> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    let is_part = |part: &str| {
        let fits = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
        !part.is_empty() && part.chars().all(fits)
    };
    let is_understood = |word: &&str| match word.split_once('=') {
        Some((part, level)) => is_part(part) && LEVELS.contains(&level),
        None => LEVELS.contains(word),
    };
    if let Some(word) = filter.split(',').find(|word| !is_understood(word)) {
        return Err(FilterError::Word(word.to_owned()));
    }
    EnvFilter::try_new(format!("{QUIET},{filter}"))
        .map_err(|error| FilterError::Useless(error.to_string()))
}

/// Starts logging what `filter` lets through.
pub(crate) fn start(filter: &str) -> Result<Log, FilterError> {
    let (used, handle) = reload::Layer::new(parse(filter)?);
    let lines = format::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        // It would panic, and the daemon die, where the log cannot be written.
        .log_internal_errors(false);
    // journald writes down the time of each line itself, and shows colours as noise.
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().boxed()
    } else {
        lines.boxed()
    };
    tracing_subscriber::registry()
        .with(used)
        .with(lines)
        .with(Budgets::default())
        .init();
    Ok(Log {
        filter: Arc::new(Mutex::new(filter.to_owned())),
        used: handle,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_part() {
        for good in [
            "info",
            "off",
            "info,blockio=debug",
            "a::b=trace",
            "blockio=debug",
        ] {
            check(good).unwrap();
        }
        for (bad, word) in [
            ("", ""),
            ("inof", "inof"),
            ("info,", ""),
            ("info,blockio=much", "blockio=much"),
            ("a=b=c", "a=b=c"),
            ("=info", "=info"),
            ("info,[span]=debug", "[span]=debug"),
        ] {
            let error = check(bad).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{word:?} is neither a level")),
                "{bad}: {error}"
            );
        }
    }
}
