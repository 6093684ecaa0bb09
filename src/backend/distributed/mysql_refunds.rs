//! Keeps the refunds of captures: those of payments in the shards of their orders, those of orphans in the directory.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, MySqlConnection, Row};

use super::mysql::{Mysql, failed};
use super::mysql_order_moves::{Along, MysqlOrderMoves, Tx};
use super::mysql_text::{NOW_MS, push_bytes};
use crate::backend::readable::readable;
use crate::domain::order_life::{OrderEvent, Step};
use crate::domain::payment::{RefundKey, RefundReason, RefundState};
use crate::domain::{Capture, Instance, Money, Mover, OrderId, PaymentId, PaymentRequest, Refund};
use crate::ports::{Moved, RefundStep, Refunds, StoreError, StoreResult};

const CONTEXT: &str = "change refund";
const READ: &str = "read refunds";

/// The columns that [`read`] reads.
const COLUMNS: &str = "order_id, attempt, amount, currency, capture, reason, state, tries, next_ms";

/// Serves refunds from the shards and the directory.
pub struct MysqlRefunds {
    mysql: Arc<Mysql>,
    moves: MysqlOrderMoves,
}

impl MysqlRefunds {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { moves: MysqlOrderMoves { mysql: mysql.clone() }, mysql }
    }

    async fn refund(&self, id: OrderId, restock: bool, mover: &Mover<'_>) -> StoreResult<Moved> {
        let at = self.mysql.map.instance_of(id.shard());
        let mut tx = self.mysql.begin(at, CONTEXT).await?;
        let Some(mut order) = self.moves.lock(id, &mut tx).await? else { return Ok(Moved::Absent) };
        let arrow = match order.state.on(OrderEvent::Refund) {
            Step::Follows(arrow) => arrow,
            Step::Repeated => return Ok(Moved::Repeated(Box::new(order))),
            Step::Conflict => return Ok(Moved::Refused(Box::new(order))),
        };
        if let Some((payment, capture)) = self.paid_by(id, &mut tx).await? {
            owe(&self.mysql, payment, &capture, RefundReason::Operator, &mut tx).await?;
        }
        let one = std::slice::from_ref(&order);
        let along = Along { arrow, restock, mover, times: None };
        let decided = self.moves.follow(at, along, one, &mut tx).await?;
        let decision = *decided.first().ok_or_else(|| StoreError::broken(CONTEXT, "no decision"))?;
        tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
        order.state = arrow.to;
        Ok(Moved::Done { order: Box::new(order), decision })
    }

    /// Finds the capture that paid an order: the one that is not paid back. An order of amount 0 has none.
    async fn paid_by(&self, order: OrderId, tx: &mut Tx) -> StoreResult<Option<(PaymentId, Capture)>> {
        let fault = |error| failed(CONTEXT, error);
        let shard = self.mysql.shard(order.shard());
        let text = format!(
            "SELECT p.attempt, p.capture, p.request FROM {shard}.payments p LEFT JOIN {shard}.refunds r \
             ON r.order_id = p.order_id AND r.attempt = p.attempt \
             WHERE p.order_id = ? AND p.state = 'captured' AND r.order_id IS NULL"
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(order.bytes().as_slice());
        let Some(row) = query.fetch_optional(&mut **tx).await.map_err(fault)? else { return Ok(None) };
        let (attempt, capture): (i32, Vec<u8>) =
            (row.try_get(0).map_err(fault)?, row.try_get(1).map_err(fault)?);
        let request: String = row.try_get(2).map_err(fault)?;
        let request: PaymentRequest =
            serde_json::from_str(&request).map_err(|error| StoreError::broken(CONTEXT, error.to_string()))?;
        let payment = payment_id(order.bytes().to_vec(), attempt)?;
        let capture = Capture {
            payment: payment.to_string(),
            amount: request.amount,
            reference: String::from_utf8_lossy(&capture).into_owned(),
        };
        Ok(Some((payment, capture)))
    }

    async fn take_due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Refund>> {
        let fault = |error| failed(READ, error);
        let each = self.mysql.map.shards_of(at).map(|shard| {
            format!(
                "(SELECT {COLUMNS} FROM {}.refunds WHERE next_ms <= {NOW_MS} ORDER BY next_ms LIMIT {limit})",
                self.mysql.shard(shard)
            )
        });
        let text = format!("{} ORDER BY next_ms LIMIT {limit}", each.collect::<Vec<_>>().join(" UNION ALL "));
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(self.mysql.pool(at)).await;
        let mut due = Vec::new();
        for row in rows.map_err(fault)? {
            self.take_one(key_of(&row)?, &row, ("refunds", &mut due)).await?;
        }
        if at == Mysql::DIRECTORY {
            for row in self.orphans(limit).await? {
                let reference: Vec<u8> = row.try_get("capture").map_err(fault)?;
                let key = RefundKey::Orphan(String::from_utf8_lossy(&reference).into_owned());
                self.take_one(key, &row, ("orphan_captures", &mut due)).await?;
            }
        }
        Ok(due)
    }

    /// Takes a row, unless another process was quicker. One that cannot be read is passed over.
    async fn take_one(
        &self,
        key: RefundKey,
        row: &MySqlRow,
        (table, due): (&'static str, &mut Vec<Refund>),
    ) -> StoreResult<()> {
        let fault = |error| failed(READ, error);
        let tries: i32 = row.try_get("tries").map_err(fault)?;
        let again_ms = Refund::asked_again_ms(u32::try_from(tries).unwrap_or(0));
        let next_ms: i64 = row.try_get("next_ms").map_err(fault)?;
        let set = format!("next_ms = {NOW_MS} + {again_ms}, tries = tries + 1");
        if self.update(&key, &set, &format!("AND next_ms = {next_ms}")).await? {
            due.extend(readable(table, read(row, key)));
        }
        Ok(())
    }

    async fn orphans(&self, limit: usize) -> StoreResult<Vec<MySqlRow>> {
        let text = format!(
            "SELECT capture, amount, currency, 'unknown_order' AS reason, state, tries, next_ms \
             FROM {{directory}}.orphan_captures \
             WHERE state <> 'waiting' AND next_ms <= {NOW_MS} ORDER BY next_ms LIMIT {limit}"
        );
        let rows = sqlx::query(self.mysql.directory_sql(&text)).fetch_all(self.mysql.directory_pool()).await;
        rows.map_err(|error| failed(READ, error))
    }

    async fn count_stuck(&self, at: Instance) -> StoreResult<u64> {
        // The two go through the indexes of `refunds`: of the states, and of what the provider is asked about.
        let count = |table: String| {
            format!(
                "(SELECT COUNT(*) FROM {table} WHERE state = 'failed') + (SELECT COUNT(*) FROM {table} \
                 WHERE next_ms IS NOT NULL AND state <> 'waiting' AND created_ms < {NOW_MS} - {})",
                Refund::OVERDUE_MS
            )
        };
        let shards =
            self.mysql.map.shards_of(at).map(|shard| count(format!("{}.refunds", self.mysql.shard(shard))));
        let mut counts: Vec<String> = shards.collect();
        if at == Mysql::DIRECTORY {
            counts.push(count(format!("{}.orphan_captures", self.mysql.directory())));
        }
        let text = format!("SELECT {}", counts.join(" + "));
        let stuck: i64 = sqlx::query_scalar(AssertSqlSafe(text))
            .fetch_one(self.mysql.readers(at))
            .await
            .map_err(|error| failed(READ, error))?;
        Ok(stuck.unsigned_abs())
    }

    /// Updates the row of a refund. Answers whether there was one that fits.
    async fn update(&self, key: &RefundKey, set: &str, condition: &str) -> StoreResult<bool> {
        let updated = match key {
            RefundKey::Payment(payment) => {
                let shard = payment.order.shard();
                let table = format!("{}.refunds", self.mysql.shard(shard));
                let text = format!("UPDATE {table} SET {set} WHERE order_id = ? AND attempt = ? {condition}");
                let query = sqlx::query(AssertSqlSafe(text)).bind(payment.order.bytes().as_slice());
                query.bind(payment.attempt).execute(self.mysql.pool(self.mysql.map.instance_of(shard))).await
            }
            RefundKey::Orphan(reference) => {
                let table = format!("{}.orphan_captures", self.mysql.directory());
                let text = format!("UPDATE {table} SET {set} WHERE capture = ? {condition}");
                let query = sqlx::query(AssertSqlSafe(text)).bind(reference.as_bytes());
                query.execute(self.mysql.directory_pool()).await
            }
        };
        Ok(updated.map_err(|error| failed(CONTEXT, error))?.rows_affected() == 1)
    }

    fn instance_of(&self, key: &RefundKey) -> Instance {
        match key {
            RefundKey::Payment(payment) => self.mysql.map.instance_of(payment.order.shard()),
            RefundKey::Orphan(_) => Mysql::DIRECTORY,
        }
    }
}

#[async_trait]
impl Refunds for MysqlRefunds {
    async fn refund_order(&self, order: OrderId, restock: bool, mover: &Mover<'_>) -> StoreResult<Moved> {
        if !self.mysql.map.holds(order.shard()) {
            return Ok(Moved::Absent);
        }
        let at = self.mysql.map.instance_of(order.shard());
        self.mysql.change(at, CONTEXT, self.refund(order, restock, mover)).await
    }

    async fn due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Refund>> {
        self.mysql.change(at, CONTEXT, self.take_due(at, limit)).await
    }

    async fn advance(&self, step: &RefundStep<'_>) -> StoreResult<bool> {
        let next = step.again_in.map_or("NULL".to_owned(), |wait| format!("{NOW_MS} + {}", wait.as_millis()));
        let set = format!("state = '{}', next_ms = {next}", step.to.as_str());
        let from: Vec<String> = step.from.iter().map(|state| format!("'{}'", state.as_str())).collect();
        let mut condition = format!("AND state IN ({})", from.join(","));
        if let Some(capture) = step.capture {
            condition.push_str(" AND capture = ");
            push_bytes(&mut condition, capture.as_bytes());
        }
        let update = self.update(step.key, &set, &condition);
        self.mysql.change(self.instance_of(step.key), CONTEXT, update).await
    }

    async fn stuck(&self, at: Instance) -> StoreResult<u64> {
        self.mysql.read(READ, self.count_stuck(at)).await
    }
}

/// Writes that a capture of a payment is paid back, in the transaction of what makes it so.
///
/// # Errors
/// When the statement fails, also when the payment has a refund.
pub async fn owe(
    mysql: &Mysql,
    payment: PaymentId,
    capture: &Capture,
    reason: RefundReason,
    tx: &mut Tx,
) -> StoreResult<()> {
    let text = format!(
        "INSERT INTO {}.refunds \
         (order_id, attempt, amount, currency, capture, reason, state, node, created_ms, next_ms) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, {NOW_MS}, {NOW_MS})",
        mysql.shard(payment.order.shard())
    );
    let owed = sqlx::query(AssertSqlSafe(text))
        .bind(payment.order.bytes().as_slice())
        .bind(payment.attempt)
        .bind(capture.amount.amount())
        .bind(capture.amount.currency())
        .bind(capture.reference.as_bytes())
        .bind(reason.as_str())
        .bind(RefundState::Owed.as_str())
        .bind(mysql.node.mark().bytes().as_slice())
        .execute(&mut **tx)
        .await;
    owed.map(drop).map_err(|error| failed(CONTEXT, error))
}

/// Reads the refunds of an order's payments. One that this version cannot read is passed over.
///
/// # Errors
/// When the database does not answer.
pub async fn read_of(
    mysql: &Mysql,
    order: OrderId,
    connection: &mut MySqlConnection,
) -> StoreResult<Vec<Refund>> {
    let text = format!("SELECT {COLUMNS} FROM {}.refunds WHERE order_id = ?", mysql.shard(order.shard()));
    let query = sqlx::query(AssertSqlSafe(text)).bind(order.bytes().as_slice());
    let rows = query.fetch_all(connection).await.map_err(|error| failed(READ, error))?;
    let all = rows.iter().filter_map(|row| readable("refunds", key_of(row).and_then(|key| read(row, key))));
    Ok(all.collect())
}

fn key_of(row: &MySqlRow) -> StoreResult<RefundKey> {
    let fault = |error| failed(READ, error);
    payment_id(row.try_get("order_id").map_err(fault)?, row.try_get("attempt").map_err(fault)?)
        .map(RefundKey::Payment)
}

/// Makes a payment's id from its columns.
///
/// # Errors
/// When they are not ours.
pub fn payment_id(order: Vec<u8>, attempt: i32) -> StoreResult<PaymentId> {
    let order = OrderId::from_bytes(&order).map_err(|error| StoreError::broken(READ, error.to_string()))?;
    let attempt = u8::try_from(attempt).map_err(|error| StoreError::broken(READ, error.to_string()))?;
    Ok(PaymentId { order, attempt })
}

fn read(row: &MySqlRow, key: RefundKey) -> StoreResult<Refund> {
    let fault = |error| failed(READ, error);
    let broken = |detail: String| StoreError::broken(READ, detail);
    let capture: Vec<u8> = row.try_get("capture").map_err(fault)?;
    let text = |column: &str| row.try_get::<String, _>(column).map_err(fault);
    let (currency, reason, state) = (text("currency")?, text("reason")?, text("state")?);
    let tries: i32 = row.try_get("tries").map_err(fault)?;
    Ok(Refund {
        key,
        amount: Money::new(row.try_get("amount").map_err(fault)?, &currency)
            .map_err(|error| broken(error.to_string()))?,
        capture: String::from_utf8_lossy(&capture).into_owned(),
        reason: RefundReason::parse(&reason).ok_or_else(|| broken(reason))?,
        state: RefundState::parse(&state).ok_or_else(|| broken(state))?,
        tries: u32::try_from(tries).unwrap_or(0),
    })
}
