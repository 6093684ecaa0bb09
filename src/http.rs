//! The two HTTP listeners. Handlers translate between HTTP and the use cases, and they decide nothing.

pub mod admin;
pub mod auth;
pub mod extract;
pub mod middleware;
pub mod problem;
pub mod router;
pub mod shopper;

use std::net::IpAddr;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;

use crate::shop::Shop;
use auth::Tokens;

/// What every handler can reach. A process has one, and all of its threads share it.
pub struct Context {
    /// The use cases.
    pub shop: Arc<Shop>,
    /// Checks the tokens of shoppers.
    pub tokens: Tokens,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Renders the metrics of this process.
    pub metrics: PrometheusHandle,
}
