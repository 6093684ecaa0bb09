//! Takes what was captured: in one transaction it pays its order, or a refund is owed. The captures that no payment
//! explains are kept in the directory.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row};

use super::mysql::{Mysql, failed};
use super::mysql_order_moves::{Along, MysqlOrderMoves, Tx};
use super::mysql_text::NOW_MS;
use super::{mysql_payments, mysql_refunds};
use crate::backend::readable::readable;
use crate::domain::order_life::{OrderEvent, Step};
use crate::domain::payment::{RefundReason, RefundState};
use crate::domain::{Capture, Money, Mover, Order, PaymentId, PaymentRequest, Refund};
use crate::ports::{Captures, Orphan, StoreError, StoreResult, Taken};

const CONTEXT: &str = "take capture";
const ORPHANS: &str = "keep orphan captures";

/// Takes captures in the shards of their orders.
pub struct MysqlCaptures {
    mysql: Arc<Mysql>,
    moves: MysqlOrderMoves,
}

impl MysqlCaptures {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { moves: MysqlOrderMoves { mysql: mysql.clone() }, mysql }
    }

    async fn take_in(
        &self,
        event: Option<&str>,
        payment: PaymentId,
        capture: &Capture,
    ) -> StoreResult<Taken> {
        let mut tx = self.mysql.begin(self.mysql.map.instance_of(payment.order.shard()), CONTEXT).await?;
        // The order is locked first, by everybody who changes it or its payments.
        let Some(order) = self.moves.lock(payment.order, &mut tx).await? else { return Ok(Taken::Unknown) };
        let Some((known, request)) = self.lock_payment(payment, &mut tx).await? else {
            return Ok(Taken::Unknown);
        };
        if let Some(known) = known {
            // A second capture of one payment is money that no payment explains.
            return Ok(if known == capture.reference { Taken::Repeated } else { Taken::Unknown });
        }
        let taken = self.decide(order, &request, capture, &mut tx).await?;
        self.mark_captured(payment, capture, &mut tx).await?;
        let outcome = match &taken {
            Taken::Owed(reason) => reason.as_str(),
            _ => {
                self.close_others(payment, &mut tx).await?;
                "paid"
            }
        };
        if let Some(event) = event {
            self.note_event(event, payment, outcome, &mut tx).await?;
        }
        tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
        Ok(taken)
    }

    /// Pays the order, or owes the capture back.
    async fn decide(
        &self,
        mut order: Order,
        request: &PaymentRequest,
        capture: &Capture,
        tx: &mut Tx,
    ) -> StoreResult<Taken> {
        let reason = match order.state.on(OrderEvent::Pay) {
            _ if capture.amount != request.amount => RefundReason::OtherAmount,
            Step::Follows(arrow) => {
                let at = self.mysql.map.instance_of(order.id.shard());
                let one = std::slice::from_ref(&order);
                let mover = &Mover::PAYMENT_PROVIDER;
                let along = Along { arrow, restock: true, mover, times: None };
                let decided = self.moves.follow(at, along, one, tx).await?;
                let decision = *decided.first().ok_or_else(|| StoreError::broken(CONTEXT, "no decision"))?;
                order.state = arrow.to;
                return Ok(Taken::Paid { order: Box::new(order), decision });
            }
            Step::Repeated => RefundReason::PaidBefore,
            Step::Conflict => RefundReason::OrderEnded,
        };
        mysql_refunds::owe(&self.mysql, request.id, capture, reason, tx).await?;
        Ok(Taken::Owed(reason))
    }

    /// Locks a payment. Answers its capture, if it has one, and its request; `None` when it has no row.
    async fn lock_payment(
        &self,
        payment: PaymentId,
        tx: &mut Tx,
    ) -> StoreResult<Option<(Option<String>, PaymentRequest)>> {
        let fault = |error| failed(CONTEXT, error);
        let text = format!(
            "SELECT capture, request FROM {}.payments WHERE order_id = ? AND attempt = ? FOR UPDATE",
            self.mysql.shard(payment.order.shard())
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(payment.order.bytes().as_slice());
        let row = query.bind(payment.attempt).fetch_optional(&mut **tx).await.map_err(fault)?;
        let Some(row) = row else { return Ok(None) };
        let (known, request): (Option<Vec<u8>>, String) =
            (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?);
        let known = known.map(|known| String::from_utf8_lossy(&known).into_owned());
        let request = serde_json::from_str(&request);
        Ok(Some((known, request.map_err(|error| StoreError::broken(CONTEXT, error.to_string()))?)))
    }

    async fn mark_captured(&self, payment: PaymentId, capture: &Capture, tx: &mut Tx) -> StoreResult<()> {
        let text = format!(
            "UPDATE {}.payments SET state = 'captured', capture = ?, ask_ms = NULL \
             WHERE order_id = ? AND attempt = ?",
            self.mysql.shard(payment.order.shard())
        );
        let marked = sqlx::query(AssertSqlSafe(text))
            .bind(capture.reference.as_bytes())
            .bind(payment.order.bytes().as_slice())
            .bind(payment.attempt)
            .execute(&mut **tx)
            .await;
        marked.map(drop).map_err(|error| failed(CONTEXT, error))
    }

    /// Begins to close what else was opened for an order that is paid.
    async fn close_others(&self, payment: PaymentId, tx: &mut Tx) -> StoreResult<()> {
        let text = mysql_payments::closing_others(&self.mysql, payment.order.shard());
        let query = sqlx::query(text).bind(payment.order.bytes().as_slice()).bind(payment.attempt);
        let begun = query.execute(&mut **tx).await;
        begun.map(drop).map_err(|error| failed(CONTEXT, error))
    }

    /// Notes the provider's event. One whose id is known has told of another payment: a provider that has lost its
    /// books begins with its numbers anew. The payment decides what is taken.
    async fn note_event(
        &self,
        event: &str,
        payment: PaymentId,
        outcome: &str,
        tx: &mut Tx,
    ) -> StoreResult<()> {
        let text = format!(
            "INSERT INTO {}.payment_events (event_id, order_id, attempt, outcome, node, at_ms) \
             VALUES (?, ?, ?, ?, ?, {NOW_MS}) ON DUPLICATE KEY UPDATE event_id = VALUES(event_id)",
            self.mysql.shard(payment.order.shard())
        );
        let noted = sqlx::query(AssertSqlSafe(text))
            .bind(event.as_bytes())
            .bind(payment.order.bytes().as_slice())
            .bind(payment.attempt)
            .bind(outcome)
            .bind(self.mysql.node.mark().bytes().as_slice())
            .execute(&mut **tx)
            .await;
        noted.map(drop).map_err(|error| failed(CONTEXT, error))
    }

    async fn insert_orphan(&self, capture: &Capture) -> StoreResult<()> {
        let text = format!(
            "INSERT INTO {{directory}}.orphan_captures \
             (capture, payment, amount, currency, state, created_ms, next_ms) \
             VALUES (?, ?, ?, ?, 'waiting', {NOW_MS}, {NOW_MS}) ON DUPLICATE KEY UPDATE capture = VALUES(capture)"
        );
        let kept = sqlx::query(self.mysql.directory_sql(&text))
            .bind(capture.reference.as_bytes())
            .bind(capture.payment.as_bytes())
            .bind(capture.amount.amount())
            .bind(capture.amount.currency())
            .execute(self.mysql.directory_pool())
            .await;
        kept.map(drop).map_err(|error| failed(ORPHANS, error))
    }

    async fn take_orphans(&self, limit: usize) -> StoreResult<Vec<Orphan>> {
        let fault = |error| failed(ORPHANS, error);
        let text = format!(
            "SELECT capture, payment, amount, currency, {NOW_MS} - created_ms, tries, next_ms \
             FROM {{directory}}.orphan_captures WHERE state = 'waiting' AND next_ms <= {NOW_MS} \
             ORDER BY next_ms LIMIT {limit}"
        );
        let rows = sqlx::query(self.mysql.directory_sql(&text)).fetch_all(self.mysql.directory_pool()).await;
        let mut due = Vec::new();
        for row in rows.map_err(fault)? {
            let reference: Vec<u8> = row.try_get(0).map_err(fault)?;
            let (tries, next_ms): (i32, i64) =
                (row.try_get(5).map_err(fault)?, row.try_get(6).map_err(fault)?);
            let again_ms = Refund::asked_again_ms(u32::try_from(tries).unwrap_or(0));
            if !self.postpone(&reference, next_ms, again_ms).await? {
                continue;
            }
            due.extend(readable("orphan_captures", orphan(&row)));
        }
        Ok(due)
    }

    async fn owe(&self, capture: &Capture) -> StoreResult<()> {
        let text = format!(
            "UPDATE {{directory}}.orphan_captures SET state = '{}', created_ms = {NOW_MS}, next_ms = {NOW_MS}, tries = 0 \
             WHERE capture = ? AND state = 'waiting'",
            RefundState::Owed.as_str()
        );
        let query = sqlx::query(self.mysql.directory_sql(&text)).bind(capture.reference.as_bytes());
        let owed = query.execute(self.mysql.directory_pool()).await;
        owed.map(drop).map_err(|error| failed(ORPHANS, error))
    }

    /// Makes an orphan due later. Answers `false` when another process was quicker.
    async fn postpone(&self, reference: &[u8], next_ms: i64, again_ms: i64) -> StoreResult<bool> {
        let text = format!(
            "UPDATE {{directory}}.orphan_captures SET next_ms = {NOW_MS} + ?, tries = tries + 1 \
             WHERE capture = ? AND next_ms = ?"
        );
        let query = sqlx::query(self.mysql.directory_sql(&text)).bind(again_ms).bind(reference).bind(next_ms);
        let taken = query.execute(self.mysql.directory_pool()).await;
        Ok(taken.map_err(|error| failed(ORPHANS, error))?.rows_affected() == 1)
    }

    async fn delete_orphan(&self, capture: &Capture) -> StoreResult<()> {
        let text = "DELETE FROM {directory}.orphan_captures WHERE capture = ? AND state = 'waiting'";
        let query = sqlx::query(self.mysql.directory_sql(text)).bind(capture.reference.as_bytes());
        let deleted = query.execute(self.mysql.directory_pool()).await;
        deleted.map(drop).map_err(|error| failed(ORPHANS, error))
    }
}

fn orphan(row: &MySqlRow) -> StoreResult<Orphan> {
    let fault = |error| failed(ORPHANS, error);
    let (reference, payment): (Vec<u8>, Vec<u8>) =
        (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?);
    let currency: String = row.try_get(3).map_err(fault)?;
    let amount = Money::new(row.try_get(2).map_err(fault)?, &currency);
    Ok(Orphan {
        capture: Capture {
            payment: String::from_utf8_lossy(&payment).into_owned(),
            amount: amount.map_err(|error| StoreError::broken(ORPHANS, error.to_string()))?,
            reference: String::from_utf8_lossy(&reference).into_owned(),
        },
        age_ms: row.try_get(4).map_err(fault)?,
    })
}

#[async_trait]
impl Captures for MysqlCaptures {
    async fn take(&self, event: Option<&str>, payment: PaymentId, capture: &Capture) -> StoreResult<Taken> {
        if !self.mysql.map.holds(payment.order.shard()) {
            return Ok(Taken::Unknown);
        }
        let at = self.mysql.map.instance_of(payment.order.shard());
        self.mysql.change(at, CONTEXT, self.take_in(event, payment, capture)).await
    }

    async fn keep_orphan(&self, capture: &Capture) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, ORPHANS, self.insert_orphan(capture)).await
    }

    async fn orphans_due(&self, limit: usize) -> StoreResult<Vec<Orphan>> {
        self.mysql.change(Mysql::DIRECTORY, ORPHANS, self.take_orphans(limit)).await
    }

    async fn owe_orphan(&self, capture: &Capture) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, ORPHANS, self.owe(capture)).await
    }

    async fn forget_orphan(&self, capture: &Capture) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, ORPHANS, self.delete_orphan(capture)).await
    }
}
