//! Looks whether instances were set back: a backup was restored, or a replica took over that was behind.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use super::driver::{Progress, Task};
use crate::metrics::MYSQL_SET_BACK;
use crate::ports::{StoreResult, Watermarks};

/// The guard of a process. Every process has one.
pub struct WatermarkGuard {
    /// The watermarks.
    pub watermarks: Arc<dyn Watermarks>,
    /// Time between two rounds.
    pub period: Duration,
}

#[async_trait]
impl Task for WatermarkGuard {
    fn name(&self) -> &'static str {
        "watermark_guard"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Looks at all instances.
    ///
    /// # Errors
    /// The first failure. The other instances were looked at all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let looked = self.watermarks.look().await;
        for (instance, is_set_back) in self.watermarks.set_back() {
            gauge!(MYSQL_SET_BACK, "database" => instance.number().to_string()).set(f64::from(is_set_back));
        }
        looked.map(|()| Progress::default())
    }
}
