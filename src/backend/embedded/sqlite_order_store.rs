//! Writes the order writer's batches, and reads orders for buyers and exports.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_batch;
use super::sqlite_rows::{column, failed, number, observed, parsed, reference};
use crate::domain::batch_plan::LogBatch;
use crate::domain::{
    Halt, Money, Month, Order, OrderCursor, OrderId, OrderState, Part, Position, Quantity, RejectReason,
    SaleId, Sales, SkuId, UserId,
};
use crate::ports::{BatchOutcome, OrderWrites, Orders, Positions, StoreResult, TakenOver};

/// The columns that [`read`] reads.
pub const COLUMNS: &str = "order_id, sale_id, sku_id, user_id, quantity, unit_price, currency, state, reason, \
     accepted_ms, expires_ms, reference";

/// Serves orders from the database.
pub struct SqliteOrderStore {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl OrderWrites for SqliteOrderStore {
    async fn write(&self, batch: &LogBatch, sales: &Sales) -> StoreResult<BatchOutcome> {
        let named = batch.records.iter().filter_map(|record| record.order.as_ref().ok());
        let sales: Sales = named
            .filter_map(|record| Some((record.sale_id.clone(), sales.get(&record.sale_id)?.clone())))
            .collect();
        let (batch, map, time) = (batch.clone(), self.sqlite.map, self.sqlite.time.clone());
        let work = async move |connection: &mut SqliteConnection| {
            sqlite_batch::write(connection, &batch, &sales, map, time.now_ms()).await
        };
        observed(&self.sqlite.clock, "write batch", self.sqlite.writer.write("write batch", work)).await
    }

    /// Makes the position when it is absent, and reads it. There are no other instances that could have granted
    /// anything, and no bucket is ever rebuilt.
    async fn take_over(&self, part: Part) -> StoreResult<TakenOver> {
        let work = async move |connection: &mut SqliteConnection| {
            let text =
                "INSERT INTO consumer_positions (part, next_offset) VALUES (?, 0) ON CONFLICT DO NOTHING";
            let made = sqlx::query(text).bind(part.number()).execute(&mut *connection).await;
            made.map_err(|error| failed("make position", error))?;
            sqlite_batch::position(connection, part).await
        };
        let position = self.sqlite.writer.write("take over", work).await?;
        Ok(TakenOver { position, fences: Arc::default() })
    }
}

#[async_trait]
impl Positions for SqliteOrderStore {
    async fn positions(&self) -> HashMap<Part, Position> {
        let rows = sqlx::query("SELECT part, next_offset, halt FROM consumer_positions")
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed("read positions", error));
        let read = |rows: Vec<SqliteRow>| rows.iter().map(sqlite_batch::read_position).collect();
        rows.and_then(read).unwrap_or_else(|error| {
            tracing::debug!(%error, "positions not read");
            HashMap::new()
        })
    }

    async fn replace(&self, part: Part, seen: &Position, to: &Position) -> StoreResult<bool> {
        let (seen, to) = (*seen, *to);
        let work = async move |connection: &mut SqliteConnection| {
            let word = |position: Position| position.halt.map_or("", Halt::as_str);
            let text = "UPDATE consumer_positions SET next_offset = ?, halt = ? \
                        WHERE part = ? AND next_offset = ? AND halt = ?";
            let replaced = sqlx::query(text)
                .bind(to.next_offset)
                .bind(word(to))
                .bind(part.number())
                .bind(seen.next_offset)
                .bind(word(seen))
                .execute(connection)
                .await
                .map_err(|error| failed("replace position", error))?;
            Ok(replaced.rows_affected() == 1)
        };
        self.sqlite.writer.write("replace position", work).await
    }
}

#[async_trait]
impl Orders for SqliteOrderStore {
    async fn order(&self, order: OrderId) -> StoreResult<Option<Order>> {
        let text = format!("SELECT {COLUMNS} FROM orders WHERE order_id = ?");
        let query = sqlx::query(AssertSqlSafe(text)).bind(order.to_string());
        let row = query.fetch_optional(self.sqlite.readers()).await;
        let row = row.map_err(|error| failed("read order", error))?;
        row.as_ref().map(read).transpose()
    }

    async fn is_dead_letter(&self, order: OrderId) -> StoreResult<bool> {
        sqlx::query_scalar("SELECT EXISTS(SELECT 1 FROM dead_letters WHERE order_id = ? AND state = 'open')")
            .bind(order.to_string())
            .fetch_one(self.sqlite.readers())
            .await
            .map_err(|error| failed("look for dead letter", error))
    }

    /// Answers `true`, because one table holds every month.
    async fn holds_month(&self, _: Month) -> StoreResult<bool> {
        Ok(true)
    }

    async fn orders_of(
        &self,
        user: &UserId,
        months: &[Month],
        below: Option<OrderCursor>,
        limit: u32,
    ) -> StoreResult<Vec<Order>> {
        let (Some(newest), Some(oldest)) = (months.first(), months.last()) else {
            return Ok(Vec::new());
        };
        let (at_ms, id) = below.map_or((i64::MAX, String::new()), |c| (c.accepted_ms, c.order.to_string()));
        let text = format!(
            "SELECT {COLUMNS} FROM orders WHERE user_id = ? AND month >= ? \
             AND (month, accepted_ms, order_id) < (?, ?, ?) \
             ORDER BY month DESC, accepted_ms DESC, order_id DESC LIMIT ?"
        );
        let rows = sqlx::query(AssertSqlSafe(text))
            .bind(user.as_str())
            .bind(oldest.number())
            .bind(below.map_or(*newest, |cursor| cursor.month).number())
            .bind(at_ms)
            .bind(id)
            .bind(limit)
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed("read orders of a buyer", error))?;
        rows.iter().map(read).collect()
    }
}

/// Reads an order from its row.
///
/// # Errors
/// When the row is damaged.
pub fn read(row: &SqliteRow) -> StoreResult<Order> {
    let damaged = |detail: String| broken("read order", detail);
    let state: &str = column(row, "state")?;
    let reason: Option<&str> = column(row, "reason")?;
    Ok(Order {
        id: parsed(row, "order_id", OrderId::parse)?,
        sale: parsed(row, "sale_id", SaleId::parse)?,
        sku: parsed(row, "sku_id", SkuId::parse)?,
        user: parsed(row, "user_id", UserId::parse)?,
        quantity: Quantity::new(number(row, "quantity")?).map_err(|error| damaged(error.to_string()))?,
        unit_price: Money::new(column(row, "unit_price")?, column(row, "currency")?)
            .map_err(|error| damaged(error.to_string()))?,
        reference: reference(row)?,
        state: OrderState::parse(state).ok_or_else(|| damaged(state.to_owned()))?,
        reason: reason.and_then(RejectReason::parse),
        accepted_ms: column(row, "accepted_ms")?,
        expires_ms: Some(column(row, "expires_ms")?),
        is_delayed: false,
    })
}
