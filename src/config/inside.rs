//! The sections `[log]`, `[traces]` and `[debug]`: what a process tells of its inside.

use serde::Deserialize;

/// The log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Levels and `target=level`, separated by commas.
    pub filter: String,
    /// `auto` (pretty on a terminal, otherwise JSON), `json` or `pretty`.
    pub format: String,
    /// How many of a million accepted orders get a line.
    pub orders_per_million: u32,
}

/// The traces of requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// The collector; empty for none.
    pub endpoint: String,
    /// How it is told.
    pub protocol: TracesProtocol,
    /// How many of a million requests are recorded that come without a trace.
    pub sampled_per_million: u32,
    /// The most requests a second that are recorded.
    pub requests_per_s_max: u32,
    /// From how long on a request is recorded in any case.
    pub slow_ms: u64,
    /// The most spans that wait to be sent.
    pub queue_spans_max: usize,
    /// How long the collector may take to answer.
    pub timeout_ms: u64,
}

/// A form of OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TracesProtocol {
    /// Over gRPC.
    Grpc,
    /// Over HTTP, as protobuf.
    Http,
}

/// What operators may look at that costs the process something.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebugConfig {
    /// Whether they may take profiles.
    pub profiles: bool,
}
