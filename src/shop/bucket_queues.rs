//! The queues in which purchases of a bucket wait for each other, and what the front remembers of each sale meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use metrics::{Histogram, counter, histogram};

use super::batching::{Batcher, Tempo};
use super::needed_units::NeededUnits;
use super::settings::Settings;
use super::sold_out::SoldOut;
use crate::clock::{Clock, Moment};
use crate::domain::reservation::{Denial, OutboxEntryId, Reservation, ReserveRequest, Verdict};
use crate::domain::{BucketId, OrderId, SaleId, SkuId};
use crate::memory::catalog::Snapshot;
use crate::metrics::{ADMISSION, ADMISSION_OUTCOMES, STAGE_DURATION};
use crate::ports::StoreError;

/// What the inventory answered about one purchase of a call.
#[derive(Clone)]
pub(super) enum Answered {
    /// The order is held now. Its outbox entry is shared with others of the call.
    Reserved {
        /// The entry.
        entry: Arc<SharedEntry>,
        /// When the order was accepted, by the inventory's clock.
        reserved_ms: i64,
        /// The bucket's epoch at that time.
        epoch: u32,
    },
    /// The order was held before.
    Replayed(Reservation),
    /// Nothing is held.
    Denied {
        /// Why.
        denial: Denial,
        /// The moment at which the inventory was asked.
        asked: Moment,
    },
}

impl Answered {
    /// Answers the word of the answer in traces.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Reserved { .. } => "reserved",
            Self::Replayed(_) => "replayed",
            Self::Denied { .. } => "denied",
        }
    }
}

/// The answer about one purchase, or the failure that the whole call shares.
pub(super) type Answer = Result<Answered, Arc<StoreError>>;
type ReserveBatcher = Batcher<ReserveRequest, Answer>;
/// How many units of a SKU a sale has left, over all buckets, or the failure that a whole look shares.
pub(super) type Left = Result<u32, Arc<StoreError>>;
type GatherBatcher = Batcher<SkuId, Left>;
type AcknowledgeBatcher = Batcher<(OrderId, Arc<SharedEntry>), ()>;

/// The outbox entry of all purchases that one call accepted. The front has it removed with the last acknowledgement,
/// because each request to remove it costs Redis as much as the acknowledgements. When one of them never comes, the
/// relay removes the entry.
pub(super) struct SharedEntry {
    /// The entry's id.
    pub(super) id: OutboxEntryId,
    /// Purchases of the call that are not acknowledged yet.
    unacknowledged: AtomicUsize,
}

impl SharedEntry {
    /// Makes an answer of each verdict. The accepted purchases share their call's entry.
    pub(super) fn deal(verdicts: Vec<Verdict>, asked: Moment) -> Vec<Answer> {
        let mut entries: HashMap<OutboxEntryId, Arc<Self>> = HashMap::new();
        let mut share = |id: OutboxEntryId| {
            let fresh = || Arc::new(Self { id: id.clone(), unacknowledged: AtomicUsize::new(0) });
            let entry = entries.entry(id.clone()).or_insert_with(fresh).clone();
            entry.unacknowledged.fetch_add(1, Ordering::Relaxed);
            entry
        };
        let answer = |verdict| {
            Ok(match verdict {
                Verdict::Reserved { outbox_entry, reserved_ms, epoch } => {
                    Answered::Reserved { entry: share(outbox_entry), reserved_ms, epoch }
                }
                Verdict::Replayed(held) => Answered::Replayed(held),
                Verdict::Denied(denial) => Answered::Denied { denial, asked },
            })
        };
        verdicts.into_iter().map(answer).collect()
    }

    /// Counts one acknowledgement, and answers whether it was the last.
    pub(super) fn is_last(&self) -> bool {
        self.unacknowledged.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// The queues of one bucket. Cheap to clone.
#[derive(Clone)]
pub(super) struct BucketQueue {
    /// Purchases that wait to be reserved.
    pub(super) reserve: Arc<ReserveBatcher>,
    /// Orders that wait to be marked queued.
    pub(super) acknowledge: Arc<AcknowledgeBatcher>,
    /// Purchases that wait for units of other buckets.
    pub(super) gather: Arc<GatherBatcher>,
    /// What those purchases need.
    pub(super) needed: Arc<NeededUnits>,
}

/// The queues of all buckets and the local sold-out flags.
pub struct BucketQueues {
    reserve_batch_max: usize,
    clock: Clock,
    queues: RwLock<HashMap<BucketId, BucketQueue>>,
    /// The local sold-out flags.
    pub(super) sold_out: SoldOut,
    /// The series of `seckill_admission_total`, because to look one up by its labels costs as much as a refusal.
    outcomes: RwLock<BTreeMap<SaleId, BTreeMap<&'static str, metrics::Counter>>>,
    /// Time that purchases spend in the stage `reserve`.
    pub(super) reserve_seconds: Histogram,
    /// Time that purchases spend in the stage `append`.
    pub(super) append_seconds: Histogram,
}

impl BucketQueues {
    /// Makes queues in which nothing waits.
    pub fn new(settings: &Settings, clock: Clock) -> Self {
        Self {
            reserve_batch_max: settings.reserve_batch_max,
            queues: RwLock::default(),
            sold_out: SoldOut::new(clock.clone()),
            outcomes: RwLock::default(),
            reserve_seconds: histogram!(STAGE_DURATION, "stage" => "reserve"),
            append_seconds: histogram!(STAGE_DURATION, "stage" => "append"),
            clock,
        }
    }

    /// Counts an answer by sale and outcome. `sale` is `None` when there is none of that id, because labels that come
    /// from outside would be unbounded.
    pub(super) fn count(&self, sale: Option<&SaleId>, outcome: &'static str) {
        let Some(sale) = sale else {
            return counter!(ADMISSION, "sale" => "-", "outcome" => outcome).increment(1);
        };
        let outcomes = self.outcomes.read().expect("no code panics while holding it");
        if let Some(series) = outcomes.get(sale).and_then(|of| of.get(outcome)) {
            return series.increment(1);
        }
        drop(outcomes);
        let series = counter!(ADMISSION, "sale" => sale.to_string(), "outcome" => outcome);
        series.increment(1);
        let mut outcomes = self.outcomes.write().expect("no code panics while holding it");
        outcomes.entry(sale.clone()).or_default().insert(outcome, series);
    }

    /// Answers the queues of a bucket, and makes them when there are none.
    pub(super) fn queue(&self, bucket: &BucketId) -> BucketQueue {
        if let Some(queue) = self.queues.read().expect("no code panics while holding it").get(bucket) {
            return queue.clone();
        }
        let mut queues = self.queues.write().expect("no code panics while holding it");
        let batch_max = self.reserve_batch_max;
        let fresh = || BucketQueue {
            reserve: Batcher::new(Tempo::of_reserve(batch_max), self.clock.clone()),
            acknowledge: Batcher::new(Tempo::of_acknowledge(), self.clock.clone()),
            gather: Batcher::new(Tempo::without_distance(batch_max), self.clock.clone()),
            needed: Arc::default(),
        };
        queues.entry(bucket.clone()).or_insert_with(fresh).clone()
    }

    /// Shows the series of the sales that sell at 0, before anybody buys.
    pub fn register_outcomes(&self, snapshot: &Snapshot, now_ms: i64) {
        for sale in snapshot.selling(now_ms) {
            for outcome in ADMISSION_OUTCOMES {
                counter!(ADMISSION, "sale" => sale.id.to_string(), "outcome" => *outcome).increment(0);
            }
        }
    }

    /// Frees the memory of sales that do not sell any more.
    pub fn forget_except(&self, snapshot: &Snapshot, now_ms: i64) {
        let keep = |id: &SaleId| snapshot.sales.get(id).is_some_and(|sale| sale.is_selling(now_ms));
        let queues = self.queues.write();
        queues.expect("no code panics while holding it").retain(|bucket, _| keep(&bucket.sale));
        self.outcomes.write().expect("no code panics while holding it").retain(|id, _| keep(id));
        self.sold_out.retain(|bucket| keep(&bucket.sale));
    }
}
