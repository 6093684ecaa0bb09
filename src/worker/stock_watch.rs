//! Reads the available units, the outboxes and the losses of sales that sell. Shoppers see the units as bands,
//! admission needs the number of orders in the outboxes, and operators have to learn of buckets that have lost keys and
//! of sales that should sell and are not in place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::domain::sale::Phase;
use crate::domain::{Sale, SaleId, SaleState};
use crate::memory::catalog::{Catalog, Losses, Snapshot, Stock, bands_of, losses_of};
use crate::metrics::{BUCKETS_LOST, OUTBOX_ORDERS, SALE_DELAYED, SALE_UNPLACED, gauge_units};
use crate::ports::{BucketState, Gates, Outbox, StoreResult};

/// The task that renews what the catalog knows of the stock.
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

    /// Reads all sales that sell. A sale that cannot be read now keeps its last bands and losses, and its outboxes that
    /// were not read count as empty.
    async fn run_once(&self) -> StoreResult<Progress> {
        let snapshot = self.catalog.snapshot();
        let now_ms = self.clock.now_ms();
        let mut stock = Stock { outbox_orders: 0, ..Stock::clone(&snapshot.stock) };
        let is_known = |id: &SaleId| snapshot.sales.get(id).is_some_and(|sale| sale.is_selling(now_ms));
        stock.bands.retain(|id, _| snapshot.sales.contains_key(id));
        stock.losses.retain(|id, _| is_known(id));
        let (mut done, mut failure) = (0, Ok(()));
        for sale in snapshot.selling(now_ms) {
            done += 1;
            if let Err(error) = self.look(sale, &mut stock).await {
                failure = Err(error);
            }
        }
        gauge!(OUTBOX_ORDERS).set(f64::from(u32::try_from(stock.outbox_orders).unwrap_or(u32::MAX)));
        // A sale that sells no more is read no more, and what it has lost calls nobody.
        for sale in snapshot.stock.losses.keys().filter(|sale| !is_known(sale)) {
            gauge!(BUCKETS_LOST, "sale" => sale.to_string()).set(0.0);
        }
        tell_losses(&snapshot.stock.losses, &stock.losses);
        let before = &snapshot.stock;
        stock.delayed = delayed(&before.delayed, &snapshot, now_ms);
        gauge_sales(SALE_DELAYED, (&before.delayed, &stock.delayed), &snapshot, now_ms);
        stock.unplaced = unplaced(&snapshot, now_ms);
        gauge_sales(SALE_UNPLACED, (&before.unplaced, &stock.unplaced), &snapshot, now_ms);
        self.catalog.set_stock(stock);
        failure.map(|()| Progress::of(done))
    }
}

/// The age, in ms, from which on units that are under way between buckets were left by a process that died.
const MOVE_OVERDUE_MS: i64 = 2_000;

/// How long before its start, in ms, a sale should be in place.
const UNPLACED_BEFORE_MS: i64 = 120_000;

impl StockWatch {
    /// Brings units on that somebody left under way between two buckets.
    async fn finish_moves(&self, sale: &Sale, buckets: &[BucketState]) {
        let now_ms = self.clock.now_ms();
        for (from, bucket) in (0u16..).zip(buckets) {
            let BucketState::Whole { under_way, .. } = bucket else { continue };
            for moved in under_way.iter().filter(|moved| now_ms - moved.since_ms >= MOVE_OVERDUE_MS) {
                tracing::info!(sale = %sale.id, from, to = moved.to, units = moved.units, "a move is finished");
                if let Err(error) = self.gates.finish_move(sale, from, moved).await {
                    tracing::debug!(%error, sale = %sale.id, from, "a move is not finished now");
                }
            }
        }
    }

    /// Reads one sale: adds its outboxes, and sets its bands and losses.
    async fn look(&self, sale: &Sale, stock: &mut Stock) -> StoreResult<()> {
        let buckets = self.gates.buckets(sale).await;
        for bucket in sale.bucket_ids() {
            stock.outbox_orders += self.outbox.len(&bucket).await?;
        }
        let buckets = buckets?;
        self.finish_moves(sale, &buckets).await;
        stock.losses.remove(&sale.id);
        let losses = losses_of(sale, &buckets, self.clock.now_ms());
        gauge!(BUCKETS_LOST, "sale" => sale.id.to_string())
            .set(f64::from(u32::try_from(losses.len()).unwrap_or(u32::MAX)));
        if !losses.is_empty() {
            stock.losses.insert(sale.id.clone(), losses);
        }
        let Some(of_items) = bands_of(sale, &buckets) else { return Ok(()) };
        for (sku, (band, units)) in of_items {
            gauge_units(&sale.id, &sku, "available", units);
            stock.bands.entry(sale.id.clone()).or_default().insert(sku, band);
        }
        Ok(())
    }
}

/// Logs the buckets that were found to have lost keys since the last look.
fn tell_losses(before: &Losses, now: &Losses) {
    for (sale, buckets) in now.iter().filter(|(sale, buckets)| before.get(*sale) != Some(*buckets)) {
        for (bucket, keys) in buckets {
            let keys = keys.join(", ");
            tracing::error!(%sale, bucket, keys, "a bucket has lost keys of its Redis data: it sells nothing");
        }
    }
}

/// Answers which sales should sell and are not in place. Logs those that were not among `before`.
fn delayed(before: &BTreeSet<SaleId>, snapshot: &Snapshot, now_ms: i64) -> BTreeSet<SaleId> {
    let delayed = ids_of(snapshot, |sale| sale.phase(now_ms) == Some(Phase::Delayed));
    for sale in delayed.difference(before) {
        tracing::warn!(%sale, "the sale should sell, and its stock is not in place: preheat it");
    }
    delayed
}

/// Answers which published sales start soon, or have started, and are not in place.
fn unplaced(snapshot: &Snapshot, now_ms: i64) -> BTreeSet<SaleId> {
    ids_of(snapshot, |sale| {
        let is_near = now_ms >= sale.starts_ms.saturating_sub(UNPLACED_BEFORE_MS) && now_ms < sale.ends_ms;
        is_near
            && !sale.in_place
            && !matches!(sale.state, SaleState::Draft | SaleState::Ended | SaleState::Settled)
    })
}

fn ids_of(snapshot: &Snapshot, is_one: impl Fn(&Sale) -> bool) -> BTreeSet<SaleId> {
    snapshot.sales.values().filter(|sale| is_one(sale)).map(|sale| sale.id.clone()).collect()
}

/// Shows as a metric which sales are `now` what those of `before` were. Sales that sell have a series in any case.
fn gauge_sales(
    metric: &'static str,
    (before, now): (&BTreeSet<SaleId>, &BTreeSet<SaleId>),
    snapshot: &Snapshot,
    now_ms: i64,
) {
    let selling = snapshot.selling(now_ms).map(|sale| &sale.id);
    for sale in now.iter().chain(before).chain(selling) {
        gauge!(metric, "sale" => sale.to_string()).set(f64::from(u8::from(now.contains(sale))));
    }
}
