//! Reads the rules of traffic in every period, so that this process follows what operators say.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::memory::rulebook::Rulebook;
use crate::metrics::RULES_VERSION;
use crate::ports::{Rules, StoreResult};

/// The task that renews the rules.
pub struct RuleRefresh {
    /// The rules, as operators keep them.
    pub rules: Arc<dyn Rules>,
    /// Those that this process follows.
    pub rulebook: Arc<Rulebook>,
    /// The clock.
    pub clock: Clock,
    /// Time between two readings.
    pub period: Duration,
}

#[async_trait]
impl Task for RuleRefresh {
    fn name(&self) -> &'static str {
        "rule_refresh"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Renews the rules once. When they cannot be read, the last known ones stay in use.
    async fn run_once(&self) -> StoreResult<Progress> {
        self.rulebook.renew(self.rules.as_ref(), self.clock.now_ms()).await?;
        let version = self.rulebook.version();
        gauge!(RULES_VERSION).set(f64::from(u32::try_from(version).unwrap_or(u32::MAX)));
        Ok(Progress::of(0))
    }
}
