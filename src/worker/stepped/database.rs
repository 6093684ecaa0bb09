//! A database in memory, beside the model of a bucket. The real plan decides the batches. Some are refused before they
//! are committed, and some are answered with a failure although they are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use crate::chance::Chance;
use crate::domain::batch_plan::{Known, LogBatch, Outcome, plan};
use crate::domain::inventory_model::Bucket;
use crate::domain::reservation::{
    OutboxEntry, OutboxEntryId, ReleaseRequest, Released, Reservation, ReserveRequest, Verdict,
};
use crate::domain::{
    BucketId, Change, Decision, OrderId, OrderState, Part, Position, Sale, SaleId, Sales, ShardMap, UserId,
};
use crate::ports::{
    BatchOutcome, Effect, ErrorKind, Inventory, OrderWrites, Outbox, Positions, SaleStore, StoreError,
    StoreResult, TakenOver, Written,
};

/// Stands for MySQL, Redis and the directory.
pub struct Database {
    map: ShardMap,
    sale: Sale,
    chance: Chance,
    truth: Mutex<Truth>,
    bucket: Mutex<Bucket>,
}

#[derive(Default)]
struct Truth {
    positions: BTreeMap<Part, Position>,
    rows: BTreeMap<OrderId, OrderState>,
    /// Units of live orders, by buyer.
    claims: BTreeMap<UserId, BTreeSet<u32>>,
    held: u32,
    is_calm: bool,
}

fn failure(effect: Effect, what: &'static str) -> StoreError {
    StoreError { kind: ErrorKind::Unavailable, effect, context: "write batch", source: what.into() }
}

impl Database {
    /// Makes a database without rows.
    pub fn new(map: ShardMap, sale: Sale, bucket: Bucket, chance: Chance) -> Self {
        let positions =
            map.all_parts().map(|part| (part, Position { next_offset: 0, log: None, halt: None })).collect();
        let truth = Mutex::new(Truth { positions, ..Truth::default() });
        Self { map, sale, chance, truth, bucket: Mutex::new(bucket) }
    }

    fn truth(&self) -> MutexGuard<'_, Truth> {
        self.truth.lock().expect("never poisoned")
    }

    /// Answers the model of the bucket.
    pub fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().expect("never poisoned")
    }

    /// Reserves one purchase, as a front does.
    pub fn reserve(&self, request: &ReserveRequest, now_ms: i64) -> Verdict {
        let mut verdicts = self.bucket().reserve(std::slice::from_ref(request), now_ms);
        verdicts.pop().expect("one answer a request")
    }

    /// Ends all faults.
    pub fn calm(&self) {
        self.truth().is_calm = true;
    }

    /// Answers all orders that have a row, with their states.
    pub fn rows(&self) -> BTreeMap<OrderId, OrderState> {
        self.truth().rows.clone()
    }

    /// Answers the stored positions, ascending by partition.
    pub fn positions_in_order(&self) -> Vec<i64> {
        self.truth().positions.values().map(|position| position.next_offset).collect()
    }

    /// Counts the units that live orders hold, in all and by buyer.
    pub fn live_units(&self) -> (u32, BTreeMap<UserId, u32>) {
        let truth = self.truth();
        let units = |claims: &BTreeSet<u32>| u32::try_from(claims.len()).expect("few");
        (truth.held, truth.claims.iter().map(|(user, claims)| (user.clone(), units(claims))).collect())
    }

    /// Lets the others run for a while.
    async fn take_time(&self) {
        let turns = if self.truth().is_calm { 0 } else { self.chance.number() % 5 };
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    /// Writes a batch as one transaction does.
    fn commit(&self, batch: &LogBatch, sales: &Sales) -> BatchOutcome {
        let mut truth = self.truth();
        let stored = truth.positions[&batch.part];
        let is_ours = stored.log.is_none_or(|log| log == batch.log);
        if stored.next_offset != batch.start_offset || !is_ours || stored.halt.is_some() {
            return BatchOutcome::PositionMoved { stored };
        }
        let claims = truth.claims.iter();
        let known = Known {
            orders: truth.rows.iter().map(|(order, state)| (*order, Some(*state))).collect(),
            claims: claims
                .map(|(user, units)| ((self.sale.id.clone(), user.clone()), units.clone()))
                .collect(),
        };
        let free = self.sale.items[0].stock - truth.held;
        let plan = plan(batch, &self.map, sales, &known, |_| free);
        for order in &plan.orders {
            truth.rows.insert(order.record.order_id, order.state());
            if let Outcome::Live(units) = &order.outcome {
                truth.held += order.record.quantity.units();
                truth.claims.entry(order.record.user_id.clone()).or_default().extend(units);
            }
        }
        let moved = Position { next_offset: batch.next_offset(), log: Some(batch.log), halt: None };
        truth.positions.insert(batch.part, moved);
        BatchOutcome::Written(Written::of(batch, plan))
    }
}

#[async_trait]
impl OrderWrites for Database {
    async fn write(&self, batch: &LogBatch, sales: &Sales) -> StoreResult<BatchOutcome> {
        self.take_time().await;
        let dice = if self.truth().is_calm { 9 } else { self.chance.number() % 10 };
        if dice == 0 {
            return Err(failure(Effect::NotApplied, "deadlock"));
        }
        let outcome = self.commit(batch, sales);
        self.take_time().await;
        if dice == 1 { Err(failure(Effect::Unknown, "committed, and the answer lost")) } else { Ok(outcome) }
    }

    async fn take_over(&self, part: Part) -> StoreResult<TakenOver> {
        self.take_time().await;
        Ok(TakenOver { position: self.truth().positions[&part], fences: Arc::default() })
    }
}

#[async_trait]
impl Positions for Database {
    async fn positions(&self) -> HashMap<Part, Position> {
        self.truth().positions.clone().into_iter().collect()
    }

    async fn replace(&self, part: Part, seen: &Position, to: &Position) -> StoreResult<bool> {
        let mut truth = self.truth();
        let is_seen = truth.positions[&part] == *seen;
        if is_seen {
            truth.positions.insert(part, *to);
        }
        Ok(is_seen)
    }
}

#[async_trait]
impl Outbox for Database {
    async fn pending(&self, _: &BucketId, _: Duration, _: usize) -> StoreResult<Vec<OutboxEntry>> {
        let bucket = self.bucket();
        let entry = |accepted: &crate::domain::inventory_model::Accepted| {
            let holds = accepted.orders.iter().map(|order| (*order, &bucket.orders[order]));
            let waiting = holds.filter(|(_, hold)| hold.state == OrderState::Reserved);
            OutboxEntry {
                id: accepted.entry.clone(),
                epoch: accepted.epoch,
                reserved_ms: 0,
                waiting: waiting.map(|(order, hold)| hold.reservation(&self.sale.id, order)).collect(),
                fault: None,
            }
        };
        Ok(bucket.outbox.iter().map(entry).collect())
    }

    async fn acknowledge(
        &self,
        _: &BucketId,
        orders: &[OrderId],
        entries: &[OutboxEntryId],
    ) -> StoreResult<()> {
        self.bucket().acknowledge(orders, entries);
        Ok(())
    }

    async fn set_aside(&self, _: &BucketId, _: &[OutboxEntryId]) -> StoreResult<()> {
        Ok(())
    }

    async fn len(&self, _: &BucketId) -> StoreResult<u64> {
        Ok(u64::try_from(self.bucket().outbox_orders()).expect("few"))
    }
}

#[async_trait]
impl Inventory for Database {
    async fn reserve(&self, _: &BucketId, batch: Arc<[ReserveRequest]>) -> StoreResult<Vec<Verdict>> {
        Ok(batch.iter().map(|request| self.reserve(request, request.record.accepted_ms)).collect())
    }

    async fn reservation(&self, _: &[BucketId], order: OrderId) -> StoreResult<Option<Reservation>> {
        Ok(self.bucket().orders.get(&order).map(|hold| hold.reservation(&self.sale.id, order)))
    }

    async fn winners(&self, _: &BucketId) -> StoreResult<Vec<UserId>> {
        Ok(self.bucket().buyers.keys().cloned().collect())
    }

    async fn mark_decided(&self, _: &BucketId, decided: &[Decision]) -> StoreResult<()> {
        self.bucket().mark_decided(decided);
        Ok(())
    }

    async fn release(&self, _: &BucketId, orders: &[ReleaseRequest]) -> StoreResult<Released> {
        Ok(self.bucket().release(orders))
    }
}

#[async_trait]
impl SaleStore for Database {
    async fn sales(&self) -> StoreResult<Vec<Sale>> {
        Ok(vec![self.sale.clone()])
    }

    async fn unsettled(&self) -> StoreResult<Vec<Sale>> {
        self.sales().await
    }

    async fn sale(&self, id: &SaleId) -> StoreResult<Option<Sale>> {
        Ok(Some(self.sale.clone()).filter(|sale| sale.id == *id))
    }

    async fn create(&self, _: &Sale, _: &Change) -> StoreResult<bool> {
        Ok(false)
    }

    async fn mark_in_place(&self, _: &Sale) -> StoreResult<bool> {
        Ok(true)
    }

    async fn replace(&self, _: &Sale, _: u64, _: &Change) -> StoreResult<bool> {
        Ok(false)
    }
}
