//! Keeps the memory of the front small.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::runtime::Handle;

use crate::metrics;
use crate::ports::StoreResult;
use crate::shop::Shop;
use crate::worker::driver::{Progress, Task};

/// The task. It stands here because no worker may use the shop.
pub struct Upkeep {
    /// The shop.
    pub shop: Arc<Shop>,
    /// The metrics of the process.
    pub metrics: PrometheusHandle,
    /// Time between two runs.
    pub period: Duration,
}

#[async_trait]
impl Task for Upkeep {
    fn name(&self) -> &'static str {
        "upkeep"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn run_once(&self) -> StoreResult<Progress> {
        self.shop.tidy();
        self.metrics.run_upkeep();
        metrics::note_runtime(&Handle::current().metrics());
        Ok(Progress::of(1))
    }
}
