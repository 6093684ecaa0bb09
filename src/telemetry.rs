//! Logs. Every event is one line on stderr: as JSON for machines, or pretty for people.

use std::io::IsTerminal;

use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::time::UtcTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::LogConfig;

/// Installs the log writer of the process. It is called once; a second call changes nothing.
///
/// # Errors
/// When the filter is not a list of levels and of `target=level`.
pub fn install(log: &LogConfig) -> Result<(), ParseError> {
    let filter: Targets = log.filter.parse()?;
    let json = match log.format.as_str() {
        "json" => true,
        "pretty" => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer().with_timer(UtcTime::rfc_3339()).with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(filter);
    let installed = if json {
        subscriber.with(lines.json().flatten_event(true)).try_init()
    } else {
        subscriber.with(lines).try_init()
    };
    if installed.is_err() {
        tracing::debug!("log writer was installed before");
    }
    Ok(())
}
