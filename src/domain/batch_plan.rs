//! Decides what one batch of the order log becomes: steps 9 to 11 of docs/protocol/steps.md, without the I/O.
//!
//! The store reads what the decision needs, calls [`plan`], and writes the plan in one transaction. Records are decided
//! strictly in offset order. The database guards every promise again, with the ledger's condition and the primary keys.
//! So a wrong plan fails its transaction and never oversells.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::decided::Decided;
use super::fence::Fences;
use super::ids::{SaleId, SkuId, UserId};
use super::journal::OrderMove;
use super::log_position::LogId;
use super::mover::Mover;
use super::order::{Decision, RejectReason};
use super::order_id::OrderId;
use super::order_life::{OrderEvent, OrderState};
use super::record::{OrderRecord, Poison};
use super::sale::{Sale, Sales};
use super::shard::{Part, ShardMap};

/// One record as it was read from the order log.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// The record's position in its partition.
    pub offset: i64,
    /// The record's bytes, which a dead letter keeps.
    pub payload: Vec<u8>,
    /// The decoded record, or why it can never become an order.
    pub order: Result<OrderRecord, Poison>,
}

/// Consecutive records of one partition, ascending by offset. Offsets may have gaps, which hold markers of the log
/// itself and no record of ours.
#[derive(Debug, Clone)]
pub struct LogBatch {
    /// The partition.
    pub part: Part,
    /// The log that the batch was read from. The writing transaction compares the stored position's log with it.
    pub log: LogId,
    /// The position that the batch was read from. The writing transaction compares the stored position with it.
    pub start_offset: i64,
    /// The fences of the partition, as they were at the start. The writing transaction compares them.
    pub fences: Arc<Fences>,
    /// 1 to `writer.batch_records_max` records.
    pub records: Vec<LogRecord>,
}

impl LogBatch {
    /// Answers the position after this batch: the offset after its last record.
    pub fn next_offset(&self) -> i64 {
        self.records.last().map_or(self.start_offset, |last| last.offset + 1)
    }
}

impl LogBatch {
    /// Makes a batch of records that are decided apart from the order log. Their orders belong to this partition.
    pub fn apart(records: &[OrderRecord], part: Part) -> Self {
        let record =
            |record: &OrderRecord| LogRecord { offset: 0, payload: Vec::new(), order: Ok(record.clone()) };
        let records = records.iter().map(record).collect();
        Self { part, log: LogId::APART, start_offset: 0, fences: Arc::default(), records }
    }

    /// Answers why none of the batch's records can become an order; `None` when one can.
    pub fn poison(&self, map: &ShardMap, sales: &Sales) -> Option<Poison> {
        let each = self.records.iter().map(|record| validate(record, self.part, map, sales).err());
        each.collect::<Option<Vec<_>>>()?.first().copied()
    }
}

/// A SKU of a sale: the key of ledger and pool. Transactions lock rows in its order.
pub type Scarce = (SaleId, SkuId);
/// A buyer in a sale. A claim's key adds the unit number.
pub type Buyer = (SaleId, UserId);

/// What the database knows of a batch before it is decided. Empty when the store leaves it to its primary keys to find
/// known orders (step 9).
#[derive(Debug, Default)]
pub struct Known {
    /// The states of the batch's orders that have a row; `None` for a state that this version does not know.
    pub orders: HashMap<OrderId, Option<OrderState>>,
    /// The unit numbers, counted from 0, that live orders of each buyer hold.
    pub claims: HashMap<Buyer, BTreeSet<u32>>,
}

/// An order row to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedOrder {
    /// The record that the row is made from.
    pub record: OrderRecord,
    /// The record's offset in its partition.
    pub offset: i64,
    /// What it becomes.
    pub outcome: Outcome,
    /// Units that its buyer holds in orders that were decided before.
    pub buyer_holds: u32,
    /// How long the order may wait for its payment, in ms.
    pub payment_window_ms: i64,
}

/// What an order becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It gets its units, and claims these unit numbers of its buyer, as many as its quantity.
    Live(Vec<u32>),
    /// It gets nothing.
    Rejected(RejectReason),
    /// It had come to another end in the backend that it was exported from, and holds nothing.
    Over(OrderState),
}

impl PlannedOrder {
    /// Answers the state that its row gets.
    pub fn state(&self) -> OrderState {
        match &self.outcome {
            Outcome::Live(_) if self.is_paid() => OrderState::Paid,
            Outcome::Live(_) => OrderState::AwaitingPayment,
            Outcome::Rejected(_) => OrderState::Rejected,
            Outcome::Over(state) => *state,
        }
    }

    /// Answers the claimed unit numbers; none for an order that holds nothing.
    pub fn claims(&self) -> &[u32] {
        if let Outcome::Live(claims) = &self.outcome { claims } else { &[] }
    }

    /// Answers why it was rejected; `None` in every other state.
    pub fn reason(&self) -> Option<RejectReason> {
        if let Outcome::Rejected(reason) = self.outcome { Some(reason) } else { None }
    }

    /// Answers whether it had been paid in the backend that it was exported from.
    fn is_paid(&self) -> bool {
        self.record.decided.as_ref().is_some_and(|decided| decided.state == OrderState::Paid)
    }

    /// Answers what was decided of the order.
    pub fn decision(&self) -> Decision {
        let (order, state) = (self.record.order_id, self.state());
        Decision { order, state, buyer_keeps: state.holds_nothing().then_some(self.buyer_holds) }
    }

    /// Answers the steps that the order has taken when it has its row: one, or those of an imported order, each with
    /// its own time.
    pub fn moves(&self) -> impl Iterator<Item = OrderMove<'_>> {
        let decided = self.record.decided.as_deref();
        let taken = decided.filter(|decided| decided.state == self.state() && !decided.steps.is_empty());
        let first = || {
            let event = if self.reason().is_some() { OrderEvent::Reject } else { OrderEvent::Persist };
            let mover = if decided.is_some() { Mover::IMPORT } else { Mover::ORDER_WRITER };
            let reason = self.reason().map(RejectReason::as_str);
            let first = OrderMove::first(&self.record, event.arrow(), reason, &mover);
            OrderMove { at_ms: decided.map(|decided| decided.created_ms), ..first }
        };
        let first = taken.is_none().then(first);
        first.into_iter().chain(taken.into_iter().flat_map(|decided| OrderMove::taken(&self.record, decided)))
    }

    /// Answers those of [`Self::moves`] that get a row in `order_moves`. The first step by an order writer needs none:
    /// the order's row says it ([`super::TakenStep::unnoted`]).
    pub fn noted_moves(&self) -> impl Iterator<Item = OrderMove<'_>> {
        let decided = self.record.decided.as_deref();
        let is_noted = move |step: &OrderMove<'_>| {
            let is_of_row = decided.is_some_and(|decided| {
                step.at_ms == Some(decided.created_ms) && decided.created_ms != decided.expires_ms
            });
            let is_first =
                step.from == OrderState::Queued.as_str() && step.to != OrderState::Cancelled.as_str();
            !(is_of_row && is_first && step.by == Mover::ORDER_WRITER.by && step.why.is_none())
        };
        let moves = decided.map(|_| self.moves().filter(is_noted));
        moves.into_iter().flatten()
    }

    /// Answers when the row was made and when its payment is due, in ms since 1970. An imported order keeps its times.
    pub fn times(&self, now_ms: i64) -> (i64, i64) {
        match &self.record.decided {
            Some(decided) => (decided.created_ms, decided.expires_ms),
            None => (now_ms, now_ms.saturating_add(self.payment_window_ms)),
        }
    }
}

/// What Redis is owed of an order that holds nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debt {
    /// The order's record.
    pub record: OrderRecord,
    /// What was decided of it. Its buyer is freed of its units.
    pub decision: Decision,
    /// Whether its units go back on sale. Those of an order that is sold out do not: Redis had more than there was, and
    /// they would be sold and refused again and again (docs/adr/0019).
    pub restock: bool,
}

/// What the transaction of one batch writes.
#[derive(Debug, Default)]
pub struct Plan {
    /// The new orders, in offset order.
    pub orders: Vec<PlannedOrder>,
    /// Units to hold per SKU, in the order of the locks.
    pub held: BTreeMap<Scarce, u32>,
    /// How many of those are of imported orders that were paid, so that they are sold.
    pub sold: BTreeMap<Scarce, u32>,
    /// Records that can never become an order, in offset order, each with the reason.
    pub dead_letters: Vec<(LogRecord, Poison)>,
    /// What Redis is owed of known orders that hold nothing. It may have been owed before, and a release is idempotent
    /// (step 16).
    pub owed: Vec<Debt>,
    /// Records whose order exists already.
    pub skipped: usize,
}

impl Plan {
    /// Lists what Redis is owed of orders that a front reserved units for and that hold nothing. Imported orders are
    /// not among them, because no front reserved units for those.
    pub fn owed(&self) -> impl Iterator<Item = Debt> {
        let rejected = self.orders.iter().filter_map(|order| {
            let restock = order.reason()? != RejectReason::SoldOut;
            Some(Debt { record: order.record.clone(), decision: order.decision(), restock })
        });
        rejected.chain(self.owed.iter().cloned()).filter(|debt| debt.record.decided.is_none())
    }
}

/// Decides a batch. `sales` holds every sale that the batch names and the directory has. `free` answers how many units
/// of a SKU this batch may hold here in all.
pub fn plan(
    batch: &LogBatch,
    map: &ShardMap,
    sales: &Sales,
    known: &Known,
    free: impl Fn(&Scarce) -> u32,
) -> Plan {
    let mut plan = Plan::default();
    let mut seen: HashSet<OrderId> = HashSet::new();
    let mut taken: HashMap<Buyer, BTreeSet<u32>> = HashMap::new();
    let mut live: HashMap<Buyer, u32> = HashMap::new();
    for log_record in &batch.records {
        let (record, sale) = match validate(log_record, batch.part, map, sales) {
            Ok(valid) => valid,
            Err(poison) => {
                plan.dead_letters.push((log_record.clone(), poison));
                continue;
            }
        };
        let before = known.orders.get(&record.order_id).copied();
        if before.is_some() || !seen.insert(record.order_id) {
            plan.skipped += 1;
            if let Some(state) = before.flatten().filter(|state| state.holds_nothing()) {
                let buyer = (record.sale_id.clone(), record.user_id.clone());
                let keeps = known.claims.get(&buyer).map_or(0, BTreeSet::len);
                let buyer_keeps = Some(u32::try_from(keeps).unwrap_or(u32::MAX));
                let decision = Decision { order: record.order_id, state, buyer_keeps };
                plan.owed.push(Debt { record: record.clone(), decision, restock: true });
            }
            continue;
        }
        let buyer = (record.sale_id.clone(), record.user_id.clone());
        let claimed = taken
            .entry(buyer.clone())
            .or_insert_with(|| known.claims.get(&buyer).cloned().unwrap_or_default());
        let live = live.entry(buyer).or_insert_with(|| u32::try_from(claimed.len()).unwrap_or(u32::MAX));
        let buyer_holds = *live;
        let scarce = (record.sale_id.clone(), record.sku_id.clone());
        let outcome = match record.decided.as_deref() {
            Some(Decided { rejected: Some(reason), .. }) => Outcome::Rejected(*reason),
            Some(Decided { state, .. }) if state.holds_nothing() => Outcome::Over(*state),
            _ if batch.fences.is_stale(record, map.bucket_of(record.order_id.shard(), sale.buckets)) => {
                Outcome::Rejected(RejectReason::StaleEpoch)
            }
            _ => match decide(record, sale, claimed, &scarce, &mut plan.held, &free) {
                Ok(claims) => Outcome::Live(claims),
                Err(reason) => Outcome::Rejected(reason),
            },
        };
        let order = PlannedOrder {
            record: record.clone(),
            offset: log_record.offset,
            outcome,
            buyer_holds,
            payment_window_ms: sale.payment_window_ms,
        };
        if order.decision().buyer_keeps.is_none() {
            *live += record.quantity.units();
        }
        if order.state() == OrderState::Paid {
            *plan.sold.entry(scarce).or_default() += record.quantity.units();
        }
        plan.orders.push(order);
    }
    plan
}

/// Decides a new order: claims and holds its units, or answers why it gets none.
fn decide(
    record: &OrderRecord,
    sale: &Sale,
    claimed: &mut BTreeSet<u32>,
    scarce: &Scarce,
    held: &mut BTreeMap<Scarce, u32>,
    free: &impl Fn(&Scarce) -> u32,
) -> Result<Vec<u32>, RejectReason> {
    let units = record.quantity.units();
    let wanted = usize::try_from(units).expect("a quantity is at most 99");
    let open: Vec<u32> = (0..sale.buyer_limit).filter(|unit| !claimed.contains(unit)).take(wanted).collect();
    if open.len() < wanted {
        return Err(RejectReason::Limit);
    }
    // The units stay claimed also when the order turns out sold out below. So the limit's verdicts do not depend on the
    // stock of another SKU, and a plan that is made with less stock never holds more of anything.
    claimed.extend(&open);
    let before = held.get(scarce).copied().unwrap_or(0);
    let after = before.saturating_add(units);
    if after > free(scarce) {
        return Err(RejectReason::SoldOut);
    }
    held.insert(scarce.clone(), after);
    Ok(open)
}

/// Validates a record again (step 10), because the log is not trusted to hold only what a front of ours wrote.
fn validate<'a>(
    log_record: &'a LogRecord,
    part: Part,
    map: &ShardMap,
    sales: &'a Sales,
) -> Result<(&'a OrderRecord, &'a Sale), Poison> {
    let record = log_record.order.as_ref().map_err(|poison| *poison)?;
    // Nothing can have been reserved of a draft or a published sale, and it has no pool to take from.
    let sale = sales.get(&record.sale_id).filter(|sale| !sale.state.is_editable());
    let sale = sale.ok_or(Poison::UnknownSale)?;
    if sale.item(&record.sku_id).is_none() {
        return Err(Poison::UnknownSku);
    }
    if record.quantity.units() > sale.buyer_limit {
        return Err(Poison::OverLimit);
    }
    if record.decided.as_ref().is_some_and(|decided| !decided.is_possible()) {
        return Err(Poison::Garbage);
    }
    let shard = map.shard_of(&record.user_id);
    let in_place = record.order_id.shard() == shard
        && map.part_of(shard) == part
        && record.order_id.month() == sale.month();
    if in_place { Ok((record, sale)) } else { Err(Poison::WrongPlace) }
}

#[cfg(test)]
mod tests;
