//! Has the traces of requests sent to a collector, when the configuration names one.

#[cfg(feature = "traces")]
use std::time::Duration;

use super::role::Role;
use crate::clock::Clock;
use crate::config::Config;
#[cfg(feature = "traces")]
use crate::config::TracesProtocol;
#[cfg(feature = "traces")]
use crate::trace::Recorder;
#[cfg(feature = "traces")]
use crate::trace::exporter::{Collector, Exporter, Protocol};

/// How long the end of a process waits for its last spans.
#[cfg(feature = "traces")]
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// What sends the traces of a process; nothing when none are sent.
pub struct Traces {
    #[cfg(feature = "traces")]
    exporter: Option<Exporter>,
}

#[cfg(feature = "traces")]
impl Traces {
    /// Begins to record, when there is a collector. A process records once, so all but the first of it record nothing
    /// of their own.
    ///
    /// # Errors
    /// When the collector's address cannot be used.
    pub fn start(config: &Config, role: Role, process: &str, clock: &Clock) -> anyhow::Result<Self> {
        let traces = &config.traces;
        if traces.endpoint.is_empty() {
            return Ok(Self { exporter: None });
        }
        let (spans, taken) = tokio::sync::mpsc::channel(traces.queue_spans_max);
        let slow_after = Duration::from_millis(traces.slow_ms);
        let (per_million, per_second) = (traces.sampled_per_million, traces.requests_per_s_max);
        let collector = Collector {
            endpoint: traces.endpoint.clone(),
            protocol: match traces.protocol {
                TracesProtocol::Grpc => Protocol::Grpc,
                TracesProtocol::Http => Protocol::Http,
            },
            timeout: Duration::from_millis(traces.timeout_ms),
            role: role.as_str(),
            process: process.to_owned(),
        };
        let exporter = Exporter::start(collector, taken, clock.clone())?;
        let is_first = Recorder::new(per_million, per_second, slow_after, spans, clock.clone()).install();
        Ok(Self { exporter: is_first.then_some(exporter) })
    }

    /// Waits until the last spans were sent, or two seconds.
    pub async fn flush(&self, clock: &Clock) {
        if let Some(exporter) = &self.exporter {
            // What is not sent by then is lost with the process.
            let _ = clock.timeout(FLUSH_MAX, exporter.flush()).await;
        }
    }
}

#[cfg(not(feature = "traces"))]
impl Traces {
    /// Refuses a configuration that names a collector.
    ///
    /// # Errors
    /// When it does.
    pub fn start(config: &Config, _: Role, _: &str, _: &Clock) -> anyhow::Result<Self> {
        anyhow::ensure!(
            config.traces.endpoint.is_empty(),
            "this program was built without traces: build it with `--features traces`, or empty traces.endpoint"
        );
        Ok(Self {})
    }

    /// Has nothing to send.
    pub async fn flush(&self, _: &Clock) {}
}
