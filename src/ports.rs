//! What the use cases and the workers need of a backend. Each trait has two real implementations or will
//! have; tests wrap one in a fault injector. Nothing above them is generic.
//!
//! Invariant: a failed call says whether its effect is excluded ([`Effect::NotApplied`]) or possible
//! ([`Effect::Unknown`]); only the first may be compensated or answered as "nothing happened".

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::batch_plan::{LogBatch, LogRecord};
use crate::domain::reservation::{OutboxEntry, OutboxEntryId, Reservation, ReserveRequest, Verdict};
use crate::domain::{
    ApiKey, BucketId, Change, Holdings, Month, Order, OrderCursor, OrderId, OrderRecord, OrderState, Part,
    Sale, SaleId, Shard, SkuId, UserId,
};

/// Whether a failed call may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    NotApplied,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The component cannot be reached or did not answer in time.
    Unavailable,
    /// A concurrent change won (deadlock, lock wait, version): take the work again.
    Conflict,
    /// The component answered what it never should: a fault of ours, or damaged data.
    Broken,
}

/// A failed call to a backend. Its text is for logs and never reaches a client.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {source} ({kind:?}, effect {effect:?})")]
pub struct StoreError {
    pub kind: ErrorKind,
    pub effect: Effect,
    pub context: &'static str,
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

pub type StoreResult<T> = Result<T, StoreError>;

/// One opened backend. Cheap to clone.
#[derive(Clone)]
pub struct Ports {
    pub inventory: Arc<dyn Inventory>,
    pub gates: Arc<dyn Gates>,
    pub outbox: Arc<dyn Outbox>,
    pub order_log: Arc<dyn OrderLog>,
    pub orders: Arc<dyn OrderStore>,
    pub archive: Arc<dyn Archive>,
    pub ledger: Arc<dyn Ledger>,
    pub sales: Arc<dyn SaleStore>,
    /// What `/readyz` asks, each under its own name.
    pub probes: Vec<Arc<dyn Probe>>,
}

/// The scarce units in front of MySQL: who may become an order.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Reserves up to `admission.reserve_batch_max` purchases of one bucket in one call; answers in the same
    /// order. Idempotent by order id.
    ///
    /// # Errors
    /// `Unknown` when no answer came: any of the batch may be held. Ask again with the same ids.
    async fn reserve(&self, bucket: &BucketId, batch: Arc<[ReserveRequest]>) -> StoreResult<Vec<Verdict>>;

    /// The hold of an order in the first of `buckets` that knows it.
    async fn reservation(&self, buckets: &[BucketId], order: OrderId) -> StoreResult<Option<Reservation>>;

    /// The users of all orders ever held in a bucket.
    async fn winners(&self, bucket: &BucketId) -> StoreResult<Vec<UserId>>;

    /// Marks what MySQL decided, best effort and idempotent.
    async fn settle(&self, bucket: &BucketId, decided: &[(OrderId, OrderState)]) -> StoreResult<()>;
}

/// The operator's side of the inventory: putting stock in place and opening or closing its gates.
#[async_trait]
pub trait Gates: Send + Sync {
    /// Puts a sale's stock and gates in place in every bucket. Idempotent: existing buckets stay untouched.
    async fn preheat(&self, sale: &Sale) -> StoreResult<()>;

    /// Brings every bucket's gate to the state the sale has. Idempotent; an older version of the sale changes
    /// nothing, so any node may call it at any time.
    async fn set_gates(&self, sale: &Sale) -> StoreResult<()>;

    /// Available units per bucket (ascending) and SKU; `None` for a bucket that is not in place.
    async fn available(&self, sale: &Sale) -> StoreResult<Vec<Option<HashMap<SkuId, i64>>>>;
}

/// Accepted records that the order log may not have yet.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Entries that are at least `min_age` old, oldest first: so many that about `limit` orders wait in them.
    async fn pending(
        &self,
        bucket: &BucketId,
        min_age: Duration,
        limit: usize,
    ) -> StoreResult<Vec<OutboxEntry>>;

    /// Marks `orders` queued, whose records the order log has acknowledged, then removes those of `entries` in
    /// which no order waits any more. Idempotent.
    async fn acknowledge(
        &self,
        bucket: &BucketId,
        orders: &[OrderId],
        entries: &[OutboxEntryId],
    ) -> StoreResult<()>;

    /// Orders in all entries, also those that do not wait any more.
    async fn len(&self, bucket: &BucketId) -> StoreResult<u64>;
}

/// Records appended, and orders read, in one call of an import or export.
pub const IMPORT_RECORDS_MAX: usize = 1000;

/// The durable queue between the front and the order writers.
#[async_trait]
pub trait OrderLog: Send + Sync {
    /// Appends an encoded [`OrderRecord`] to the partition of its order's shard. Duplicates are harmless.
    ///
    /// # Errors
    /// `Unknown` unless the record certainly never left this process.
    async fn append(&self, order: OrderId, payload: Vec<u8>) -> StoreResult<()>;

    /// Appends records that no front reserved: those of an import, at most [`IMPORT_RECORDS_MAX`].
    ///
    /// # Errors
    /// `Unknown` when some may be in the log. Appending them again is harmless.
    async fn append_imported(&self, records: &[OrderRecord]) -> StoreResult<()>;

    /// The end offset (of the next record) of every partition, ascending by partition.
    async fn ends(&self) -> StoreResult<Vec<i64>>;

    /// Waits until everything appended has its answer.
    async fn flush(&self, timeout: Duration) -> StoreResult<()>;

    /// Joins the readers. Call on the thread that will poll: closing blocks.
    fn reader(&self) -> StoreResult<Box<dyn OrderLogReader>>;
}

/// What a reader tells its writer.
#[derive(Debug)]
pub enum LogEvent {
    /// This partition is ours and silent until [`OrderLogReader::seek`].
    Assigned {
        part: Part,
    },
    Revoked {
        part: Part,
    },
    Record {
        part: Part,
        record: LogRecord,
    },
    /// The stored position lies outside the log: an alarm for people, never a silent jump.
    OutOfRange {
        part: Part,
        position: i64,
        low: i64,
        high: i64,
    },
}

/// One member of the readers. Lives on one thread.
pub trait OrderLogReader {
    /// Waits up to `timeout` for the first event and returns all that are there, at most `limit` records.
    ///
    /// # Errors
    /// Only for failures that polling again cannot mend.
    fn poll(&mut self, timeout: Duration, limit: usize) -> StoreResult<Vec<LogEvent>>;

    /// Starts or continues a partition at `offset`, dropping what was read ahead; also resumes it.
    fn seek(&mut self, part: Part, offset: i64) -> StoreResult<()>;

    /// Stops and restarts delivery of a partition (back-pressure).
    fn pause(&mut self, part: Part) -> StoreResult<()>;
    fn resume(&mut self, part: Part) -> StoreResult<()>;

    /// Publishes a position for lag graphs. Nothing depends on it.
    fn publish_position(&mut self, part: Part, next_offset: i64);
}

/// What became of one batch.
#[derive(Debug)]
pub enum BatchOutcome {
    Written(Written),
    /// Another writer moved the position to `stored`: nothing was written; drop what was read ahead.
    PositionMoved {
        stored: i64,
    },
}

#[derive(Debug, Default)]
pub struct Written {
    pub next_offset: i64,
    /// Orders inserted by this batch, in offset order, with the state they got.
    pub orders: Vec<(OrderRecord, OrderState)>,
    pub skipped: usize,
    pub dead_letters: Vec<&'static str>,
}

/// Orders in their shards, written only by order writers.
#[async_trait]
pub trait OrderStore: Send + Sync {
    /// Protocol steps 8 to 12 for one batch, in one transaction.
    ///
    /// # Errors
    /// After any error take the batch again from its start: the position decides whether it was applied.
    async fn write(&self, batch: &LogBatch, sales: &HashMap<SaleId, Sale>) -> StoreResult<BatchOutcome>;

    /// Prepares a partition that was just assigned: applies grants a crashed writer left, and returns the
    /// stored position.
    async fn take_over(&self, part: Part) -> StoreResult<i64>;

    /// Stored positions of the partitions that can be read now. An instance that is down is left out.
    async fn positions(&self) -> HashMap<Part, i64>;

    async fn order(&self, order: OrderId) -> StoreResult<Option<Order>>;

    /// Whether every shard has the month's orders table; `seckill migrate` makes them.
    async fn holds_month(&self, month: Month) -> StoreResult<bool>;

    /// One buyer's orders in one month, newest first, below the cursor.
    async fn orders_of(
        &self,
        user: &UserId,
        month: Month,
        below: Option<OrderCursor>,
        limit: u32,
    ) -> StoreResult<Vec<Order>>;
}

/// Orders as an export reads them.
#[async_trait]
pub trait Archive: Send + Sync {
    /// A sale's orders of one shard as records of an export, ascending by id above `after`, at most
    /// [`IMPORT_RECORDS_MAX`].
    async fn orders(
        &self,
        sale: &Sale,
        shard: Shard,
        after: Option<OrderId>,
    ) -> StoreResult<Vec<OrderRecord>>;
}

/// The stock ledger: pools at their homes, allotments on the instances.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Opens a pool for every item of a sale at its home. Idempotent.
    async fn open_pools(&self, sale: &Sale) -> StoreResult<()>;

    async fn holdings(&self, sale: &Sale) -> StoreResult<HashMap<SkuId, Holdings>>;
}

/// The directory of sales and of who may change them.
#[async_trait]
pub trait SaleStore: Send + Sync {
    /// All sales, ascending by start.
    async fn sales(&self) -> StoreResult<Vec<Sale>>;

    async fn sale(&self, id: &SaleId) -> StoreResult<Option<Sale>>;

    /// Inserts a sale with its audit row; `false` when the id is taken.
    async fn create(&self, sale: &Sale, change: &Change) -> StoreResult<bool>;

    /// Replaces a sale (items included) with its audit row, if its version still is `expected`; `false` if not.
    async fn replace(&self, sale: &Sale, expected: u64, change: &Change) -> StoreResult<bool>;

    async fn api_key(&self, key_hash: [u8; 32]) -> StoreResult<Option<ApiKey>>;

    async fn add_api_key(&self, key_hash: [u8; 32], key: &ApiKey) -> StoreResult<()>;
}

/// Whether a component answers now, for `/readyz`.
#[async_trait]
pub trait Probe: Send + Sync {
    fn name(&self) -> String;

    /// Whether nothing can be sold while it is down. The others only delay what was sold.
    fn is_vital(&self) -> bool;

    /// # Errors
    /// Whatever the component failed with.
    async fn check(&self) -> StoreResult<()>;
}
