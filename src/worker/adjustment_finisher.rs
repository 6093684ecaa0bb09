//! Brings adjustments of stock to their end that somebody has left under way.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::ports::{StockAdjustments, StoreResult};

/// How long an adjustment is left to whoever began it.
const AGE: Duration = Duration::from_secs(5);

/// The finisher of a process. Any number of processes may have one.
pub struct AdjustmentFinisher {
    /// The adjustments.
    pub adjustments: Arc<dyn StockAdjustments>,
    /// Time between two rounds.
    pub period: Duration,
}

#[async_trait]
impl Task for AdjustmentFinisher {
    fn name(&self) -> &'static str {
        "adjustment_finisher"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Finishes what is under way for longer than a call takes.
    ///
    /// # Errors
    /// The last failure. The others were tried all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        Ok(Progress::of(self.adjustments.finish(AGE).await?))
    }
}
