//! Logs: one line per event on stderr, JSON for machines, pretty for people.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::UtcTime;

use crate::config::LogConfig;

/// Installs the process's log writer. Call once; a second call changes nothing.
///
/// # Errors
/// When the filter is not a tracing filter.
pub fn install(log: &LogConfig) -> Result<(), tracing_subscriber::filter::ParseError> {
    let filter = EnvFilter::try_new(&log.filter)?;
    let json = match log.format.as_str() {
        "json" => true,
        "pretty" => false,
        _ => !std::io::stderr().is_terminal(),
    };
    let timer = UtcTime::rfc_3339();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = if json {
        lines.json().flatten_event(true).with_timer(timer).try_init()
    } else {
        lines.with_timer(timer).try_init()
    };
    if installed.is_err() {
        tracing::debug!("log writer was installed before");
    }
    Ok(())
}
