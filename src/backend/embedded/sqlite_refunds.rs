//! Keeps the refunds of captures.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_order_moves::{find, follow};
use super::sqlite_rows::{change_one, column, failed, number, parsed};
use crate::backend::readable::readable;
use crate::domain::order_life::{OrderEvent, Step};
use crate::domain::payment::{RefundKey, RefundReason, RefundState};
use crate::domain::{Capture, Instance, Money, Mover, OrderId, PaymentId, PaymentRequest, Refund};
use crate::ports::{Moved, RefundStep, Refunds, StoreResult};

const CONTEXT: &str = "change refund";
const READ: &str = "read refunds";
const OF_ORDER: &str = "SELECT order_id, attempt, amount, currency, capture, reason, state, tries FROM refunds \
     WHERE order_id = ?";
const OWE: &str = "INSERT INTO refunds \
     (order_id, attempt, amount, currency, capture, reason, state, created_ms, next_ms) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)";
/// The refund of an orphan has no order.
const DUE: &str = "SELECT order_id, attempt, amount, currency, capture, reason, state, tries, next_ms FROM refunds \
     WHERE next_ms <= ?1 UNION ALL \
     SELECT NULL, NULL, amount, currency, capture, 'unknown_order', state, tries, next_ms FROM orphan_captures \
     WHERE state <> 'waiting' AND next_ms <= ?1 ORDER BY next_ms LIMIT ?2";
/// The first two go through the indexes of `refunds`: of what has failed, and of what the provider is asked about.
const STUCK: &str = "SELECT (SELECT COUNT(*) FROM refunds WHERE state = 'failed') \
     + (SELECT COUNT(*) FROM refunds WHERE next_ms IS NOT NULL AND created_ms < ?1) \
     + (SELECT COUNT(*) FROM orphan_captures WHERE state = 'failed' \
        OR next_ms IS NOT NULL AND state <> 'waiting' AND created_ms < ?1)";
const PAID_BY: &str = "SELECT p.attempt, p.capture, p.request FROM payments p LEFT JOIN refunds r \
     ON r.order_id = p.order_id AND r.attempt = p.attempt \
     WHERE p.order_id = ? AND p.state = 'captured' AND r.order_id IS NULL";

/// Serves refunds from the database.
pub struct SqliteRefunds {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl Refunds for SqliteRefunds {
    async fn refund_order(&self, id: OrderId, restock: bool, mover: &Mover<'_>) -> StoreResult<Moved> {
        let (time, mover) = (self.sqlite.time.clone(), mover.clone().into_owned());
        let work = async move |connection: &mut SqliteConnection| {
            let now_ms = time.now_ms();
            let Some(order) = find(connection, id).await? else { return Ok(Moved::Absent) };
            let arrow = match order.state.on(OrderEvent::Refund) {
                Step::Follows(arrow) => arrow,
                Step::Repeated => return Ok(Moved::Repeated(Box::new(order))),
                Step::Conflict => return Ok(Moved::Refused(Box::new(order))),
            };
            if let Some((payment, capture)) = paid_by(connection, id).await? {
                owe(connection, payment, &capture, RefundReason::Operator, now_ms).await?;
            }
            follow(connection, (arrow, restock, &mover), order, now_ms).await
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn due(&self, _: Instance, limit: usize) -> StoreResult<Vec<Refund>> {
        let now_ms = self.sqlite.time.now_ms();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = sqlx::query(DUE).bind(now_ms).bind(limit).fetch_all(self.sqlite.readers()).await;
        let mut due = Vec::new();
        for row in rows.map_err(|error| failed(READ, error))? {
            let again_ms = now_ms.saturating_add(Refund::asked_again_ms(number(&row, "tries")?));
            due.push((
                key_of(&row)?,
                column::<i64>(&row, "next_ms")?,
                again_ms,
                readable("refunds", read(&row)),
            ));
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let work = async move |connection: &mut SqliteConnection| {
            let mut taken = Vec::new();
            for (key, next_ms, again_ms, refund) in &due {
                let set = "next_ms = ?, tries = tries + 1";
                let condition = format!("AND next_ms = {next_ms}");
                let is_found = update(connection, key, (set, Some(*again_ms)), &condition).await?;
                taken.extend(refund.clone().filter(|_| is_found));
            }
            Ok(taken)
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn advance(&self, step: &RefundStep<'_>) -> StoreResult<bool> {
        let (key, time) = (step.key.clone(), self.sqlite.time.clone());
        let wait = step.again_in.map(|wait| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        let set = format!("next_ms = ?, state = '{}'", step.to.as_str());
        let from: Vec<String> = step.from.iter().map(|state| format!("'{}'", state.as_str())).collect();
        let condition = format!("AND state IN ({})", from.join(","));
        let capture = step.capture.map(str::to_owned);
        let work = async move |connection: &mut SqliteConnection| {
            if let (RefundKey::Payment(payment), Some(capture)) = (&key, &capture)
                && !is_of_capture(connection, *payment, capture).await?
            {
                return Ok(false);
            }
            let next_ms = wait.map(|wait| time.now_ms().saturating_add(wait));
            update(connection, &key, (&set, next_ms), &condition).await
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn stuck(&self, _: Instance) -> StoreResult<u64> {
        let before_ms = self.sqlite.time.now_ms().saturating_sub(Refund::OVERDUE_MS);
        let count = sqlx::query_scalar(STUCK).bind(before_ms).fetch_one(self.sqlite.readers()).await;
        count.map(i64::unsigned_abs).map_err(|error| failed(READ, error))
    }
}

/// Answers whether the refund of a payment is of a capture.
async fn is_of_capture(
    connection: &mut SqliteConnection,
    payment: PaymentId,
    capture: &str,
) -> StoreResult<bool> {
    let text = "SELECT EXISTS(SELECT 1 FROM refunds WHERE order_id = ? AND attempt = ? AND capture = ?)";
    let query = sqlx::query_scalar(text).bind(payment.order.to_string()).bind(payment.attempt).bind(capture);
    query.fetch_one(connection).await.map_err(|error| failed(CONTEXT, error))
}

/// Updates the row of a refund. `set` begins with the time at which the provider is asked next. Answers whether there
/// was one that fits.
async fn update(
    connection: &mut SqliteConnection,
    key: &RefundKey,
    (set, next_ms): (&str, Option<i64>),
    condition: &str,
) -> StoreResult<bool> {
    let updated = match key {
        RefundKey::Payment(payment) => {
            let text = format!("UPDATE refunds SET {set} WHERE order_id = ? AND attempt = ? {condition}");
            let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(next_ms);
            query.bind(payment.order.to_string()).bind(payment.attempt).execute(connection).await
        }
        RefundKey::Orphan(reference) => {
            let text = format!("UPDATE orphan_captures SET {set} WHERE capture = ? {condition}");
            sqlx::query(sqlx::AssertSqlSafe(text)).bind(next_ms).bind(reference).execute(connection).await
        }
    };
    Ok(updated.map_err(|error| failed(CONTEXT, error))?.rows_affected() == 1)
}

/// Finds the capture that paid an order: the one that is not paid back. An order of amount 0 has none.
async fn paid_by(
    connection: &mut SqliteConnection,
    order: OrderId,
) -> StoreResult<Option<(PaymentId, Capture)>> {
    let row = sqlx::query(PAID_BY).bind(order.to_string()).fetch_optional(connection).await;
    let Some(row) = row.map_err(|error| failed(CONTEXT, error))? else { return Ok(None) };
    let payment = PaymentId { order, attempt: number(&row, "attempt")? };
    let request: &str = column(&row, "request")?;
    let request: PaymentRequest =
        serde_json::from_str(request).map_err(|error| broken(CONTEXT, error.to_string()))?;
    let reference = column(&row, "capture")?;
    Ok(Some((payment, Capture { payment: payment.to_string(), amount: request.amount, reference })))
}

/// Writes that a capture of a payment is paid back, in the transaction of what makes it so.
///
/// # Errors
/// When the statement fails, also when the payment has a refund.
pub async fn owe(
    connection: &mut SqliteConnection,
    payment: PaymentId,
    capture: &Capture,
    reason: RefundReason,
    now_ms: i64,
) -> StoreResult<()> {
    let query = sqlx::query(OWE)
        .bind(payment.order.to_string())
        .bind(payment.attempt)
        .bind(capture.amount.amount())
        .bind(capture.amount.currency())
        .bind(&capture.reference)
        .bind(reason.as_str())
        .bind(RefundState::Owed.as_str())
        .bind(now_ms);
    change_one(connection, query).await
}

/// Reads the refunds of an order's payments. One that this version cannot read is passed over.
///
/// # Errors
/// When the database does not answer.
pub async fn read_of(sqlite: &Sqlite, order: OrderId) -> StoreResult<Vec<Refund>> {
    let rows = sqlx::query(OF_ORDER).bind(order.to_string()).fetch_all(sqlite.readers()).await;
    let rows = rows.map_err(|error| failed(READ, error))?;
    Ok(rows.iter().filter_map(|row| readable("refunds", read(row))).collect())
}

/// Reads the amount of a row.
///
/// # Errors
/// When the row is damaged.
pub fn money(row: &SqliteRow) -> StoreResult<Money> {
    let money = Money::new(column(row, "amount")?, column(row, "currency")?);
    money.map_err(|error| broken(READ, error.to_string()))
}

fn key_of(row: &SqliteRow) -> StoreResult<RefundKey> {
    Ok(match column::<Option<&str>>(row, "order_id")? {
        None => RefundKey::Orphan(column(row, "capture")?),
        Some(_) => RefundKey::Payment(PaymentId {
            order: parsed(row, "order_id", OrderId::parse)?,
            attempt: number(row, "attempt")?,
        }),
    })
}

fn read(row: &SqliteRow) -> StoreResult<Refund> {
    let (state, reason): (&str, &str) = (column(row, "state")?, column(row, "reason")?);
    Ok(Refund {
        key: key_of(row)?,
        amount: money(row)?,
        capture: column(row, "capture")?,
        reason: RefundReason::parse(reason).ok_or_else(|| broken(READ, reason))?,
        state: RefundState::parse(state).ok_or_else(|| broken(READ, state))?,
        tries: number(row, "tries")?,
    })
}
