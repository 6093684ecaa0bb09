//! Takes what was captured: it pays its order, or a refund is owed. Captures that no payment explains are kept.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_order_moves::{find, follow};
use super::sqlite_payments::{begin_closing, read_all};
use super::sqlite_refunds::{money, owe};
use super::sqlite_rows::{change_one, column, failed, number};
use crate::backend::readable::readable;
use crate::domain::order_life::{OrderEvent, Step};
use crate::domain::payment::{RefundReason, RefundState};
use crate::domain::{Capture, Mover, Order, PaymentId, PaymentRequest, Refund};
use crate::ports::{Captures, Moved, Orphan, StoreResult, Taken};

const CONTEXT: &str = "take capture";
const ORPHANS: &str = "keep orphan captures";
const KNOWN: &str = "SELECT capture, request FROM payments WHERE order_id = ? AND attempt = ?";
const CAPTURED: &str = "UPDATE payments SET state = 'captured', capture = ?, ask_ms = NULL \
     WHERE order_id = ? AND attempt = ?";
const NOTE: &str = "INSERT INTO payment_events (event_id, order_id, attempt, outcome, at_ms) \
     VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET event_id = excluded.event_id";
const KEEP: &str = "INSERT INTO orphan_captures (capture, payment, amount, currency, state, created_ms, next_ms) \
     VALUES (?1, ?2, ?3, ?4, 'waiting', ?5, ?5) ON CONFLICT DO NOTHING";
const DUE: &str = "SELECT capture, payment, amount, currency, created_ms, tries, next_ms FROM orphan_captures \
     WHERE state = 'waiting' AND next_ms <= ? ORDER BY next_ms LIMIT ?";
const TRIED: &str =
    "UPDATE orphan_captures SET next_ms = ?, tries = tries + 1 WHERE capture = ? AND next_ms = ?";
const OWED: &str = "UPDATE orphan_captures SET state = ?1, created_ms = ?2, next_ms = ?2, tries = 0 \
     WHERE capture = ?3 AND state = 'waiting'";

/// Takes captures in the database.
pub struct SqliteCaptures {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl Captures for SqliteCaptures {
    async fn take(&self, event: Option<&str>, payment: PaymentId, capture: &Capture) -> StoreResult<Taken> {
        let (event, capture) = (event.map(str::to_owned), capture.clone());
        let time = self.sqlite.time.clone();
        let work = async move |connection: &mut SqliteConnection| {
            let now_ms = time.now_ms();
            let Some(order) = find(connection, payment.order).await? else { return Ok(Taken::Unknown) };
            let Some((known, request)) = known(connection, payment).await? else {
                return Ok(Taken::Unknown);
            };
            if let Some(known) = known {
                // A second capture of one payment is money that no payment explains.
                return Ok(if known == capture.reference { Taken::Repeated } else { Taken::Unknown });
            }
            let query = sqlx::query(CAPTURED).bind(&capture.reference).bind(payment.order.to_string());
            change_one(connection, query.bind(payment.attempt)).await?;
            let taken = decide(connection, order, (&request, &capture), now_ms).await?;
            let outcome = match &taken {
                Taken::Owed(reason) => reason.as_str(),
                _ => "paid",
            };
            if let Some(event) = &event {
                let query = sqlx::query(NOTE).bind(event).bind(payment.order.to_string());
                change_one(connection, query.bind(payment.attempt).bind(outcome).bind(now_ms)).await?;
            }
            Ok(taken)
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn keep_orphan(&self, capture: &Capture) -> StoreResult<()> {
        let (capture, time) = (capture.clone(), self.sqlite.time.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let kept = sqlx::query(KEEP)
                .bind(&capture.reference)
                .bind(&capture.payment)
                .bind(capture.amount.amount())
                .bind(capture.amount.currency())
                .bind(time.now_ms())
                .execute(connection)
                .await;
            kept.map(drop).map_err(|error| failed(ORPHANS, error))
        };
        self.sqlite.writer.write(ORPHANS, work).await
    }

    async fn orphans_due(&self, limit: usize) -> StoreResult<Vec<Orphan>> {
        let now_ms = self.sqlite.time.now_ms();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = sqlx::query(DUE).bind(now_ms).bind(limit).fetch_all(self.sqlite.readers()).await;
        let orphan = |row: &SqliteRow| -> StoreResult<Orphan> {
            let capture = Capture {
                payment: column(row, "payment")?,
                amount: money(row)?,
                reference: column(row, "capture")?,
            };
            Ok(Orphan { capture, age_ms: now_ms.saturating_sub(column(row, "created_ms")?) })
        };
        let mut due = Vec::new();
        for row in rows.map_err(|error| failed(ORPHANS, error))? {
            let again_ms = now_ms.saturating_add(Refund::asked_again_ms(number(&row, "tries")?));
            let (reference, next_ms): (String, i64) = (column(&row, "capture")?, column(&row, "next_ms")?);
            due.push((reference, next_ms, again_ms, readable("orphan_captures", orphan(&row))));
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let work = async move |connection: &mut SqliteConnection| {
            let mut taken = Vec::new();
            for (reference, next_ms, again_ms, orphan) in &due {
                let query = sqlx::query(TRIED).bind(again_ms).bind(reference).bind(next_ms);
                let tried = query.execute(&mut *connection).await.map_err(|error| failed(ORPHANS, error))?;
                taken.extend(orphan.clone().filter(|_| tried.rows_affected() == 1));
            }
            Ok(taken)
        };
        self.sqlite.writer.write(ORPHANS, work).await
    }

    async fn owe_orphan(&self, capture: &Capture) -> StoreResult<()> {
        let (reference, time) = (capture.reference.clone(), self.sqlite.time.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let query =
                sqlx::query(OWED).bind(RefundState::Owed.as_str()).bind(time.now_ms()).bind(&reference);
            query.execute(connection).await.map(drop).map_err(|error| failed(ORPHANS, error))
        };
        self.sqlite.writer.write(ORPHANS, work).await
    }

    async fn forget_orphan(&self, capture: &Capture) -> StoreResult<()> {
        let reference = capture.reference.clone();
        let work = async move |connection: &mut SqliteConnection| {
            let text = "DELETE FROM orphan_captures WHERE capture = ? AND state = 'waiting'";
            let deleted = sqlx::query(text).bind(&reference).execute(connection).await;
            deleted.map(drop).map_err(|error| failed(ORPHANS, error))
        };
        self.sqlite.writer.write(ORPHANS, work).await
    }
}

/// Reads the capture of a payment, if it has one, and its request; `None` when it has no row.
async fn known(
    connection: &mut SqliteConnection,
    payment: PaymentId,
) -> StoreResult<Option<(Option<String>, PaymentRequest)>> {
    let query = sqlx::query(KNOWN).bind(payment.order.to_string()).bind(payment.attempt);
    let row = query.fetch_optional(connection).await.map_err(|error| failed(CONTEXT, error))?;
    let Some(row) = row else { return Ok(None) };
    let request: &str = column(&row, "request")?;
    let request = serde_json::from_str(request).map_err(|error| broken(CONTEXT, error.to_string()))?;
    Ok(Some((column(&row, "capture")?, request)))
}

/// Pays the order, or owes the capture back.
async fn decide(
    connection: &mut SqliteConnection,
    order: Order,
    (request, capture): (&PaymentRequest, &Capture),
    now_ms: i64,
) -> StoreResult<Taken> {
    let reason = match order.state.on(OrderEvent::Pay) {
        _ if capture.amount != request.amount => RefundReason::OtherAmount,
        Step::Follows(arrow) => {
            for other in read_all(connection, order.id).await? {
                begin_closing(connection, other.request.id, now_ms).await?;
            }
            let pay = (arrow, true, &Mover::PAYMENT_PROVIDER);
            return match follow(connection, pay, order, now_ms).await? {
                Moved::Done { order, decision } => Ok(Taken::Paid { order, decision }),
                _ => Err(broken(CONTEXT, "an order that could be paid was not")),
            };
        }
        Step::Repeated => RefundReason::PaidBefore,
        Step::Conflict => RefundReason::OrderEnded,
    };
    owe(connection, request.id, capture, reason, now_ms).await?;
    Ok(Taken::Owed(reason))
}
