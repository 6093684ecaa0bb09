//! Reads what the ledgers hold of every sale that sells: it is shown as metrics, and buyers hear whether what is sold
//! out may come back. This is a task of its own, because an instance that is down must not hold up the renewal of the
//! catalog.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::domain::{Holdings, Sale, SkuId};
use crate::memory::catalog::{Catalog, Gone};
use crate::metrics::gauge_units;
use crate::ports::{Ledger, StoreResult};

/// The task that reads held and sold units.
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
        let mut gone = Gone::new();
        for sale in snapshot.selling(self.clock.now_ms()) {
            match self.ledger.holdings(sale).await {
                Ok(holdings) => {
                    done += 1;
                    gone.insert(sale.id.clone(), gone_of(sale, &holdings));
                    for (sku, of) in holdings {
                        gauge_units(&sale.id, &sku, "held", of.held);
                        gauge_units(&sale.id, &sku, "sold", of.sold);
                    }
                }
                Err(error) => {
                    failure = Err(error);
                    gone.extend(
                        snapshot.gone.get_key_value(&sale.id).map(|(id, gone)| (id.clone(), gone.clone())),
                    );
                }
            }
        }
        if gone != *snapshot.gone {
            self.catalog.set_gone(gone);
        }
        failure.map(|()| Progress::of(done))
    }
}

/// Lists the SKUs whose units are all paid or withheld.
fn gone_of(sale: &Sale, holdings: &HashMap<SkuId, Holdings>) -> BTreeSet<SkuId> {
    let is_gone = |stock: u32, of: &Holdings| of.sold + of.withheld >= i64::from(stock);
    let gone =
        sale.items.iter().filter(|item| holdings.get(&item.sku_id).is_some_and(|of| is_gone(item.stock, of)));
    gone.map(|item| item.sku_id.clone()).collect()
}
