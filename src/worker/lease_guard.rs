//! Prolongs the leases of buckets, so that they go on selling. A bucket whose server was started anew, or is another
//! one, gets no lease: what it has may be older than what it has sold (step 17).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::memory::catalog::Catalog;
use crate::ports::{Refills, StoreResult};

/// The guard of a process. Every process has one, and any of them is enough.
pub struct LeaseGuard {
    /// The buckets.
    pub refills: Arc<dyn Refills>,
    /// The sales.
    pub catalog: Arc<Catalog>,
    /// Says which sales sell.
    pub clock: Clock,
    /// Time between two rounds.
    pub period: Duration,
}

#[async_trait]
impl Task for LeaseGuard {
    fn name(&self) -> &'static str {
        "lease_guard"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Prolongs the leases of all sales that sell.
    ///
    /// # Errors
    /// The first failure. The other sales were tried all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let snapshot = self.catalog.snapshot();
        let (mut done, mut failure) = (0, Ok(()));
        for sale in snapshot.selling(self.clock.now_ms()).filter(|sale| sale.in_place) {
            let renewed = self.refills.renew(sale).await;
            done += usize::from(renewed.is_ok());
            failure = failure.and(renewed);
        }
        failure.map(|()| Progress::of(done))
    }
}
