//! Where purchases of a bucket wait for each other, and what the front remembers of each sale meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use metrics::{Histogram, counter, histogram};

use super::Settings;
use super::batching::Batcher;
use super::catalog::{Snapshot, is_selling};
use super::sold_out::SoldOut;
use crate::domain::reservation::{OutboxEntryId, ReserveRequest, Verdict};
use crate::domain::{BucketId, OrderId, SaleId};
use crate::metrics::{ADMISSION, STAGE_DURATION};
use crate::ports::StoreError;

/// Orders acknowledged in one call.
const ACKNOWLEDGE_BATCH_MAX: usize = 500;

/// A verdict; of an accepted purchase with its outbox entry.
pub(super) type Answer = Result<(Verdict, Option<Arc<SharedEntry>>), Arc<StoreError>>;
type ReserveBatcher = Batcher<ReserveRequest, Answer>;
type AcknowledgeBatcher = Batcher<(OrderId, Arc<SharedEntry>), ()>;

/// The outbox entry of all purchases that one call accepted. It is asked to leave with the last of them, because
/// asking costs Redis as much as the acknowledgements; with one that is never acknowledged it is the relay's.
pub(super) struct SharedEntry {
    pub(super) id: OutboxEntryId,
    unacknowledged: AtomicUsize,
}

impl SharedEntry {
    /// Each verdict with the entry it shares with the others of its call.
    pub(super) fn deal(verdicts: Vec<Verdict>) -> Vec<Answer> {
        let mut entries: HashMap<OutboxEntryId, Arc<Self>> = HashMap::new();
        let mut share = |verdict: Verdict| {
            let Verdict::Reserved { outbox_entry: id } = &verdict else { return Ok((verdict, None)) };
            let fresh = || Arc::new(Self { id: id.clone(), unacknowledged: AtomicUsize::new(0) });
            let entry = entries.entry(id.clone()).or_insert_with(fresh).clone();
            entry.unacknowledged.fetch_add(1, Ordering::Relaxed);
            Ok((verdict, Some(entry)))
        };
        verdicts.into_iter().map(&mut share).collect()
    }

    /// Counts one acknowledgement; `true` for the last.
    pub(super) fn is_last(&self) -> bool {
        self.unacknowledged.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

/// Where purchases of a bucket wait for each other. Keyed with the epoch, which one call can name only once.
#[derive(Clone)]
pub(super) struct Counter {
    pub(super) reserve: Arc<ReserveBatcher>,
    pub(super) acknowledge: Arc<AcknowledgeBatcher>,
}

/// The counters of all buckets and the local sold-out flags.
pub struct Desk {
    reserve_batch_max: usize,
    counters: RwLock<HashMap<(BucketId, u32), Counter>>,
    pub(super) sold_out: SoldOut,
    /// The series of `seckill_admission_total`: to look one up by its labels costs as much as a refusal.
    outcomes: RwLock<BTreeMap<SaleId, BTreeMap<&'static str, metrics::Counter>>>,
    pub(super) reserve_seconds: Histogram,
    pub(super) append_seconds: Histogram,
}

impl Desk {
    pub fn new(settings: &Settings) -> Self {
        Self {
            reserve_batch_max: settings.reserve_batch_max,
            counters: RwLock::default(),
            sold_out: SoldOut::default(),
            outcomes: RwLock::default(),
            reserve_seconds: histogram!(STAGE_DURATION, "stage" => "reserve"),
            append_seconds: histogram!(STAGE_DURATION, "stage" => "append"),
        }
    }

    /// Counts an answer; without a sale when there is none of that id, because a label that comes from outside would
    /// be unbounded.
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

    pub(super) fn counter(&self, bucket: &BucketId, epoch: u32) -> Counter {
        let key = (bucket.clone(), epoch);
        if let Some(counter) = self.counters.read().expect("no code panics while holding it").get(&key) {
            return counter.clone();
        }
        let mut counters = self.counters.write().expect("no code panics while holding it");
        let fresh = || Counter {
            reserve: Batcher::new(self.reserve_batch_max),
            acknowledge: Batcher::new(ACKNOWLEDGE_BATCH_MAX),
        };
        counters.entry(key).or_insert_with(fresh).clone()
    }

    /// Frees what belongs to sales that are gone or over.
    pub fn forget_except(&self, snapshot: &Snapshot, now_ms: i64) {
        let keep = |id: &SaleId| snapshot.sales.get(id).is_some_and(|sale| is_selling(sale, now_ms));
        let counters = self.counters.write();
        counters.expect("no code panics while holding it").retain(|(bucket, _), _| keep(&bucket.sale));
        self.outcomes.write().expect("no code panics while holding it").retain(|id, _| keep(id));
        self.sold_out.retain(|bucket| keep(&bucket.sale));
    }
}
