//! Delivers to the order log the accepted orders whose front could not, or died before it did: step 7 of
//! docs/protocol/steps.md.
//!
//! Invariant: an entry is removed from the outbox only after the order log has acknowledged the record of each of its
//! orders, or it is set aside because that can never be. Duplicates are harmless, because the order id is the order
//! writer's key.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metrics::{counter, gauge};

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::domain::reservation::{OutboxEntryId, Reservation};
use crate::domain::{BucketId, Sale};
use crate::memory::catalog::Catalog;
use crate::metrics::{OUTBOX_OLDEST, RELAYED, SET_ASIDE};
use crate::ports::{Effect, ErrorKind, OrderLog, Outbox, StoreError, StoreResult};

/// How long the orders of one bucket wait for their acknowledgements.
const APPEND_WAIT: Duration = Duration::from_secs(2);
/// The age of an entry, in ms, above which it was overdue for several rounds and somebody should look.
const ALARM_MS: i64 = 5_000;

/// The relay of a process. Any number of processes may have one.
pub struct OutboxRelay {
    outbox: Arc<dyn Outbox>,
    order_log: Arc<dyn OrderLog>,
    catalog: Arc<Catalog>,
    clock: Clock,
    limits: Limits,
    /// Buckets of sales that are over, whose outbox was seen empty. No order can be accepted in them any more.
    finished: Mutex<BTreeSet<BucketId>>,
    /// The age that is shown, in ms, of the oldest entry with a waiting order.
    oldest_ms: Mutex<i64>,
}

/// The bounds of a relay, from `[relay]` of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time between two rounds.
    pub interval: Duration,
    /// The least age of an entry that is delivered. The front is still delivering younger ones.
    pub min_age: Duration,
    /// About how many orders of one bucket are delivered in one round.
    pub batch_orders_max: usize,
}

impl OutboxRelay {
    /// Makes a relay that has not read any outbox yet.
    pub fn new(
        outbox: Arc<dyn Outbox>,
        order_log: Arc<dyn OrderLog>,
        catalog: Arc<Catalog>,
        clock: Clock,
        limits: Limits,
    ) -> Self {
        Self {
            outbox,
            order_log,
            catalog,
            clock,
            limits,
            finished: Mutex::default(),
            oldest_ms: Mutex::default(),
        }
    }

    /// Answers whether the outbox of a bucket is empty for good. The outboxes of sales that are over are read until
    /// then.
    fn is_finished(&self, bucket: &BucketId) -> bool {
        self.finished.lock().expect("no code panics while holding it").contains(bucket)
    }

    /// Notes that an outbox is empty for good, when its sale is over and nothing is in it.
    async fn note_if_finished(&self, sale: &Sale, bucket: BucketId) -> StoreResult<()> {
        if !sale.is_selling(self.clock.now_ms()) && self.outbox.len(&bucket).await? == 0 {
            self.finished.lock().expect("no code panics while holding it").insert(bucket);
        }
        Ok(())
    }
}

#[async_trait]
impl Task for OutboxRelay {
    fn name(&self) -> &'static str {
        "outbox_relay"
    }

    fn period(&self) -> Duration {
        self.limits.interval
    }

    /// Delivers what is due in every outbox that may hold something.
    ///
    /// # Errors
    /// The first failure of a bucket. The other buckets were tried all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let mut relayed = 0;
        let mut oldest_ms = 0;
        let mut has_more = false;
        let mut first_failure = Ok(());
        let snapshot = self.catalog.snapshot();
        for sale in snapshot.sales.values().filter(|sale| !sale.state.is_editable()) {
            for bucket in sale.bucket_ids().filter(|bucket| !self.is_finished(bucket)) {
                let delivered = self.relay_bucket(sale, &bucket, &mut oldest_ms).await;
                // What waits for long is told before a slow round has ended.
                self.show_oldest(oldest_ms, false);
                let noted = match delivered {
                    Ok(0) => self.note_if_finished(sale, bucket).await,
                    Ok(delivered) => {
                        relayed += delivered;
                        has_more |= delivered >= self.limits.batch_orders_max;
                        Ok(())
                    }
                    Err(error) => Err(error),
                };
                first_failure = first_failure.and(noted);
            }
        }
        // An outbox that cannot be read has not become empty.
        self.show_oldest(oldest_ms, first_failure.is_ok());
        if oldest_ms > ALARM_MS {
            tracing::error!(oldest_ms, "accepted orders wait for the order log");
        }
        counter!(RELAYED).increment(u64::try_from(relayed).unwrap_or(0));
        // A full batch says that more is due, so the next round does not wait for its time.
        let again_in = has_more.then_some(Duration::ZERO);
        first_failure.map(|()| Progress { done: relayed, again_in })
    }
}

impl OutboxRelay {
    /// Delivers all that is due in the outbox of a bucket, in which nothing is accepted any more.
    ///
    /// # Errors
    /// When something of it is not delivered. `Broken` when it cannot be read.
    pub async fn deliver_all(&self, sale: &Sale, bucket: &BucketId) -> StoreResult<()> {
        while self.relay_bucket(sale, bucket, &mut 0).await? > 0 {}
        let left = self.outbox.pending(bucket, self.limits.min_age, 1).await?;
        if left.iter().all(|entry| entry.waiting.is_empty()) {
            return Ok(());
        }
        let (kind, effect) = (ErrorKind::Unavailable, Effect::NotApplied);
        let source = "the order log does not take what waits".into();
        Err(StoreError { kind, effect, context: "deliver an outbox", source })
    }

    /// Delivers what is due in one outbox, and answers how many orders that were. Raises `oldest_ms` to the age of the
    /// oldest entry with a waiting order.
    async fn relay_bucket(&self, sale: &Sale, bucket: &BucketId, oldest_ms: &mut i64) -> StoreResult<usize> {
        let entries = self.outbox.pending(bucket, self.limits.min_age, self.limits.batch_orders_max).await?;
        let now_ms = self.clock.now_ms();
        let overdue = entries.iter().filter(|entry| !entry.waiting.is_empty());
        let ages = overdue.map(|entry| now_ms.saturating_sub(entry.reserved_ms));
        *oldest_ms = ages.fold(*oldest_ms, i64::max);
        let orders = entries.iter().flat_map(|entry| entry.waiting.iter().map(|held| (entry.epoch, held)));
        let appends = orders.map(|(epoch, held)| self.append(sale, epoch, held));
        let answers = futures::future::join_all(appends).await;
        let mut answers = answers.into_iter();
        let mut failure = Ok(());
        let (mut delivered, mut complete, mut faulty) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries {
            let (mut is_complete, mut fault) = (true, entry.fault);
            for (held, answer) in entry.waiting.iter().zip(&mut answers) {
                match answer {
                    Ok(Appended::Acknowledged) => delivered.push(held.id),
                    Ok(Appended::Late) => is_complete = false,
                    Ok(Appended::Never) => fault = Some("the item of an order is not in the sale"),
                    Err(error) => (is_complete, failure) = (false, Err(error)),
                }
            }
            match fault {
                None if is_complete => complete.push(entry.id),
                // What can be delivered of it is delivered first.
                Some(fault) if is_complete => faulty.push((entry.id, fault)),
                _ => {}
            }
        }
        if !(delivered.is_empty() && complete.is_empty()) {
            self.outbox.acknowledge(bucket, &delivered, &complete).await?;
        }
        self.set_aside(bucket, faulty).await?;
        failure.map(|()| delivered.len())
    }

    /// Shows the age of the oldest entry that was seen, or a greater one that is shown, unless all were looked at.
    fn show_oldest(&self, oldest_ms: i64, is_all: bool) {
        let mut shown = self.oldest_ms.lock().expect("no code panics while holding it");
        *shown = if is_all { oldest_ms } else { oldest_ms.max(*shown) };
        let age = Duration::from_millis(u64::try_from(*shown).unwrap_or(0));
        gauge!(OUTBOX_OLDEST).set(age.as_secs_f64());
    }

    /// Sets entries aside that can never be delivered as a whole. Those behind them must not wait for a person.
    async fn set_aside(
        &self,
        bucket: &BucketId,
        faulty: Vec<(OutboxEntryId, &'static str)>,
    ) -> StoreResult<()> {
        if faulty.is_empty() {
            return Ok(());
        }
        for (OutboxEntryId(entry), fault) in &faulty {
            counter!(SET_ASIDE).increment(1);
            tracing::error!(sale = %bucket.sale, bucket = bucket.bucket, entry, fault, "outbox entry set aside");
        }
        let entries: Vec<OutboxEntryId> = faulty.into_iter().map(|(entry, _)| entry).collect();
        self.outbox.set_aside(bucket, &entries).await
    }

    /// Appends the record of a hold.
    async fn append(&self, sale: &Sale, epoch: u32, held: &Reservation) -> StoreResult<Appended> {
        let Some(record) = held.record(sale, epoch) else { return Ok(Appended::Never) };
        let append = self.order_log.append(held.id, record.encode());
        let answer = self.clock.timeout(APPEND_WAIT, append).await;
        answer.map_or(Ok(Appended::Late), |answer| answer.map(|()| Appended::Acknowledged))
    }
}

/// What became of the record of one order.
enum Appended {
    /// The order log has it.
    Acknowledged,
    /// It was not acknowledged in time. The order stays in the outbox and comes again, and the other buckets must not
    /// wait longer.
    Late,
    /// No record can be made of the hold.
    Never,
}
