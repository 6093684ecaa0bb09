//! Shows as metrics what the ledgers hold of every sale that sells. This is a task of its own, because an instance that
//! is down must not hold up the renewal of the catalog.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::memory::catalog::Catalog;
use crate::metrics::gauge_units;
use crate::ports::{Ledger, StoreResult};

/// The task that shows held and sold units.
pub struct HoldingsWatch {
    /// The ledgers, which know the units.
    pub ledger: Arc<dyn Ledger>,
    /// The sales.
    pub catalog: Arc<Catalog>,
    /// Says which sales sell.
    pub clock: Clock,
    /// Time between two readings.
    pub period: Duration,
}

#[async_trait]
impl Task for HoldingsWatch {
    fn name(&self) -> &'static str {
        "holdings_watch"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Reads the units of all sales that sell. After a failure the other sales are read all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let snapshot = self.catalog.snapshot();
        let (mut done, mut failure) = (0, Ok(()));
        for sale in snapshot.selling(self.clock.now_ms()) {
            match self.ledger.holdings(sale).await {
                Ok(holdings) => {
                    done += 1;
                    for (sku, of) in holdings {
                        gauge_units(&sale.id, &sku, "held", of.held);
                        gauge_units(&sale.id, &sku, "sold", of.sold);
                    }
                }
                Err(error) => failure = Err(error),
            }
        }
        failure.map(|()| Progress::of(done))
    }
}
