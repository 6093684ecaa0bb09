//! Writes one batch of the order log as one transaction: steps 8 to 12 of docs/protocol/steps.md, section Write.
//!
//! The order inside the transaction is: compare and set the position → read what is known → decide → ledger → rows →
//! events → commit. When nothing was read, the rows come before the ledger. Keys are taken in ascending order
//! everywhere, and rows belong to one partition alone, so two batches of one instance never wait for each other in a
//! circle. Changes of orders that have a row are in no such circle either (docs/adr/0020-orders-are-given-up.md). After
//! any error the transaction is dropped, and the caller takes the batch again from its start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sqlx::{MySql, Row, Transaction};

use super::mysql::{Mysql, failed};
use super::{
    mysql_batch_rows as rows, mysql_grants as grants, mysql_journal as journal, mysql_positions as positions,
};
use crate::domain::batch_plan::{self, Known, LogBatch, LogRecord, Plan, PlannedOrder, Scarce};
use crate::domain::{Instance, LogId, OrderRecord, Part, Position, Sales};
use crate::ports::{BatchOutcome, Effect, ErrorKind, Redecided, StoreError, StoreResult, Written};

/// Units per SKU.
type Units = BTreeMap<Scarce, u32>;

/// Most attempts of one batch. It begins again with units that it fetched or with what it found to exist. After the
/// last attempt it lets the other partitions of its instance go first.
const ATTEMPTS_MAX: usize = 8;

/// Number of times that a batch fetches units without a wait.
const PROMPT_FETCHES: u32 = 2;

/// The longest wait before the fetch after the prompt ones. It doubles with every further one.
const FIRST_WAIT: Duration = Duration::from_millis(20);

/// Writes one batch. Of all attempts at most one is committed.
///
/// # Errors
/// As [`crate::ports::OrderWrites::write`].
pub async fn write(mysql: &Mysql, batch: &LogBatch, sales: &Sales) -> StoreResult<BatchOutcome> {
    decide(mysql, batch, sales, Place::Log).await
}

/// Decides one record apart from the order log.
///
/// # Errors
/// As [`crate::ports::DeadLetters::write_apart`].
pub async fn write_apart(mysql: &Mysql, record: &OrderRecord, sales: &Sales) -> StoreResult<Redecided> {
    let part = mysql.map.part_of(record.order_id.shard());
    let batch = LogBatch::apart(std::slice::from_ref(record), part);
    if let Some(poison) = batch.poison(&mysql.map, sales) {
        return Ok(Redecided::Poison(poison));
    }
    match decide(mysql, &batch, sales, Place::Apart).await? {
        BatchOutcome::Written(written) => {
            let order = written.orders.first();
            Ok(order.map_or(Redecided::Known, |order| Redecided::Written(order.decision)))
        }
        BatchOutcome::PositionMoved { .. } => Err(StoreError::broken("write apart", "no position was asked")),
    }
}

/// Decides records apart from the order log, all of one partition. None of them can be a dead letter.
///
/// # Errors
/// As [`crate::ports::DeadLetters::write_apart`].
pub async fn write_all_apart(
    mysql: &Mysql,
    (part, records): (Part, &[OrderRecord]),
    sales: &Sales,
) -> StoreResult<Written> {
    match decide(mysql, &LogBatch::apart(records, part), sales, Place::Apart).await? {
        BatchOutcome::Written(written) => Ok(written),
        BatchOutcome::PositionMoved { .. } => Err(StoreError::broken("write apart", "no position was asked")),
    }
}

/// Where a batch stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the order log: its position moves with it.
    Log,
    /// Nowhere: an operator has its record decided again, and the keys alone keep its order from being written twice.
    Apart,
}

async fn decide(mysql: &Mysql, batch: &LogBatch, sales: &Sales, place: Place) -> StoreResult<BatchOutcome> {
    let instance = mysql.map.instance_of_part(batch.part);
    // Nearly every buyer of a sale with a limit of one is new. The primary keys find those who are not.
    let is_new = |record: &LogRecord| match &record.order {
        Ok(order) => sales.get(&order.sale_id).is_some_and(|sale| sale.buyer_limit == 1),
        Err(_) => true,
    };
    let mut view = View { reads_first: !batch.records.iter().all(is_new), exhausted: BTreeSet::new() };
    let mut fetches = 0;
    for attempts_left in (0..ATTEMPTS_MAX).rev() {
        match attempt(mysql, batch, sales, (&view, place)).await? {
            Attempt::Done(outcome) => return Ok(outcome),
            // The wish may hold orders that exist. So the batch reads what exists, before it fetches what is missing.
            Attempt::Duplicate | Attempt::Short(_) if !view.reads_first => view.reads_first = true,
            // A front may have written the row of an order that its buyer gave up just now.
            Attempt::Duplicate if attempts_left > 0 => {}
            Attempt::Duplicate => {
                return Err(StoreError::broken("insert batch", "a key that was not there a moment ago"));
            }
            // What would be fetched now would lie idle until the batch is taken again.
            Attempt::Short(_) if attempts_left == 0 => break,
            Attempt::Short(missing) => {
                // Somebody took what was fetched. Two instances that need each other's last units would swap them for
                // ever in step, so each waits for another time, and holds nothing meanwhile.
                if fetches >= PROMPT_FETCHES {
                    mysql.wait_at_random(FIRST_WAIT * (1 << (fetches - PROMPT_FETCHES))).await;
                }
                fetches += 1;
                for (scarce, units) in missing {
                    if grants::fetch(mysql, instance, &scarce, units).await? < units {
                        view.exhausted.insert(scarce);
                    }
                }
            }
        }
    }
    let (kind, effect) = (ErrorKind::Conflict, Effect::NotApplied);
    let source = "other partitions took the units that were fetched for this one".into();
    Err(StoreError { kind, effect, context: "fetch units", source })
}

/// Holds what an attempt knows of the attempts before it.
struct View {
    /// Whether to read which orders and claims exist, or to let their keys say so.
    reads_first: bool,
    /// The SKUs of which the other instances have no units left. There are none without `reads_first`.
    exhausted: BTreeSet<Scarce>,
}

impl View {
    /// Answers what of the missing units may be had from other instances. That one SKU is gone says nothing about
    /// another.
    fn worth_fetching(&self, missing: &Units) -> Units {
        let may_be_had = |(sku, _): &(&Scarce, &u32)| !self.exhausted.contains(*sku);
        missing.iter().filter(may_be_had).map(|(sku, units)| (sku.clone(), *units)).collect()
    }
}

/// Says how an attempt ended.
enum Attempt {
    /// Committed, or dropped because another writer moved the position.
    Done(BatchOutcome),
    /// Rolled back: some order or claim is there already.
    Duplicate,
    /// Rolled back: this instance has too few units, and others may have more.
    Short(Units),
}

async fn attempt(
    mysql: &Mysql,
    batch: &LogBatch,
    sales: &Sales,
    (view, place): (&View, Place),
) -> StoreResult<Attempt> {
    let instance = mysql.map.instance_of_part(batch.part);
    let mut tx = mysql.begin(instance, "begin batch").await?;
    if place == Place::Log && !advance_position(mysql, instance, batch, &mut tx).await? {
        drop(tx);
        let stored = positions::read(mysql, batch.part).await?;
        return Ok(Attempt::Done(BatchOutcome::PositionMoved { stored }));
    }
    let known =
        if view.reads_first { rows::known(mysql, batch, sales, &mut tx).await? } else { Known::default() };
    let wish = batch_plan::plan(batch, &mysql.map, sales, &known, |_| u32::MAX);
    // A wish of new orders is likely to stand, so its rows come before the ledger. The ledger's row is the one lock
    // that the partitions of an instance share, and they write at the same time until they need it.
    let inserts_first = !view.reads_first;
    if inserts_first && !rows::insert(mysql, instance, batch, &wish, &mut tx).await? {
        return duplicate(tx).await;
    }
    let (fits, missing) = hold(mysql, instance, &wish, &mut tx).await?;
    let wanted = view.worth_fetching(&missing);
    if !wanted.is_empty() {
        tx.rollback().await.map_err(|error| failed("roll back short batch", error))?;
        return Ok(Attempt::Short(wanted));
    }
    let plan = if missing.is_empty() {
        wish
    } else {
        let free = |scarce: &Scarce| fits.get(scarce).or(wish.held.get(scarce)).copied().unwrap_or(0);
        batch_plan::plan(batch, &mysql.map, sales, &known, free)
    };
    hold_what_fits(mysql, instance, &plan, &fits, &mut tx).await?;
    sell(mysql, instance, &plan, &mut tx).await?;
    if !inserts_first && !rows::insert(mysql, instance, batch, &plan, &mut tx).await? {
        return duplicate(tx).await;
    }
    let moves: Vec<_> = plan.orders.iter().flat_map(PlannedOrder::moves).collect();
    journal::tell(mysql, batch.part, &moves, &mut tx).await?;
    match place {
        Place::Log => commit(mysql, batch, tx).await?,
        Place::Apart => tx.commit().await.map_err(|error| failed("commit apart", error))?,
    }
    Ok(Attempt::Done(BatchOutcome::Written(Written::of(batch, plan))))
}

async fn duplicate(tx: Transaction<'_, MySql>) -> StoreResult<Attempt> {
    tx.rollback().await.map_err(|error| failed("roll back duplicates", error))?;
    Ok(Attempt::Duplicate)
}

/// Does step 8: moves the stored position from the batch's start past its end. Answers `false` when the position is not
/// at the start any more, belongs to another log, was halted, or when a fence was set that the batch does not know of.
/// This is what fences a zombie writer (I3, I4), and the orders of a bucket that was rebuilt without them.
async fn advance_position(
    mysql: &Mysql,
    instance: Instance,
    batch: &LogBatch,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<bool> {
    let moved = sqlx::query(mysql.control_sql(
        instance,
        "UPDATE {control}.consumer_positions SET next_offset = ?, log_id = ? \
         WHERE topic = ? AND part = ? AND next_offset = ? AND log_id IN (?, ?) AND halt = '' AND fences = ?",
    ))
    .bind(batch.next_offset())
    .bind(LogId::stored(Some(batch.log)).to_vec())
    .bind(&mysql.topic)
    .bind(batch.part.number())
    .bind(batch.start_offset)
    .bind(LogId::stored(Some(batch.log)).to_vec())
    .bind(LogId::stored(None).to_vec())
    .bind(batch.fences.set)
    .execute(&mut **tx)
    .await
    .map_err(|error| failed("advance position", error))?;
    Ok(moved.rows_affected() == 1)
}

/// Does step 11: holds a wish's units in the ledger. Answers two things about the SKUs that it could not hold at once:
/// how many of the wished units may be held now, units of this instance's own pool included, and how many are missing.
async fn hold(
    mysql: &Mysql,
    instance: Instance,
    wish: &Plan,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<(Units, Units)> {
    let (mut fits, mut missing) = (Units::new(), Units::new());
    for (scarce, &units) in &wish.held {
        if hold_units(mysql, instance, scarce, units, tx).await? {
            continue;
        }
        let allotted = free_units(mysql, instance, scarce, tx).await?;
        let taken = grants::take_own(mysql, instance, scarce, units.saturating_sub(allotted), tx).await?;
        let free = allotted.saturating_add(taken).min(units);
        if free < units {
            missing.insert(scarce.clone(), units - free);
        }
        fits.insert(scarce.clone(), free);
    }
    Ok((fits, missing))
}

async fn hold_what_fits(
    mysql: &Mysql,
    instance: Instance,
    plan: &Plan,
    fits: &Units,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    for scarce in fits.keys() {
        let units = plan.held.get(scarce).copied().unwrap_or(0);
        if units > 0 && !hold_units(mysql, instance, scarce, units, tx).await? {
            return Err(StoreError::broken(
                "hold units",
                format!("{}/{} changed under its lock", scarce.0, scarce.1),
            ));
        }
    }
    Ok(())
}

/// Holds units of a SKU, under the condition that I1 rests on. Answers `false` when the allotment does not cover them.
async fn hold_units(
    mysql: &Mysql,
    instance: Instance,
    scarce: &Scarce,
    units: u32,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<bool> {
    let held = sqlx::query(mysql.control_sql(
        instance,
        "UPDATE {control}.ledger SET held = held + ? \
         WHERE sale_id = ? AND sku_id = ? AND held + sold + withheld + ? <= allotted",
    ))
    .bind(units)
    .bind(scarce.0.as_str().as_bytes())
    .bind(scarce.1.as_str().as_bytes())
    .bind(units)
    .execute(&mut **tx)
    .await
    .map_err(|error| failed("hold units", error))?;
    Ok(held.rows_affected() == 1)
}

/// Sells held units, of orders that were paid in the backend that they were exported from.
async fn sell(
    mysql: &Mysql,
    instance: Instance,
    plan: &Plan,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<()> {
    for ((sale, sku), units) in &plan.sold {
        let text =
            "UPDATE {control}.ledger SET held = held - ?, sold = sold + ? WHERE sale_id = ? AND sku_id = ?";
        let query = sqlx::query(mysql.control_sql(instance, text)).bind(units).bind(units);
        let query = query.bind(sale.as_str().as_bytes()).bind(sku.as_str().as_bytes());
        let sold = query.execute(&mut **tx).await.map_err(|error| failed("sell units", error))?;
        if sold.rows_affected() != 1 {
            return Err(StoreError::broken("sell units", format!("{sale}/{sku} has no ledger row")));
        }
    }
    Ok(())
}

async fn free_units(
    mysql: &Mysql,
    instance: Instance,
    scarce: &Scarce,
    tx: &mut Transaction<'_, MySql>,
) -> StoreResult<u32> {
    let row = sqlx::query(mysql.control_sql(
        instance,
        "SELECT allotted - held - sold - withheld FROM {control}.ledger WHERE sale_id = ? AND sku_id = ? FOR UPDATE",
    ))
    .bind(scarce.0.as_str().as_bytes())
    .bind(scarce.1.as_str().as_bytes())
    .fetch_optional(&mut **tx)
    .await
    .map_err(|error| failed("read ledger", error))?;
    let free: i64 = match row {
        Some(row) => row.try_get(0).map_err(|error| failed("read ledger", error))?,
        None => 0,
    };
    Ok(u32::try_from(free).unwrap_or(0))
}

/// Ends step 12: commits. When the answer to COMMIT is lost, the stored position says whether it happened.
async fn commit(mysql: &Mysql, batch: &LogBatch, tx: Transaction<'_, MySql>) -> StoreResult<()> {
    let Err(error) = tx.commit().await else {
        return Ok(());
    };
    let failure = failed("commit batch", error);
    match positions::read(mysql, batch.part).await {
        Ok(Position { next_offset, .. }) if next_offset == batch.next_offset() => Ok(()),
        Ok(Position { next_offset, .. }) if next_offset == batch.start_offset => {
            Err(StoreError { effect: Effect::NotApplied, ..failure })
        }
        _ => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{SaleId, SkuId};

    #[test]
    fn a_sku_that_is_gone_everywhere_keeps_no_other_one_from_being_fetched() {
        let scarce = |sku| (SaleId::parse("drop").expect("a slug"), SkuId::parse(sku).expect("a slug"));
        let view = View { reads_first: true, exhausted: BTreeSet::from([scarce("bag")]) };
        let missing = Units::from([(scarce("bag"), 2), (scarce("phone"), 1)]);
        assert_eq!(view.worth_fetching(&missing), Units::from([(scarce("phone"), 1)]));
    }
}
