//! Writes one batch of the order log in the writer's transaction: steps 8 to 12 of docs/protocol/steps.md, section
//! Write.
//!
//! The order is: compare and set the position → read what is known → decide → ledger → rows. One thread writes, so what
//! was read holds until the commit.

use std::collections::{BTreeSet, HashMap};

use serde_json::json;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite_journal::{note_moves, tell};
use super::sqlite_rows::{Bound, change_one, column, failed, insert, number, parsed};
use crate::domain::batch_plan::{self, Known, LogBatch, Plan, PlannedOrder, Scarce};
use crate::domain::{
    Halt, OrderId, OrderRecord, OrderState, Part, Position, Reference, RejectReason, SaleId, Sales, ShardMap,
    SkuId, UserId,
};
use crate::ports::{BatchOutcome, Redecided, StoreResult, Written};

const ADVANCE: &str =
    "UPDATE consumer_positions SET next_offset = ? WHERE part = ? AND next_offset = ? AND halt = ''";
const KNOWN_ORDERS: &str =
    "SELECT order_id, state FROM orders WHERE order_id IN (SELECT value FROM json_each(?))";
const KNOWN_CLAIMS: &str = "SELECT c.sale_id, c.user_id, c.unit FROM json_each(?) wanted \
     JOIN claims c ON c.sale_id = wanted.value->>0 AND c.user_id = wanted.value->>1";
const FREE: &str = "SELECT l.sale_id, l.sku_id, l.stock - l.held - l.sold - l.withheld AS free FROM json_each(?) wanted \
     JOIN ledger l ON l.sale_id = wanted.value->>0 AND l.sku_id = wanted.value->>1";
const HOLD: &str = "UPDATE ledger SET held = held + ?1 WHERE sale_id = ?2 AND sku_id = ?3 \
     AND held + sold + withheld + ?1 <= stock";
/// Held units are sold, of orders that were paid in the backend that they were exported from.
const SELL: &str = "UPDATE ledger SET held = held - ?1, sold = sold + ?1 WHERE sale_id = ?2 AND sku_id = ?3";
const ORDERS: &str = "orders (order_id, month, sale_id, sku_id, user_id, quantity, unit_price, currency, state, \
     reason, epoch, accepted_ms, created_ms, expires_ms, reference)";
const CLAIMS: &str = "claims (sale_id, user_id, unit, order_id)";
const INSERT_DEAD: &str = "INSERT INTO dead_letters (part, log_offset, order_id, reason, payload, at_ms) \
     VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
/// Takes the units of a rejected order off its buyer, who keeps those of other orders. An imported order has no
/// reservation.
const FREE_BUYER: &str = "UPDATE buyers SET units = max(units - reserved.quantity, min(units, ?)) \
     FROM reservations AS reserved WHERE reserved.order_id = ? AND buyers.sale_id = reserved.sale_id \
     AND buyers.bucket = reserved.bucket AND buyers.user_id = reserved.user_id";
/// Counts an order that its buyer has left unpaid. An imported order has no reservation.
const COUNT_UNPAID: &str = "UPDATE buyers SET unpaid = unpaid + 1 \
     FROM reservations AS reserved WHERE reserved.order_id = ? AND buyers.sale_id = reserved.sale_id \
     AND buyers.bucket = reserved.bucket AND buyers.user_id = reserved.user_id";
/// Puts the units of an order that got none back on sale. An imported order has no reservation.
const RETURN_UNITS: &str = "UPDATE stock SET available = available + reserved.quantity \
     FROM reservations AS reserved WHERE reserved.order_id = ? AND stock.sale_id = reserved.sale_id \
     AND stock.bucket = reserved.bucket AND stock.sku_id = reserved.sku_id";
/// Most bytes that are kept of a dead letter's payload.
const DEAD_LETTER_BYTES_MAX: usize = 65_536;

/// Writes one batch. The caller commits.
///
/// # Errors
/// As [`crate::ports::OrderWrites::write`].
pub async fn write(
    connection: &mut SqliteConnection,
    batch: &LogBatch,
    sales: &Sales,
    map: ShardMap,
    now_ms: i64,
) -> StoreResult<BatchOutcome> {
    let moved = sqlx::query(ADVANCE)
        .bind(batch.next_offset())
        .bind(batch.part.number())
        .bind(batch.start_offset)
        .execute(&mut *connection)
        .await
        .map_err(|error| failed("advance position", error))?;
    if moved.rows_affected() != 1 {
        return Ok(BatchOutcome::PositionMoved { stored: position(connection, batch.part).await? });
    }
    decide(connection, batch, sales, map, now_ms).await.map(BatchOutcome::Written)
}

/// Decides one record apart from the order log. The caller commits.
///
/// # Errors
/// As [`crate::ports::DeadLetters::write_apart`].
pub async fn write_apart(
    connection: &mut SqliteConnection,
    record: &OrderRecord,
    sales: &Sales,
    map: ShardMap,
    now_ms: i64,
) -> StoreResult<Redecided> {
    let batch = LogBatch::apart(std::slice::from_ref(record), map.part_of(record.order_id.shard()));
    if let Some(poison) = batch.poison(&map, sales) {
        return Ok(Redecided::Poison(poison));
    }
    let written = decide(connection, &batch, sales, map, now_ms).await?;
    Ok(written.orders.first().map_or(Redecided::Known, |order| Redecided::Written(order.decision)))
}

async fn decide(
    connection: &mut SqliteConnection,
    batch: &LogBatch,
    sales: &Sales,
    map: ShardMap,
    now_ms: i64,
) -> StoreResult<Written> {
    let known = known(connection, batch).await?;
    let free = free(connection, batch).await?;
    let free = |scarce: &Scarce| free.get(scarce).copied().unwrap_or(0);
    let plan = batch_plan::plan(batch, &map, sales, &known, free);
    for ((sale, sku), units) in &plan.held {
        let query = sqlx::query(HOLD).bind(units).bind(sale.as_str()).bind(sku.as_str());
        let held = query.execute(&mut *connection).await.map_err(|error| failed("hold units", error))?;
        if held.rows_affected() != 1 {
            return Err(broken("hold units", format!("{sale}/{sku} has no {units} units left")));
        }
    }
    for ((sale, sku), units) in &plan.sold {
        let query = sqlx::query(SELL).bind(units).bind(sale.as_str()).bind(sku.as_str());
        change_one(connection, query).await?;
    }
    insert_plan(connection, batch.part, &plan, now_ms).await?;
    Ok(Written::of(batch, plan))
}

/// Reads the stored position of a partition.
///
/// # Errors
/// When the position cannot be read or was never made.
pub async fn position(connection: &mut SqliteConnection, part: Part) -> StoreResult<Position> {
    let text = "SELECT part, next_offset, halt FROM consumer_positions WHERE part = ?";
    let row = sqlx::query(text).bind(part.number()).fetch_one(connection).await;
    Ok(read_position(&row.map_err(|error| failed("read position", error))?)?.1)
}

/// Reads the row of a position. The log is none, because the file holds only one.
///
/// # Errors
/// When the row is damaged.
pub fn read_position(row: &SqliteRow) -> StoreResult<(Part, Position)> {
    let halt = match column::<&str>(row, "halt")? {
        "" => None,
        word => Some(Halt::parse(word).ok_or_else(|| broken("read position", word))?),
    };
    let position = Position { next_offset: column(row, "next_offset")?, log: None, halt };
    Ok((Part::new(number(row, "part")?), position))
}

fn records(batch: &LogBatch) -> impl Iterator<Item = &OrderRecord> {
    batch.records.iter().filter_map(|record| record.order.as_ref().ok())
}

async fn known(connection: &mut SqliteConnection, batch: &LogBatch) -> StoreResult<Known> {
    let fault = |error| failed("read known orders", error);
    let mut known = Known::default();
    let ids: Vec<OrderId> = records(batch).map(|record| record.order_id).collect();
    let rows = sqlx::query(KNOWN_ORDERS).bind(json!(ids).to_string()).fetch_all(&mut *connection).await;
    for row in rows.map_err(fault)? {
        let state: &str = column(&row, "state")?;
        known.orders.insert(parsed(&row, "order_id", OrderId::parse)?, OrderState::parse(state));
    }
    let buyers: BTreeSet<_> = records(batch).map(|record| (&record.sale_id, &record.user_id)).collect();
    let rows = sqlx::query(KNOWN_CLAIMS).bind(json!(buyers).to_string()).fetch_all(connection).await;
    for row in rows.map_err(fault)? {
        let buyer = (parsed(&row, "sale_id", SaleId::parse)?, parsed(&row, "user_id", UserId::parse)?);
        known.claims.entry(buyer).or_default().insert(number(&row, "unit")?);
    }
    Ok(known)
}

/// Reads how many units may still be held of every SKU that the batch names.
async fn free(connection: &mut SqliteConnection, batch: &LogBatch) -> StoreResult<HashMap<Scarce, u32>> {
    let wanted: BTreeSet<_> = records(batch).map(|record| (&record.sale_id, &record.sku_id)).collect();
    let rows = sqlx::query(FREE).bind(json!(wanted).to_string()).fetch_all(connection).await;
    let rows = rows.map_err(|error| failed("read ledger", error))?;
    let read = |row| {
        let scarce = (parsed(&row, "sale_id", SaleId::parse)?, parsed(&row, "sku_id", SkuId::parse)?);
        Ok((scarce, number(&row, "free")?))
    };
    rows.into_iter().map(read).collect()
}

async fn insert_plan(
    connection: &mut SqliteConnection,
    part: Part,
    plan: &Plan,
    now_ms: i64,
) -> StoreResult<()> {
    let orders = &plan.orders;
    insert(connection, (ORDERS, 15, ""), orders, |query, order| bind_order(query, order, now_ms)).await?;
    let claims =
        orders.iter().flat_map(|order| order.claims().iter().map(move |unit| (&order.record, *unit)));
    insert(connection, (CLAIMS, 4, ""), &claims.collect::<Vec<_>>(), |query, (record, unit)| {
        let query = query.bind(record.sale_id.as_str()).bind(record.user_id.as_str());
        query.bind(*unit).bind(record.order_id.to_string())
    })
    .await?;
    let noted: Vec<_> = orders.iter().flat_map(PlannedOrder::noted_moves).collect();
    note_moves(connection, &noted, now_ms).await?;
    let moves: Vec<_> = orders.iter().flat_map(PlannedOrder::moves).collect();
    tell(connection, &moves, now_ms).await?;
    for decision in orders.iter().map(PlannedOrder::decision) {
        let Some(keeps) = decision.buyer_keeps else { continue };
        free_buyer(connection, decision.order, keeps).await?;
    }
    // The row of an order is written once, so its units go back once. A reservation is there as long as its row, so
    // what is known already is owed nothing.
    for order in orders.iter().filter(|order| order.reason() == Some(RejectReason::Limit)) {
        return_units(connection, order.record.order_id).await?;
    }
    for (record, poison) in &plan.dead_letters {
        sqlx::query(INSERT_DEAD)
            .bind(part.number())
            .bind(record.offset)
            .bind(OrderRecord::order_named(&record.payload).map(|order| order.to_string()))
            .bind(poison.as_str())
            .bind(&record.payload[..record.payload.len().min(DEAD_LETTER_BYTES_MAX)])
            .bind(now_ms)
            .execute(&mut *connection)
            .await
            .map_err(|error| failed("insert dead letter", error))?;
    }
    Ok(())
}

/// Takes the units of an order that holds nothing off its buyer, who keeps `keeps` units of other orders.
///
/// # Errors
/// When the statement fails.
pub async fn free_buyer(connection: &mut SqliteConnection, order: OrderId, keeps: u32) -> StoreResult<()> {
    let freed = sqlx::query(FREE_BUYER).bind(keeps).bind(order.to_string()).execute(connection).await;
    freed.map(drop).map_err(|error| failed("free a buyer", error))
}

/// Counts an order that its buyer has left unpaid. The caller does it once for an order.
///
/// # Errors
/// When the statement fails.
pub async fn count_unpaid(connection: &mut SqliteConnection, order: OrderId) -> StoreResult<()> {
    let counted = sqlx::query(COUNT_UNPAID).bind(order.to_string()).execute(connection).await;
    counted.map(drop).map_err(|error| failed("count an unpaid order", error))
}

/// Puts the units of an order that holds nothing back on sale. The caller does it once for an order.
///
/// # Errors
/// When the statement fails.
pub async fn return_units(connection: &mut SqliteConnection, order: OrderId) -> StoreResult<()> {
    let returned = sqlx::query(RETURN_UNITS).bind(order.to_string()).execute(connection).await;
    returned.map(drop).map_err(|error| failed("put units back on sale", error))
}

fn bind_order<'a>(query: Bound<'a>, order: &'a PlannedOrder, now_ms: i64) -> Bound<'a> {
    let record = &order.record;
    let (created_ms, expires_ms) = order.times(now_ms);
    query
        .bind(record.order_id.to_string())
        .bind(record.order_id.month().number())
        .bind(record.sale_id.as_str())
        .bind(record.sku_id.as_str())
        .bind(record.user_id.as_str())
        .bind(record.quantity.units())
        .bind(record.unit_price.amount())
        .bind(record.unit_price.currency())
        .bind(order.state().as_str())
        .bind(order.reason().map(RejectReason::as_str))
        .bind(record.epoch)
        .bind(record.accepted_ms)
        .bind(created_ms)
        .bind(expires_ms)
        .bind(record.reference.as_ref().map(Reference::as_str))
}
