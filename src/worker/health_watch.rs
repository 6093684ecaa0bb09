//! Probes the components again and again, so that `/readyz` can say at once how they fare.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::memory::health::Health;
use crate::ports::{Fault, Probe, StoreResult};

/// How long one probe may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The task that probes all components.
pub struct HealthWatch {
    /// The components.
    pub probes: Vec<Arc<dyn Probe>>,
    /// Where the results are noted.
    pub health: Arc<Health>,
    /// Says when a component was found well.
    pub clock: Clock,
    /// Time between two rounds.
    pub period: Duration,
}

#[async_trait]
impl Task for HealthWatch {
    fn name(&self) -> &'static str {
        "health_watch"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Probes all components at the same time, and notes each result when it comes.
    async fn run_once(&self) -> StoreResult<Progress> {
        let probed = self.probes.iter().map(|probe| async {
            let result = self.clock.timeout(ANSWER_WITHIN, probe.check()).await;
            let result = result
                .unwrap_or_else(|late| Err(Fault::down(format!("does not answer within {:?}", late.0))));
            let is_well = result.is_ok();
            self.health.note(probe.as_ref(), result, self.clock.monotonic());
            usize::from(is_well)
        });
        let well: usize = futures::future::join_all(probed).await.into_iter().sum();
        Ok(Progress::of(well))
    }
}
