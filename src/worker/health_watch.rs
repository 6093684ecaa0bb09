//! Probes the components again and again, so that `/readyz` can say at once how they fare.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::memory::health::Health;
use crate::ports::{Fault, Probe, StoreResult};

/// How long one probe may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(1);

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

    /// Probes all components at the same time, and notes each result when it comes. The next round comes a period after
    /// this one has begun: one that hangs has the others probed no later than its time is over.
    async fn run_once(&self) -> StoreResult<Progress> {
        let began = self.clock.monotonic();
        let probed = self.probes.iter().map(|probe| async {
            let result = self.clock.timeout(ANSWER_WITHIN, probe.check()).await;
            let result = result
                .unwrap_or_else(|late| Err(Fault::down(format!("does not answer within {:?}", late.0))));
            let is_well = result.is_ok();
            self.health.note(probe.as_ref(), result, self.clock.monotonic());
            usize::from(is_well)
        });
        let well: usize = futures::future::join_all(probed).await.into_iter().sum();
        let elapsed = self.clock.monotonic().since(began);
        Ok(Progress { done: well, again_in: Some(self.period.saturating_sub(elapsed)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Duty;

    /// Takes so long to answer.
    struct Slow(Clock, i64);

    #[async_trait]
    impl Probe for Slow {
        fn name(&self) -> String {
            "slow".to_owned()
        }

        fn duties(&self) -> &'static [Duty] {
            &[Duty::Write]
        }

        async fn check(&self) -> Result<(), Fault> {
            self.0.advance_ms(self.1);
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_next_round_comes_a_period_after_this_one_has_begun() {
        for (took_ms, rests_ms) in [(0, 500), (200, 300), (900, 0)] {
            let clock = Clock::manual(0);
            let (probes, health): (Vec<Arc<dyn Probe>>, _) =
                (vec![Arc::new(Slow(clock.clone(), took_ms))], Arc::default());
            let watch = HealthWatch { probes, health, clock, period: Duration::from_millis(500) };
            let progress = watch.run_once().await.expect("probed");
            assert_eq!(progress.again_in, Some(Duration::from_millis(rests_ms)), "{took_ms}");
        }
    }
}
