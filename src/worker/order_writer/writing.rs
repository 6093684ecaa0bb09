//! Writes one batch, beside the runs of the writer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, histogram};

use super::parts::Parts;
use crate::clock::Clock;
use crate::domain::batch_plan::LogBatch;
use crate::domain::{BucketId, Decision, OrderRecord, SaleId, SaleState, Sales, ShardMap};
use crate::memory::catalog::Catalog;
use crate::metrics::{
    DEAD_LETTERS, ORDER_PERSIST, ORDERS, RECORDS_SKIPPED, WRITER_BATCH, WRITER_COMMIT, WRITER_RETRIES,
};
use crate::ports::{
    BatchOutcome, ErrorKind, Inventory, OrderWrites, SaleStore, StoreResult, Told, Written, WrittenOrder,
};
use crate::shutdown::Tasks;
use crate::trace::{self, Kind, Purpose, Span};
use crate::worker::announcer::Announcer;

/// Everything that the writing of one batch needs.
pub struct Writing {
    order_writes: Arc<dyn OrderWrites>,
    sales: Arc<dyn SaleStore>,
    inventory: Arc<dyn Inventory>,
    announcer: Arc<Announcer>,
    catalog: Arc<Catalog>,
    clock: Clock,
    map: ShardMap,
    tasks: Tasks,
}

/// What was decided of orders, by their bucket.
type Decided = BTreeMap<BucketId, Vec<Decision>>;

impl Writing {
    /// Takes what is needed from the parts of a writer.
    pub fn of(parts: &Parts) -> Self {
        Self {
            order_writes: parts.order_writes.clone(),
            sales: parts.sales.clone(),
            inventory: parts.inventory.clone(),
            announcer: parts.announcer.clone(),
            catalog: parts.catalog.clone(),
            clock: parts.clock.clone(),
            map: parts.map,
            tasks: parts.tasks.clone(),
        }
    }

    /// Writes a batch, counts its outcome, and marks the holds of its orders. After a failure it applies the grants
    /// that the attempt left behind.
    ///
    /// # Errors
    /// As [`OrderWrites::write`], and when the directory was needed and could not be read.
    pub async fn write(&self, batch: &LogBatch) -> StoreResult<BatchOutcome> {
        let mut span = span_of(batch);
        let purpose = Purpose { request: None, trace: span.context() };
        let outcome = trace::within(purpose, self.attempt(batch)).await;
        if let Err(error) = &outcome {
            span.fail(error);
        }
        match &outcome {
            Ok(BatchOutcome::Written(written)) => self.after_commit(written, &span),
            Ok(BatchOutcome::PositionMoved { .. }) => {
                retried("position_moved");
                // An attempt before this one may have moved it, and nobody has heard of its orders.
                self.announcer.miss();
            }
            Err(error) => {
                retried(match error.kind {
                    ErrorKind::Conflict => "conflict",
                    ErrorKind::Unavailable => "unavailable",
                    ErrorKind::Broken => "broken",
                });
                // Grants that the failed attempt fetched are applied before the next attempt asks for more.
                if let Err(error) = self.order_writes.take_over(batch.part).await {
                    tracing::debug!(%error, "stray grants not applied now");
                }
            }
        }
        outcome
    }

    /// Writes a batch, and measures the time of a commit.
    async fn attempt(&self, batch: &LogBatch) -> StoreResult<BatchOutcome> {
        let sales = self.sales_of(batch).await?;
        let began = self.clock.monotonic();
        let outcome = self.order_writes.write(batch, &sales).await;
        if matches!(outcome, Ok(BatchOutcome::Written(_))) {
            histogram!(WRITER_COMMIT).record(self.clock.monotonic().since(began).as_secs_f64());
        }
        outcome
    }

    /// Answers the sales that a batch is decided with. A sale that the catalog lacks, or has from before its preheat
    /// froze it, is read from the directory first, because its records would become dead letters.
    async fn sales_of(&self, batch: &LogBatch) -> StoreResult<Arc<Sales>> {
        let mut sales = self.catalog.snapshot().sales.clone();
        let known = sales.clone();
        let is_known = |id: &&SaleId| known.get(id).is_some_and(|sale| !sale.state.is_editable());
        let records = batch.records.iter().filter_map(|record| record.order.as_ref().ok());
        let unknown: BTreeSet<&SaleId> =
            records.map(|record| &record.sale_id).filter(|id| !is_known(id)).collect();
        for id in unknown {
            let Some(sale) = self.sales.sale(id).await? else { continue };
            // The catalog has no settled sales; here a record of one is being read again.
            if sale.state != SaleState::Settled {
                self.catalog.put(sale.clone());
            }
            Arc::make_mut(&mut sales).insert(id.clone(), sale);
        }
        Ok(sales)
    }

    /// Counts what was written, tells whoever listens, and spawns the marking of the holds (step 13). That is best
    /// effort, because MySQL is the truth whatever happens here.
    fn after_commit(&self, written: &Written, batch: &Span) {
        let rows = u32::try_from(written.orders.len()).unwrap_or(u32::MAX);
        histogram!(WRITER_BATCH).record(f64::from(rows));
        counter!(RECORDS_SKIPPED).increment(u64::try_from(written.skipped).unwrap_or(0));
        for reason in &written.dead_letters {
            counter!(DEAD_LETTERS, "reason" => *reason).increment(1);
        }
        let now_ms = self.clock.now_ms();
        let sales = self.catalog.snapshot().sales.clone();
        let mut decided = Decided::new();
        for WrittenOrder { record, decision, .. } in &written.orders {
            counter!(ORDERS, "status" => decision.state.as_str()).increment(1);
            // An order of an import was accepted long ago, and nobody has waited for its row since.
            if record.decided.is_none() {
                let age_ms = u64::try_from(now_ms.saturating_sub(record.accepted_ms)).unwrap_or(0);
                histogram!(ORDER_PERSIST).record(Duration::from_millis(age_ms).as_secs_f64());
            }
            if let Some(sale) = sales.get(&record.sale_id) {
                let bucket = self.map.bucket_of(record.order_id.shard(), sale.buckets);
                let bucket = BucketId { sale: sale.id.clone(), bucket };
                decided.entry(bucket).or_default().push(*decision);
            }
        }
        self.announcer.tell(written.orders.iter().map(|order| told(order, batch)));
        let inventory = self.inventory.clone();
        self.tasks.spawn(async move {
            for (bucket, decided) in decided {
                if let Err(error) = inventory.mark_decided(&bucket, &decided).await {
                    tracing::debug!(%error, "holds not marked; polls read MySQL");
                }
            }
        });
    }
}

/// Begins the span of a batch, if some of its records are of traces.
fn span_of(batch: &LogBatch) -> Span {
    let records = batch.records.iter().filter_map(|record| record.order.as_ref().ok());
    let mut span = Span::of_batch("write batch", Kind::Consumer, records.filter_map(OrderRecord::trace));
    span.set("messaging.operation.type", || "process");
    span.set("messaging.batch.message_count", || batch.records.len());
    span.set("messaging.destination.partition.id", || batch.part.number().to_string());
    span
}

/// Answers what is told of an order that was written, and ends its step in its own trace.
fn told(order: &WrittenOrder, batch: &Span) -> Told {
    let mut span = Span::follow(order.record.trace(), "persist", Kind::Consumer);
    span.began_with(batch);
    batch.context().into_iter().for_each(|batch| span.link(batch));
    span.set("seckill.order", || order.record.order_id.to_string());
    span.set("seckill.state", || order.decision.state.as_str());
    Told { trace: span.context(), order: order.order() }
}

/// Counts a batch that is taken again.
fn retried(reason: &'static str) {
    counter!(WRITER_RETRIES, "reason" => reason).increment(1);
}
