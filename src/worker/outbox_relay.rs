//! Protocol step 7: delivers accepted records whose front could not, or died before it did.
//!
//! Invariant: an entry leaves the outbox only after the order log acknowledged the record of each of its orders.
//! Duplicates are harmless: the order id is the order writer's key.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};

use crate::clock::Clock;
use crate::domain::reservation::Reservation;
use crate::domain::{BucketId, Sale};
use crate::metrics::{OUTBOX_OLDEST, RELAYED};
use crate::ports::{OrderLog, Outbox, SaleStore, StoreResult};
use crate::shutdown::Tasks;

/// How long one bucket's orders wait for their acknowledgements.
const APPEND_WAIT: Duration = Duration::from_secs(2);
/// Above this an entry has been overdue for several rounds: somebody should look.
const ALARM_MS: i64 = 5_000;

pub struct OutboxRelay {
    pub sales: Arc<dyn SaleStore>,
    pub outbox: Arc<dyn Outbox>,
    pub order_log: Arc<dyn OrderLog>,
    pub clock: Clock,
    pub interval: Duration,
    /// Younger entries are still being delivered by their front.
    pub min_age: Duration,
    pub batch_orders_max: usize,
}

impl OutboxRelay {
    /// Runs until told to stop. Sales are read once in a while, not every round.
    pub async fn run(self, tasks: Tasks) {
        const ROUNDS_PER_READING: u32 = 8;
        let mut sales: Vec<Sale> = Vec::new();
        let mut round = 0;
        while !tasks.is_stopping() {
            if round % ROUNDS_PER_READING == 0 {
                match self.sales.sales().await {
                    Ok(found) => sales = found,
                    Err(error) => tracing::warn!(%error, "relay goes on with the sales it knows"),
                }
            }
            round = round.wrapping_add(1);
            if let Err(error) = self.run_once(&sales).await {
                tracing::warn!(%error, "relay round failed");
            }
            tasks.pause(self.interval).await;
        }
    }

    /// Relays what is due in every bucket of `sales`; answers how many orders were delivered.
    ///
    /// # Errors
    /// The first failure of a bucket; the others have been tried.
    pub async fn run_once(&self, sales: &[Sale]) -> StoreResult<usize> {
        let mut relayed = 0;
        let mut oldest_ms = 0;
        let mut first_failure = Ok(());
        for sale in sales.iter().filter(|sale| !sale.state.is_editable()) {
            for bucket in 0..sale.buckets {
                let bucket = BucketId { sale: sale.id.clone(), bucket };
                match self.relay_bucket(sale, &bucket, &mut oldest_ms).await {
                    Ok(delivered) => relayed += delivered,
                    Err(error) => first_failure = first_failure.and(Err(error)),
                }
            }
        }
        gauge_oldest(oldest_ms);
        if oldest_ms > ALARM_MS {
            tracing::error!(oldest_ms, "accepted orders wait for the order log");
        }
        counter!(RELAYED).increment(u64::try_from(relayed).unwrap_or(0));
        first_failure.map(|()| relayed)
    }

    async fn relay_bucket(&self, sale: &Sale, bucket: &BucketId, oldest_ms: &mut i64) -> StoreResult<usize> {
        let entries = self.outbox.pending(bucket, self.min_age, self.batch_orders_max).await?;
        let now_ms = self.clock.now_ms();
        let overdue = entries.iter().filter(|entry| !entry.waiting.is_empty());
        let ages = overdue.map(|entry| now_ms.saturating_sub(entry.reserved_ms));
        *oldest_ms = ages.fold(*oldest_ms, i64::max);
        gauge_oldest(*oldest_ms);
        let orders = entries.iter().flat_map(|entry| entry.waiting.iter().map(|held| (entry.epoch, held)));
        let appends = orders.map(|(epoch, held)| self.append(sale, epoch, held));
        let answers = futures::future::join_all(appends).await;
        let mut answers = answers.into_iter();
        let mut failure = Ok(());
        let (mut delivered, mut complete) = (Vec::new(), Vec::new());
        for entry in entries {
            let mut is_complete = true;
            for (held, answer) in entry.waiting.iter().zip(&mut answers) {
                match answer {
                    Ok(true) => delivered.push(held.id),
                    Ok(false) => is_complete = false,
                    Err(error) => (is_complete, failure) = (false, Err(error)),
                }
            }
            if is_complete {
                complete.push(entry.id);
            }
        }
        if !(delivered.is_empty() && complete.is_empty()) {
            self.outbox.acknowledge(bucket, &delivered, &complete).await?;
        }
        failure.map(|()| delivered.len())
    }

    /// `false` for what is not acknowledged in time: it stays and comes again; the other buckets must not wait
    /// longer.
    async fn append(&self, sale: &Sale, epoch: u32, held: &Reservation) -> StoreResult<bool> {
        let Some(record) = held.record(sale, epoch) else {
            // An item of a sale in Redis cannot be taken out.
            tracing::error!(order = %held.id, sku = %held.sku, "an accepted order's item is not in its sale");
            return Ok(false);
        };
        let append = self.order_log.append(held.id, record.encode());
        tokio::time::timeout(APPEND_WAIT, append).await.map_or(Ok(false), |answer| answer.map(|()| true))
    }
}

fn gauge_oldest(oldest_ms: i64) {
    let age = Duration::from_millis(u64::try_from(oldest_ms).unwrap_or(0));
    gauge!(OUTBOX_OLDEST).set(age.as_secs_f64());
}
