//! Changes orders that have a row, or will have one, in the writer's transaction. The units of an order that holds
//! nothing any more leave its buyer and go back on sale in it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_batch::{free_buyer, return_units};
use super::sqlite_order_store::{COLUMNS, read};
use super::sqlite_rows::{Bound, failed, parsed};
use crate::domain::order_life::{Arrow, LedgerColumn, OrderEvent, Step};
use crate::domain::{Decision, Instance, Order, OrderId, OrderRecord, OrderState};
use crate::ports::{Moved, OrderChanges, Overdue, StoreResult};

const CONTEXT: &str = "change order";

/// Changes orders in the database.
pub struct SqliteOrderChanges {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl OrderChanges for SqliteOrderChanges {
    fn instances(&self) -> Vec<Instance> {
        vec![Instance::FIRST]
    }

    async fn change(&self, order: OrderId, event: OrderEvent) -> StoreResult<Moved> {
        let time = self.sqlite.time.clone();
        let work = async move |connection: &mut SqliteConnection| {
            let Some(found) = find(connection, order).await? else { return Ok(Moved::Absent) };
            match found.state.on(event) {
                Step::Follows(arrow) => follow(connection, arrow, found, time.now_ms()).await,
                Step::Repeated => Ok(Moved::Repeated(Box::new(found))),
                Step::Conflict => Ok(Moved::Refused(Box::new(found))),
            }
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn cancel_unwritten(&self, record: &OrderRecord, payment_window_ms: i64) -> StoreResult<Moved> {
        const INSERT: &str = "INSERT INTO orders (order_id, month, sale_id, sku_id, user_id, quantity, unit_price, \
             currency, state, reason, epoch, accepted_ms, created_ms, expires_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
        let (record, time) = (record.clone(), self.sqlite.time.clone());
        let order = record.order_id;
        let work = async move |connection: &mut SqliteConnection| {
            let (arrow, now_ms) = (OrderEvent::Cancel.arrow(), time.now_ms());
            let inserted = sqlx::query(INSERT)
                .bind(record.order_id.to_string())
                .bind(record.order_id.month().number())
                .bind(record.sale_id.as_str())
                .bind(record.sku_id.as_str())
                .bind(record.user_id.as_str())
                .bind(record.quantity.units())
                .bind(record.unit_price.amount())
                .bind(record.unit_price.currency())
                .bind(arrow.to.as_str())
                .bind(record.epoch)
                .bind(record.accepted_ms)
                .bind(now_ms)
                .bind(now_ms.saturating_add(payment_window_ms))
                .execute(&mut *connection)
                .await
                .map_err(|error| failed(CONTEXT, error))?;
            if inserted.rows_affected() == 0 {
                return Ok(None);
            }
            note_move(connection, arrow, order, now_ms).await?;
            let found = find(connection, order).await?;
            let found = found.ok_or_else(|| broken(CONTEXT, "a row that was written is not there"))?;
            let decision = give_back(connection, &found).await?;
            Ok(Some(Moved::Done { order: Box::new(found), decision }))
        };
        match self.sqlite.writer.write(CONTEXT, work).await? {
            Some(moved) => Ok(moved),
            // The order writer was quicker.
            None => self.change(order, OrderEvent::Cancel).await,
        }
    }

    async fn overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>> {
        let text = "SELECT order_id FROM orders WHERE state = ? AND expires_ms < ? LIMIT ?";
        let rows = sqlx::query(text)
            .bind(OrderState::AwaitingPayment.as_str())
            .bind(due_before(self.sqlite.time.now_ms(), orders.grace_ms))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed("read overdue orders", error))?;
        rows.iter().map(|row| parsed(row, "order_id", OrderId::parse)).collect()
    }

    async fn expire(&self, _: Instance, orders: &[OrderId], grace_ms: u64) -> StoreResult<usize> {
        let text = format!(
            "SELECT {COLUMNS} FROM orders WHERE order_id IN (SELECT value FROM json_each(?)) AND state = ? \
             AND expires_ms < ?"
        );
        let (ids, time) = (json!(orders).to_string(), self.sqlite.time.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let now_ms = time.now_ms();
            let rows: Vec<SqliteRow> = sqlx::query(sqlx::AssertSqlSafe(text.clone()))
                .bind(&ids)
                .bind(OrderState::AwaitingPayment.as_str())
                .bind(due_before(now_ms, grace_ms))
                .fetch_all(&mut *connection)
                .await
                .map_err(|error| failed(CONTEXT, error))?;
            for row in &rows {
                follow(connection, OrderEvent::Expire.arrow(), read(row)?, now_ms).await?;
            }
            Ok(rows.len())
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }
}

fn due_before(now_ms: i64, grace_ms: u64) -> i64 {
    now_ms.saturating_sub(i64::try_from(grace_ms).unwrap_or(i64::MAX))
}

async fn find(connection: &mut SqliteConnection, order: OrderId) -> StoreResult<Option<Order>> {
    let text = format!("SELECT {COLUMNS} FROM orders WHERE order_id = ?");
    let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(order.to_string());
    let row = query.fetch_optional(connection).await.map_err(|error| failed(CONTEXT, error))?;
    row.as_ref().map(read).transpose()
}

/// Takes an order along an arrow, with all that follows.
async fn follow(
    connection: &mut SqliteConnection,
    arrow: &Arrow,
    mut order: Order,
    now_ms: i64,
) -> StoreResult<Moved> {
    let set = "UPDATE orders SET state = ? WHERE order_id = ? AND state = ?";
    let query =
        sqlx::query(set).bind(arrow.to.as_str()).bind(order.id.to_string()).bind(order.state.as_str());
    change_one(connection, query).await?;
    note_move(connection, arrow, order.id, now_ms).await?;
    let units = |column| {
        let of = |state: OrderState| i64::from(state.facts().units == Some(column));
        (of(arrow.to) - of(order.state)) * i64::from(order.quantity.units())
    };
    let count = "UPDATE ledger SET held = held + ?, sold = sold + ? WHERE sale_id = ? AND sku_id = ?";
    let query = sqlx::query(count).bind(units(LedgerColumn::Held)).bind(units(LedgerColumn::Sold));
    change_one(connection, query.bind(order.sale.as_str()).bind(order.sku.as_str())).await?;
    order.state = arrow.to;
    let decision = if order.state.holds_nothing() {
        let drop = "DELETE FROM claims WHERE sale_id = ? AND user_id = ? AND order_id = ?";
        let query = sqlx::query(drop).bind(order.sale.as_str()).bind(order.user.as_str());
        let dropped = query.bind(order.id.to_string()).execute(&mut *connection).await;
        dropped.map_err(|error| failed(CONTEXT, error))?;
        give_back(connection, &order).await?
    } else {
        Decision { order: order.id, state: order.state, buyer_keeps: None }
    };
    Ok(Moved::Done { order: Box::new(order), decision })
}

/// Takes the units of an order that holds nothing any more off its buyer, and puts them back on sale. Its row changed
/// to its last state in this transaction, so that happens once.
async fn give_back(connection: &mut SqliteConnection, order: &Order) -> StoreResult<Decision> {
    let text = "SELECT COUNT(*) FROM claims WHERE sale_id = ? AND user_id = ?";
    let query = sqlx::query_scalar(text).bind(order.sale.as_str()).bind(order.user.as_str());
    let keeps: i64 = query.fetch_one(&mut *connection).await.map_err(|error| failed(CONTEXT, error))?;
    let keeps = u32::try_from(keeps).unwrap_or(u32::MAX);
    free_buyer(connection, order.id, keeps).await?;
    return_units(connection, order.id).await?;
    Ok(Decision { order: order.id, state: order.state, buyer_keeps: Some(keeps) })
}

async fn note_move(
    connection: &mut SqliteConnection,
    arrow: &Arrow,
    order: OrderId,
    now_ms: i64,
) -> StoreResult<()> {
    let note = "INSERT INTO order_moves (order_id, kind, at_ms) VALUES (?, ?, ?)";
    change_one(connection, sqlx::query(note).bind(order.to_string()).bind(arrow.move_word).bind(now_ms)).await
}

/// Executes a statement that has to change one row.
async fn change_one(connection: &mut SqliteConnection, query: Bound<'_>) -> StoreResult<()> {
    let changed = query.execute(connection).await.map_err(|error| failed(CONTEXT, error))?.rows_affected();
    if changed == 1 { Ok(()) } else { Err(broken(CONTEXT, format!("{changed} rows changed and not one"))) }
}
