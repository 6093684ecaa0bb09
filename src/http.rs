//! The HTTP faces. Handlers translate between HTTP and the use cases and decide nothing.

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

use crate::purchase::Shop;
use auth::Tokens;

/// What every request can reach. One per process, shared by all workers.
pub struct Context {
    pub shop: Arc<Shop>,
    pub tokens: Tokens,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    pub metrics: PrometheusHandle,
}
