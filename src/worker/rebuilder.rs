//! Rebuilds buckets of the inventory that have lost what they had: step 17 of docs/protocol/steps.md.
//!
//! Invariant: a bucket is filled with what the databases have after its fence was set and its gate was removed. So what
//! is not among that can never become a live order, and what the databases come to owe the bucket waits until it is
//! open.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;

use super::driver::{Progress, Task};
use super::outbox_relay::OutboxRelay;
use crate::clock::Clock;
use crate::domain::log_position::first_unwritten;
use crate::domain::rebuild::fill;
use crate::domain::{Adjustment, Instance, Part, Sale, SaleId, ShardMap};
use crate::memory::catalog::{Catalog, losses_of};
use crate::metrics::BUCKETS_REBUILT;
use crate::ports::{
    Claim, Effect, ErrorKind, Gates, OrderLog, Positions, Recovery, SaleStore, StockAdjustments, StoreError,
    StoreResult,
};

/// How long other processes leave a bucket to the process that has claimed it. The claim is prolonged meanwhile.
const LEASE: Duration = Duration::from_secs(6);
/// Time between two prolongations.
const KEEP: Duration = Duration::from_secs(2);
/// How long the order writers may need for what was in the order log. Then the rebuild begins anew.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);
/// Time between two looks at their positions.
const LOOK: Duration = Duration::from_millis(20);

/// The rebuilder of a process. Any number of processes may have one.
pub struct Rebuilder {
    /// Both sides of a rebuild.
    pub recovery: Recovery,
    /// What stands of the buckets.
    pub gates: Arc<dyn Gates>,
    /// The sales, as the directory has them.
    pub sales: Arc<dyn SaleStore>,
    /// What is adjusted of their stock now.
    pub adjustments: Arc<dyn StockAdjustments>,
    /// The order log, which is written to its end first.
    pub order_log: Arc<dyn OrderLog>,
    /// Where the order writers are.
    pub positions: Arc<dyn Positions>,
    /// Delivers what an old outbox still names.
    pub relay: OutboxRelay,
    /// Says which buckets have lost something.
    pub catalog: Arc<Catalog>,
    /// The clock.
    pub clock: Clock,
    /// Says where orders are.
    pub map: ShardMap,
    /// Time between two rounds.
    pub period: Duration,
}

#[async_trait]
impl Task for Rebuilder {
    fn name(&self) -> &'static str {
        "rebuilder"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Rebuilds what has lost something, sale by sale.
    ///
    /// # Errors
    /// The first failure. The other sales were rebuilt all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let snapshot = self.catalog.snapshot();
        let (mut done, mut failure) = (0, Ok(()));
        for (id, buckets) in &snapshot.stock.losses {
            match self.rebuild_sale(id, buckets.keys().copied().collect()).await {
                Ok(rebuilt) => done += rebuilt,
                Err(error) => {
                    counter!(BUCKETS_REBUILT, "result" => "failed").increment(1);
                    tracing::error!(%error, sale = %id, "buckets are not rebuilt; it is tried again");
                    failure = Err(error);
                }
            }
        }
        failure.map(|()| Progress::of(done))
    }
}

impl Rebuilder {
    /// Rebuilds buckets of a sale, those that no other process rebuilds. Answers how many are open again.
    async fn rebuild_sale(&self, id: &SaleId, lost: BTreeSet<u16>) -> StoreResult<usize> {
        let sale = self.sales.sale(id).await?;
        let is_sold = |sale: &Sale| sale.in_place && sale.is_selling(self.clock.now_ms());
        let Some(sale) = sale.filter(is_sold) else { return Ok(0) };
        let lost = self.still_lost(&sale, lost).await?;
        let mut claims = Vec::new();
        for bucket in self.without_waiting(&sale, lost).await? {
            // In ascending order: of two processes, each would wait for the other one's buckets else.
            let Some(claim) = self.recovery.rebuilds.claim(&sale, bucket, LEASE).await? else { break };
            claims.push(claim);
        }
        if claims.is_empty() {
            return Ok(0);
        }
        let began = self.clock.monotonic();
        let rebuilt = tokio::select! {
            rebuilt = Box::pin(self.rebuild(&sale, &claims)) => rebuilt,
            overtaken = self.keep(&claims) => overtaken,
        };
        for claim in &claims {
            // The next round need not wait for the end of the lease.
            if let Err(error) = self.recovery.rebuilds.keep(claim, Duration::ZERO).await {
                tracing::debug!(%error, "a claim ends with its lease");
            }
        }
        let orders = rebuilt?;
        let took_ms = self.clock.monotonic().since(began).as_millis();
        counter!(BUCKETS_REBUILT, "result" => "open").increment(u64::try_from(claims.len()).unwrap_or(0));
        tracing::warn!(sale = %sale.id, buckets = claims.len(), orders, took_ms, "buckets were rebuilt and are open");
        Ok(claims.len())
    }

    /// Answers which of some buckets are not whole now.
    async fn still_lost(&self, sale: &Sale, buckets: BTreeSet<u16>) -> StoreResult<BTreeSet<u16>> {
        if buckets.is_empty() {
            return Ok(buckets);
        }
        let states = self.gates.buckets(sale).await?;
        let losses = losses_of(sale, &states, self.clock.now_ms());
        Ok(buckets.into_iter().filter(|bucket| losses.contains_key(bucket)).collect())
    }

    /// Leaves out the buckets whose orders are on an instance that is down, or in a partition that is halted: they wait
    /// until it is back, or was moved, and the others do not wait for them.
    async fn without_waiting(&self, sale: &Sale, mut lost: BTreeSet<u16>) -> StoreResult<BTreeSet<u16>> {
        if lost.is_empty() {
            return Ok(lost);
        }
        let positions = self.positions.positions().await;
        let answers = |bucket: &u16| {
            let mut parts = self.map.parts_of_bucket(*bucket, sale.buckets).into_iter();
            parts.all(|part| positions.get(&part).is_some_and(|position| position.halt.is_none()))
        };
        lost.retain(answers);
        match lost.is_empty() {
            true => {
                Err(StoreError::broken("rebuild", "the buckets wait for an instance or a halted partition"))
            }
            false => Ok(lost),
        }
    }

    /// Answers the instances of which the truth is read: those that have orders of the buckets, or all when all answer.
    async fn instances_of(&self, sale: &Sale, buckets: &BTreeSet<u16>) -> BTreeSet<Instance> {
        let positions = self.positions.positions().await;
        if self.map.all_parts().all(|part| positions.contains_key(&part)) {
            return self.map.all_instances().collect();
        }
        let parts = buckets.iter().flat_map(|bucket| self.map.parts_of_bucket(*bucket, sale.buckets));
        parts.map(|part| self.map.instance_of_part(part)).collect()
    }

    /// Prolongs claims until another process has taken one of them over.
    async fn keep(&self, claims: &[Claim]) -> StoreResult<usize> {
        loop {
            self.clock.sleep(KEEP).await;
            for claim in claims {
                if !self.recovery.rebuilds.keep(claim, LEASE).await? {
                    return Err(overtaken(claim));
                }
            }
        }
    }

    /// Rebuilds claimed buckets of a sale, and answers how many orders they have.
    async fn rebuild(&self, sale: &Sale, claims: &[Claim]) -> StoreResult<usize> {
        let Recovery { rebuilds, refills, .. } = &self.recovery;
        let adjusted_before = self.adjustments.under_way(&sale.id).await?;
        for claim in claims {
            refills.shut(claim).await?;
            self.relay_old(sale, claim).await?;
        }
        self.drain(sale, claims).await?;
        for claim in claims {
            rebuilds.fence(sale, claim).await?;
        }
        for claim in claims {
            if !refills.clear(claim).await? {
                return Err(overtaken(claim));
            }
        }
        // What others have is counted first: an order that is refunded and released between the two counts twice then,
        // and not never.
        let elsewhere = refills.elsewhere(sale, claims).await?;
        let numbers: BTreeSet<u16> = claims.iter().map(|claim| claim.bucket.bucket).collect();
        let instances = self.instances_of(sale, &numbers).await;
        let truth = rebuilds.truth(sale, &instances).await?;
        let certain = self.certain(sale, adjusted_before).await?;
        let buckets = fill(&certain, &self.map, &numbers, &truth, &elsewhere);
        let mut orders = 0;
        for claim in claims {
            let Some(bucket) = buckets.get(&claim.bucket.bucket) else { continue };
            if !refills.fill(sale, claim, bucket).await? {
                return Err(overtaken(claim));
            }
            orders += bucket.orders.len();
        }
        Ok(orders)
    }

    /// Answers the sale with the stock that may be counted on. Units whose adjustment is under way may be in the other
    /// buckets or not, and those that come are given to each bucket in the epoch that it had before.
    async fn certain(&self, sale: &Sale, before: Option<Adjustment>) -> StoreResult<Sale> {
        // An adjustment that ends between the two readings raises the version.
        let after = self.adjustments.under_way(&sale.id).await?;
        let now = self.sales.sale(&sale.id).await?;
        if now.is_none_or(|now| now.version != sale.version) {
            let source = "the sale was changed while its buckets were rebuilt".into();
            let (kind, effect) = (ErrorKind::Conflict, Effect::NotApplied);
            return Err(StoreError { kind, effect, context: "rebuild", source });
        }
        let mut certain = sale.clone();
        for adjustment in before.into_iter().chain(after) {
            let of = certain.items.iter_mut().filter(|item| item.sku_id == adjustment.sku_id);
            of.for_each(|item| item.stock = item.stock.min(adjustment.certain()));
        }
        Ok(certain)
    }

    /// Delivers what the old outbox of a bucket names, as far as it can be read. Orders of which nobody knows more than
    /// their ids are lost with their holds.
    async fn relay_old(&self, sale: &Sale, claim: &Claim) -> StoreResult<()> {
        match self.relay.deliver_all(sale, &claim.bucket).await {
            Err(error) if error.kind == ErrorKind::Broken => {
                tracing::warn!(%error, sale = %sale.id, "an old outbox cannot be read");
                Ok(())
            }
            delivered => delivered,
        }
    }

    /// Waits until the order writers have written what the order log has of the buckets now.
    async fn drain(&self, sale: &Sale, claims: &[Claim]) -> StoreResult<()> {
        let parts_of = |claim: &Claim| self.map.parts_of_bucket(claim.bucket.bucket, sale.buckets);
        let parts: BTreeSet<Part> = claims.iter().flat_map(parts_of).collect();
        let parts: Vec<Part> = parts.into_iter().collect();
        // Before the offsets, because the log grows. The identity comes last: it is that of the offsets then, or of a
        // newer log.
        let stored = self.positions.positions().await;
        let offsets = self.order_log.offsets(&parts).await?;
        let log = self.order_log.identity().await?.id;
        let halt = |part: &Part| stored.get(part)?.halt_in(log, offsets.get(part)?);
        // A log that was lost looks written to its end before its partitions are halted.
        if let Some((part, halt)) = parts.iter().find_map(|part| Some((part, halt(part)?))) {
            let detail =
                format!("the position of partition {} is not one of it: {}", part.number(), halt.as_str());
            return Err(StoreError::broken("drain the order log", detail));
        }
        let began = self.clock.monotonic();
        loop {
            let positions = self.positions.positions().await;
            let Some(behind) = first_unwritten(&parts, &offsets, &positions) else { return Ok(()) };
            if self.clock.monotonic().since(began) >= DRAIN_WITHIN {
                let detail = format!("partition {} is not written to its end", behind.number());
                return Err(StoreError::broken("drain the order log", detail));
            }
            self.clock.sleep(LOOK).await;
        }
    }
}

fn overtaken(claim: &Claim) -> StoreError {
    StoreError::broken("rebuild", format!("another process rebuilds bucket {}", claim.bucket.bucket))
}
