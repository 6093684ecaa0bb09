//! The two HTTP listeners. Handlers translate between HTTP and the use cases, and they decide nothing.

pub mod admin;
pub mod auth;
pub mod client_address;
pub mod connections;
pub mod contract;
pub mod cookies;
pub mod cors;
pub mod docs;
pub mod extract;
pub mod headers;
pub mod middleware;
pub mod operation;
pub mod pages;
pub mod paging;
pub mod problem;
pub mod rate_limit;
pub mod router;
pub mod rules;
pub mod shopper;
pub mod simulator;
pub mod straight;

use std::sync::{Arc, OnceLock};

use actix_web::http::header::HeaderName;
use futures::future::{BoxFuture, LocalBoxFuture};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;

use crate::clock::Clock;
use crate::domain::{TaskStatus, UserId};
use crate::memory::figures::Figures;
use crate::shop::Shop;
use auth::Tokens;
use client_address::ClientAddresses;
use utoipa::ToSchema;

/// Reads the published keys anew, because a token names one that is not known. The future ends at once when they were
/// read a moment ago, so that a crowd with made-up key ids costs the provider nothing. It answers whether keys were
/// ever read. A read that has begun goes on when the future is dropped.
pub type LearnKeys = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// Reads the configuration again. Answers what is wrong with it, when nothing was changed.
pub type Reload = Arc<dyn Fn() -> Result<Reloaded, String> + Send + Sync>;

/// Answers how the background tasks of this process fare, in the order in which they were started.
pub type ReadTasks = Arc<dyn Fn() -> Vec<TaskStatus> + Send + Sync>;

/// Makes the changes of a listener to their end although whoever asked for them has gone.
pub trait Finish: Send + Sync {
    /// Answers whether one more may be begun.
    fn has_room(&self) -> bool;

    /// Makes one on this thread. The process does not end before.
    fn make(&self, change: LocalBoxFuture<'static, ()>);
}

/// Takes a profile of this process: for how many seconds, and in which form.
pub type TakeProfile =
    Arc<dyn Fn(u32, ProfileForm) -> BoxFuture<'static, Result<Vec<u8>, NoProfile>> + Send + Sync>;

/// A form of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileForm {
    /// Protocol buffers, for `go tool pprof`.
    Pprof,
    /// A flame graph, as SVG.
    FlameGraph,
}

/// Why there is no profile.
#[derive(Debug)]
pub enum NoProfile {
    /// Another one is being taken.
    OneIsTaken,
    /// It could not be taken, and why.
    Failed(String),
}

/// Makes a shopper's token of a user id.
pub type MintToken = Arc<dyn Fn(&UserId) -> String + Send + Sync>;

/// What came of reading the configuration again.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reloaded {
    /// The keys that have changed and are followed from now on, ascending.
    pub followed: Vec<String>,
    /// The keys that have changed and are followed after a restart, ascending.
    pub at_restart: Vec<String>,
}

/// What every handler can reach. A process has one, and all of its threads share it.
pub struct Context {
    /// The use cases.
    pub shop: Arc<Shop>,
    /// Checks the tokens of shoppers.
    pub tokens: Arc<Tokens>,
    /// Reads the keys that an identity provider publishes; `None` when all keys are configured.
    pub learn_keys: Option<LearnKeys>,
    /// Finds the addresses of clients behind proxies.
    pub addresses: ClientAddresses,
    /// The host names under which the operators' listener answers, beside addresses and names without a dot.
    pub admin_hosts: Vec<String>,
    /// The header in which the shop's app names the shopper's device; `None` when none does.
    pub device_header: Option<HeaderName>,
    /// How long a client may take to send a request's body.
    pub body_timeout_ms: u64,
    /// The largest event of the payment provider that is read.
    pub webhook_body_bytes_max: usize,
    /// Bounds what a client may keep waiting.
    pub clock: Clock,
    /// Renders the metrics of this process.
    pub metrics: PrometheusHandle,
    /// The origins whose pages may call the API, beside our own.
    pub origins: Vec<String>,
    /// The id of this process, as `GET /admin/nodes` has it.
    pub process: String,
    /// What this process has measured of late.
    pub figures: Arc<Figures>,
    /// How its background tasks fare.
    pub tasks: ReadTasks,
    /// Takes profiles; `None` where none may be taken.
    pub take_profile: Option<TakeProfile>,
    /// Makes a token of a buyer of a demo, in which anybody may be one; nothing anywhere else.
    pub demo: OnceLock<MintToken>,
    /// Reads the configuration again; nothing where it cannot be.
    pub reload: OnceLock<Reload>,
}
