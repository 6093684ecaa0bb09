//! Changes orders that have a row, or will have one, in the writer's transaction. The units of an order that holds
//! nothing any more leave its buyer and go back on sale in it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_journal::{note_moves, tell};
use super::sqlite_order_moves::{find, follow, give_back};
use super::sqlite_order_store::{COLUMNS, read};
use super::sqlite_payments::{self, begin_closing};
use super::sqlite_rows::{column, failed, number, parsed};
use crate::domain::order::RejectReason;
use crate::domain::order_life::{OrderEvent, Step};
use crate::domain::payment::PaymentState;
use crate::domain::{Instance, Mover, Order, OrderId, OrderMove, OrderRecord, OrderState, Reference};
use crate::ports::{Ending, Grace, Moved, OrderChanges, Overdue, StoreResult};

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

    async fn change(&self, order: OrderId, event: OrderEvent, mover: &Mover<'_>) -> StoreResult<Moved> {
        let (time, mover) = (self.sqlite.time.clone(), mover.clone().into_owned());
        let work = async move |connection: &mut SqliteConnection| {
            let Some(found) = find(connection, order).await? else { return Ok(Moved::Absent) };
            let is_open = event == OrderEvent::Cancel
                && sqlite_payments::read_all(connection, order).await?.iter().any(|p| !p.state.is_final());
            let now_ms = time.now_ms();
            match found.state.on(event) {
                Step::Follows(_) if event == OrderEvent::Pay && !found.is_payable(now_ms) => {
                    Ok(Moved::Refused(Box::new(found)))
                }
                Step::Follows(_) if is_open => Ok(Moved::PaymentOpen(Box::new(found))),
                Step::Follows(arrow) => follow(connection, (arrow, true, &mover), found, now_ms).await,
                Step::Repeated => Ok(Moved::Repeated(Box::new(found))),
                Step::Conflict => Ok(Moved::Refused(Box::new(found))),
            }
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn end_unwritten(
        &self,
        record: &OrderRecord,
        ending: Ending,
        mover: &Mover<'_>,
    ) -> StoreResult<Moved> {
        const INSERT: &str = "INSERT INTO orders (order_id, month, sale_id, sku_id, user_id, quantity, unit_price, \
             currency, state, reason, epoch, accepted_ms, created_ms, expires_ms, reference) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
        let (record, time) = (record.clone(), self.sqlite.time.clone());
        let own = mover.clone().into_owned();
        let reason = ending.reason().map(RejectReason::as_str);
        let order = record.order_id;
        let work = async move |connection: &mut SqliteConnection| {
            let (arrow, now_ms) = (ending.event().arrow(), time.now_ms());
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
                .bind(reason)
                .bind(record.epoch)
                .bind(record.accepted_ms)
                .bind(now_ms)
                .bind(now_ms)
                .bind(record.reference.as_ref().map(Reference::as_str))
                .execute(&mut *connection)
                .await
                .map_err(|error| failed(CONTEXT, error))?;
            if inserted.rows_affected() == 0 {
                return Ok(None);
            }
            let moves = [OrderMove::first(&record, arrow, reason, &own)];
            note_moves(connection, &moves, now_ms).await?;
            tell(connection, &moves, now_ms).await?;
            let found = find(connection, order).await?;
            let found = found.ok_or_else(|| broken(CONTEXT, "a row that was written is not there"))?;
            let decision = give_back(connection, &found, true).await?;
            Ok(Some(Moved::Done { order: Box::new(found), decision }))
        };
        match self.sqlite.writer.write(CONTEXT, work).await? {
            Some(moved) => Ok(moved),
            // The order writer was quicker.
            None => self.change(order, ending.event(), mover).await,
        }
    }

    async fn overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>> {
        const OVERDUE: &str = "SELECT order_id FROM orders o WHERE state = ? AND expires_ms < ? AND NOT EXISTS \
             (SELECT 1 FROM payments p WHERE p.order_id = o.order_id AND p.state = ? \
             AND (p.closing_ms >= ? OR p.asks < ? AND p.closing_ms >= ?)) LIMIT ?";
        let (now_ms, grace) = (self.sqlite.time.now_ms(), orders.grace);
        let rows = sqlx::query(OVERDUE)
            .bind(OrderState::AwaitingPayment.as_str())
            .bind(before(now_ms, grace.ms))
            .bind(PaymentState::Closing.as_str())
            .bind(before(now_ms, grace.closing_ms))
            .bind(PaymentState::ASKS_LEAST)
            .bind(before(now_ms, grace.unasked_ms()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed("read overdue orders", error))?;
        rows.iter().map(|row| parsed(row, "order_id", OrderId::parse)).collect()
    }

    async fn expire(&self, _: Instance, orders: &[OrderId], grace: Grace) -> StoreResult<Vec<Order>> {
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
                .bind(before(now_ms, grace.ms))
                .fetch_all(&mut *connection)
                .await
                .map_err(|error| failed(CONTEXT, error))?;
            let mut expired = Vec::new();
            for row in &rows {
                let order = read(row)?;
                if !must_wait(connection, order.id, now_ms, grace).await? {
                    let expire = (OrderEvent::Expire.arrow(), true, &Mover::EXPIRY);
                    if let Moved::Done { order, .. } = follow(connection, expire, order, now_ms).await? {
                        expired.push(*order);
                    }
                }
            }
            Ok(expired)
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }
}

fn before(now_ms: i64, ms: u64) -> i64 {
    now_ms.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Begins to close the open payments of an overdue order. Answers whether the order has to wait for one.
async fn must_wait(
    connection: &mut SqliteConnection,
    order: OrderId,
    now_ms: i64,
    grace: Grace,
) -> StoreResult<bool> {
    for payment in sqlite_payments::read_all(connection, order).await? {
        begin_closing(connection, payment.request.id, now_ms).await?;
    }
    let text = "SELECT closing_ms, asks FROM payments WHERE order_id = ? AND state = ?";
    let query = sqlx::query(text).bind(order.to_string()).bind(PaymentState::Closing.as_str());
    for row in query.fetch_all(connection).await.map_err(|error| failed(CONTEXT, error))? {
        let closing_for_ms = now_ms.saturating_sub(column(&row, "closing_ms")?);
        if grace.keeps(u64::try_from(closing_for_ms).unwrap_or(0), number(&row, "asks")?) {
            return Ok(true);
        }
    }
    Ok(false)
}
