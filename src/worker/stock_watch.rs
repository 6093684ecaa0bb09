//! Reads the available units and the outboxes of sales that sell. Shoppers see the units as bands, and admission needs
//! the number of orders in the outboxes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::domain::Sale;
use crate::memory::catalog::{Bands, Catalog, bands_of};
use crate::metrics::{OUTBOX_ORDERS, gauge_units};
use crate::ports::{Gates, Outbox, StoreResult};

/// The task that renews the catalog's stock bands and the number of orders in the outboxes.
pub struct StockWatch {
    /// The gates, which know the available units.
    pub gates: Arc<dyn Gates>,
    /// The outboxes.
    pub outbox: Arc<dyn Outbox>,
    /// The catalog that is renewed.
    pub catalog: Arc<Catalog>,
    /// Says which sales sell.
    pub clock: Clock,
    /// Time between two readings.
    pub period: Duration,
}

#[async_trait]
impl Task for StockWatch {
    fn name(&self) -> &'static str {
        "stock_watch"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Reads all sales that sell. A sale that cannot be read now keeps its last bands, and its outboxes that were not
    /// read count as empty.
    async fn run_once(&self) -> StoreResult<Progress> {
        let snapshot = self.catalog.snapshot();
        let mut bands = Bands::clone(&snapshot.bands);
        bands.retain(|id, _| snapshot.sales.contains_key(id));
        let (mut outbox_orders, mut done, mut failure) = (0, 0, Ok(()));
        for sale in snapshot.selling(self.clock.now_ms()) {
            done += 1;
            if let Err(error) = self.look(sale, &mut bands, &mut outbox_orders).await {
                failure = Err(error);
            }
        }
        gauge!(OUTBOX_ORDERS).set(f64::from(u32::try_from(outbox_orders).unwrap_or(u32::MAX)));
        self.catalog.set_stock(bands, outbox_orders);
        failure.map(|()| Progress::of(done))
    }
}

impl StockWatch {
    /// Reads one sale: adds its outboxes to `outbox_orders`, and sets its bands.
    async fn look(&self, sale: &Sale, bands: &mut Bands, outbox_orders: &mut u64) -> StoreResult<()> {
        let available = self.gates.available(sale).await;
        for bucket in sale.bucket_ids() {
            *outbox_orders += self.outbox.len(&bucket).await?;
        }
        let Some(of_items) = bands_of(sale, &available?) else { return Ok(()) };
        for (sku, (band, units)) in of_items {
            gauge_units(&sale.id, &sku, "available", units);
            bands.entry(sale.id.clone()).or_default().insert(sku, band);
        }
        Ok(())
    }
}
