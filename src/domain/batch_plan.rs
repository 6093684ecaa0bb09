//! What one batch of the order log becomes: the decision of protocol.md steps 9 to 11, without the I/O.
//!
//! The store reads what the decision needs, calls [`plan`], and writes the plan in one transaction. Records
//! are decided strictly in offset order. The database guards every promise again (ledger condition, primary
//! keys), so a wrong plan fails its transaction and never oversells.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::ids::{OrderId, SaleId, SkuId, UserId};
use super::order::{OrderState, RejectReason};
use super::record::{OrderRecord, Poison};
use super::sale::Sale;
use super::shard::{Part, ShardMap};

/// One record as read from the order log.
#[derive(Debug, Clone)]
pub struct LogRecord {
    pub offset: i64,
    pub payload: Vec<u8>,
    pub order: Result<OrderRecord, Poison>,
}

/// Consecutive records of one partition, ascending by offset. Offsets may have gaps (none of ours: the log's own markers).
#[derive(Debug, Clone)]
pub struct LogBatch {
    pub part: Part,
    /// The position this batch was read from: the CAS compares with it.
    pub start_offset: i64,
    /// 1 to `writer.batch_records_max` records.
    pub records: Vec<LogRecord>,
}

impl LogBatch {
    /// The position after this batch.
    pub fn next_offset(&self) -> i64 {
        self.records.last().map_or(self.start_offset, |last| last.offset + 1)
    }
}

/// A SKU of a sale, the key of ledger and pool. Its order is the lock order.
pub type Scarce = (SaleId, SkuId);
/// A buyer in a sale, the key of claims.
pub type Buyer = (SaleId, UserId);

/// What the database knows of a batch before it is decided.
#[derive(Debug, Default)]
pub struct Known {
    pub orders: HashMap<OrderId, OrderState>,
    /// Unit numbers (0-based) that live orders hold.
    pub claims: HashMap<Buyer, BTreeSet<u32>>,
}

/// An order row to insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedOrder {
    pub record: OrderRecord,
    pub offset: i64,
    /// `Err` for `rejected`; `Ok` holds the claimed unit numbers, as many as the quantity.
    pub claims: Result<Vec<u32>, RejectReason>,
    pub payment_window_ms: i64,
}

impl PlannedOrder {
    /// When the row was made and when its payment is due, ms since 1970.
    pub fn times(&self, now_ms: i64) -> (i64, i64) {
        match self.record.decided {
            Some(decided) => (decided.created_ms, decided.expires_ms),
            None => (now_ms, now_ms.saturating_add(self.payment_window_ms)),
        }
    }
}

#[derive(Debug, Default)]
pub struct Plan {
    /// In offset order.
    pub orders: Vec<PlannedOrder>,
    /// Units to hold per SKU, in lock order.
    pub held: BTreeMap<Scarce, u32>,
    pub dead_letters: Vec<(LogRecord, Poison)>,
    /// Known orders that hold nothing: their stock is owed to Redis (again; releasing is idempotent).
    pub owed: Vec<OrderRecord>,
    /// Records whose order exists already.
    pub skipped: usize,
}

impl Plan {
    /// Records of orders that hold nothing, although a front reserved units for them. No front reserved for an
    /// imported one.
    pub fn owed(&self) -> impl Iterator<Item = &OrderRecord> {
        let rejected = self.orders.iter().filter(|order| order.claims.is_err()).map(|order| &order.record);
        rejected.chain(&self.owed).filter(|record| record.decided.is_none())
    }
}

/// Decides a batch. `free` tells how many units of a SKU may still be held here; `sales` knows every sale
/// the directory has.
pub fn plan(
    batch: &LogBatch,
    map: &ShardMap,
    sales: &HashMap<SaleId, Sale>,
    known: &Known,
    free: impl Fn(&Scarce) -> u32,
) -> Plan {
    let mut plan = Plan::default();
    let mut seen: HashSet<OrderId> = HashSet::new();
    let mut taken: HashMap<Buyer, BTreeSet<u32>> = HashMap::new();
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
            if before.is_some_and(OrderState::is_released) {
                plan.owed.push(record.clone());
            }
            continue;
        }
        let buyer = (record.sale_id.clone(), record.user_id.clone());
        let claimed = taken
            .entry(buyer.clone())
            .or_insert_with(|| known.claims.get(&buyer).cloned().unwrap_or_default());
        let scarce = (record.sale_id.clone(), record.sku_id.clone());
        let claims = match record.decided.and_then(|decided| decided.rejected) {
            Some(reason) => Err(reason),
            None => decide(record, sale, claimed, &scarce, &mut plan.held, &free),
        };
        plan.orders.push(PlannedOrder {
            record: record.clone(),
            offset: log_record.offset,
            claims,
            payment_window_ms: sale.payment_window_ms,
        });
    }
    plan
}

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
    // Also when it turns out sold out below: so the limit's verdicts do not depend on the stock of another
    // SKU, and a plan made with less stock never holds more of anything.
    claimed.extend(&open);
    let before = held.get(scarce).copied().unwrap_or(0);
    let after = before.saturating_add(units);
    if after > free(scarce) {
        return Err(RejectReason::SoldOut);
    }
    held.insert(scarce.clone(), after);
    Ok(open)
}

/// Re-validation (step 10): the log is not trusted to hold only what a front of ours wrote.
fn validate<'a>(
    log_record: &'a LogRecord,
    part: Part,
    map: &ShardMap,
    sales: &'a HashMap<SaleId, Sale>,
) -> Result<(&'a OrderRecord, &'a Sale), Poison> {
    let record = log_record.order.as_ref().map_err(|poison| *poison)?;
    // Nothing can have been reserved of a sale that was never preheated; it has no pool to take from either.
    let sale = sales.get(&record.sale_id).filter(|sale| !sale.state.is_editable());
    let sale = sale.ok_or(Poison::UnknownSale)?;
    if sale.item(&record.sku_id).is_none() {
        return Err(Poison::UnknownSku);
    }
    if record.quantity.units() > sale.buyer_limit {
        return Err(Poison::OverLimit);
    }
    let shard = map.shard_of(&record.user_id);
    let in_place = record.order_id.shard() == shard
        && map.part_of(shard) == part
        && record.order_id.month() == sale.month();
    if in_place { Ok((record, sale)) } else { Err(Poison::WrongPlace) }
}

#[cfg(test)]
mod tests;
