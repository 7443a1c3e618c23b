//! Where the log goes: standard error, in the way that journald likes it if it reads along.

mod budget;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use budget::Budgets;

/// Libraries that tell more than an operator wants to know, unless the filter asks for them by name.
const QUIET: &str = "xenevtchn=warn,xenstore_rs=warn";

/// Whether a filter is understood.
pub(crate) fn check(filter: &str) -> Result<(), ParseError> {
    EnvFilter::try_new(filter).map(drop)
}

/// Starts logging what `filter` lets through.
pub(crate) fn start(filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(format!("{QUIET},{filter}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would panic, and the daemon die, where the log cannot be written.
        .log_internal_errors(false);
    // journald writes down the time of each line itself, and shows colours as noise.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        let builder = builder.with_ansi(false).without_time();
        builder.finish().with(Budgets::default()).init();
    } else {
        let builder = builder.with_ansi(false);
        builder.finish().with(Budgets::default()).init();
    }
    Ok(())
}
