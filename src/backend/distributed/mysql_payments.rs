//! Keeps the payments of orders in the orders' shards.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::{MySqlArguments, MySqlRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, MySql, MySqlConnection, Row};

use super::mysql::{Mysql, connection, failed};
use super::mysql_order_moves::{MysqlOrderMoves, Tx};
use super::mysql_refunds;
use super::mysql_text::NOW_MS;
use crate::backend::readable::readable;
use crate::domain::payment::{Notice, PaymentPage, PaymentState};
use crate::domain::{Instance, OrderId, OrderState, Payment, PaymentId, PaymentRequest, PaymentTerms, Shard};
use crate::ports::{Opened, PaymentStep, Payments, StoreError, StoreResult};

const CONTEXT: &str = "change payment";
const READ: &str = "read payments";

/// The columns that [`read`] reads.
const COLUMNS: &str = "order_id, attempt, state, request, reference, url";

type Bound<'a> = Query<'a, MySql, MySqlArguments>;

/// Serves payments from the shards.
pub struct MysqlPayments {
    mysql: Arc<Mysql>,
    moves: MysqlOrderMoves,
}

impl MysqlPayments {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { moves: MysqlOrderMoves { mysql: mysql.clone() }, mysql }
    }

    async fn read_of(&self, order: OrderId) -> StoreResult<Vec<Payment>> {
        let readers = self.mysql.readers(self.mysql.map.instance_of(order.shard()));
        let mut connection = connection(readers, READ).await?;
        let rows = rows_of(&self.mysql, order, &mut connection).await?;
        let mut payments: Vec<Payment> =
            rows.iter().filter_map(|row| readable("payments", read(row))).collect();
        if !payments.is_empty() {
            for refund in mysql_refunds::read_of(&self.mysql, order, &mut connection).await? {
                let of = payments.iter_mut().find(|payment| refund.key.is_of(payment.request.id));
                if let Some(payment) = of {
                    payment.refund = Some(refund);
                }
            }
            self.read_notices(order, &mut payments, &mut connection).await?;
        }
        Ok(payments)
    }

    /// Reads the words with a dot: the others are outcomes of our own.
    async fn read_notices(
        &self,
        order: OrderId,
        payments: &mut [Payment],
        connection: &mut MySqlConnection,
    ) -> StoreResult<()> {
        let fault = |error| failed(READ, error);
        let text = format!(
            "SELECT attempt, outcome, at_ms FROM {}.payment_events WHERE order_id = ? AND outcome LIKE '%.%' \
             ORDER BY at_ms, event_id",
            self.mysql.shard(order.shard())
        );
        let query = sqlx::query(AssertSqlSafe(text)).bind(order.bytes().as_slice());
        for row in query.fetch_all(connection).await.map_err(fault)? {
            let attempt: i32 = row.try_get("attempt").map_err(fault)?;
            let of = payments.iter_mut().find(|payment| i32::from(payment.request.id.attempt) == attempt);
            if let Some(payment) = of {
                let (kind, at_ms) =
                    (row.try_get("outcome").map_err(fault)?, row.try_get("at_ms").map_err(fault)?);
                payment.notices.push(Notice { kind, at_ms });
            }
        }
        Ok(())
    }

    async fn open_next(&self, id: OrderId, terms: &PaymentTerms) -> StoreResult<Opened> {
        let mut tx = self.mysql.begin(self.mysql.map.instance_of(id.shard()), CONTEXT).await?;
        let Some(order) = self.moves.lock(id, &mut tx).await? else { return Ok(Opened::Absent) };
        let now_ms = now_ms(&mut tx).await?;
        if !order.is_payable(now_ms) {
            return Ok(Opened::NotPayable(Box::new(order)));
        }
        let payments = read_all(&self.mysql, id, &mut tx).await?;
        if let Some(unsettled) = payments.iter().find(|payment| !payment.state.is_final()) {
            return Ok(Opened::Found(Box::new(unsettled.clone())));
        }
        let last = payments.last().map_or(0, |payment| payment.request.id.attempt);
        let Some(request) = PaymentRequest::next(&order, last, now_ms, terms) else {
            return Ok(Opened::NotPayable(Box::new(order)));
        };
        let text = format!(
            "INSERT INTO {}.payments (order_id, attempt, state, request, created_ms, ask_ms, node) \
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            self.mysql.shard(id.shard())
        );
        let payment =
            Payment { state: PaymentState::Opening, request, page: None, refund: None, notices: Vec::new() };
        sqlx::query(AssertSqlSafe(text))
            .bind(id.bytes().as_slice())
            .bind(payment.request.id.attempt)
            .bind(payment.state.as_str())
            .bind(stored(&payment.request)?)
            .bind(now_ms)
            .bind(now_ms + PaymentState::FIRST_ASKED_MS)
            .bind(self.mysql.node.mark().bytes().as_slice())
            .execute(&mut *tx)
            .await
            .map_err(|error| failed(CONTEXT, error))?;
        tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
        Ok(Opened::New(Box::new(payment)))
    }

    async fn take_step(&self, payment: PaymentId, step: &PaymentStep) -> StoreResult<bool> {
        let (mysql, shard) = (&self.mysql, payment.order.shard());
        let pool = mysql.pool(mysql.map.instance_of(shard));
        let changed = match step {
            PaymentStep::Opened(page) => {
                let set = "state = 'open', reference = ?, url = ?";
                let query = sqlx::query(step_sql(mysql, shard, (set, "="), "'opening'"));
                of_payment(query.bind(page.reference.as_bytes()).bind(&page.url), &payment)
                    .execute(pool)
                    .await
            }
            PaymentStep::Closing => {
                of_payment(sqlx::query(closing(mysql, shard)), &payment).execute(pool).await
            }
            PaymentStep::Closed => {
                let from = "'opening','open','closing'";
                let text = step_sql(mysql, shard, ("state = 'closed', ask_ms = NULL", "="), from);
                of_payment(sqlx::query(text), &payment).execute(pool).await
            }
            PaymentStep::Noticed { event, kind } => {
                let table = mysql.shard(shard);
                let text = format!(
                    "INSERT INTO {table}.payment_events (event_id, order_id, attempt, outcome, node, at_ms) \
                     SELECT ?, order_id, attempt, ?, ?, {NOW_MS} FROM {table}.payments \
                     WHERE order_id = ? AND attempt = ? \
                     AND NOT EXISTS (SELECT 1 FROM {table}.payment_events WHERE event_id = ?) \
                     ON DUPLICATE KEY UPDATE event_id = VALUES(event_id)"
                );
                let node = mysql.node.mark().bytes();
                let query = sqlx::query(AssertSqlSafe(text)).bind(event.as_bytes()).bind(kind);
                let query = query.bind(node.as_slice());
                of_payment(query, &payment).bind(event.as_bytes()).execute(pool).await
            }
            PaymentStep::Reopened => return self.reopen(payment).await,
        };
        Ok(changed.map_err(|error| failed(CONTEXT, error))?.rows_affected() == 1)
    }

    /// Opens a payment again that is being closed, unless its order has come to its end meanwhile: then there is
    /// nothing to pay any more.
    async fn reopen(&self, payment: PaymentId) -> StoreResult<bool> {
        let shard = payment.order.shard();
        let mut tx = self.mysql.begin(self.mysql.map.instance_of(shard), CONTEXT).await?;
        let order = self.moves.lock(payment.order, &mut tx).await?;
        if order.is_none_or(|order| order.state != OrderState::AwaitingPayment) {
            return Ok(false);
        }
        let set = format!(
            "state = IF(url IS NULL, 'opening', 'open'), closing_ms = NULL, ask_ms = {NOW_MS} + {}, asks = 0",
            PaymentState::FIRST_ASKED_MS
        );
        let text = step_sql(&self.mysql, shard, (&set, "="), "'closing'");
        let changed = of_payment(sqlx::query(text), &payment).execute(&mut *tx).await;
        let changed = changed.map_err(|error| failed(CONTEXT, error))?;
        tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
        Ok(changed.rows_affected() == 1)
    }

    /// Takes what is due, and makes each of it due later. Who finds another time in the row leaves it to who was
    /// quicker.
    async fn take_due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Payment>> {
        let each = self.mysql.map.shards_of(at).map(|shard| {
            format!(
                "(SELECT {COLUMNS}, ask_ms, asks FROM {}.payments WHERE ask_ms <= {NOW_MS} \
                 ORDER BY ask_ms LIMIT {limit})",
                self.mysql.shard(shard)
            )
        });
        let text = format!("{} ORDER BY ask_ms LIMIT {limit}", each.collect::<Vec<_>>().join(" UNION ALL "));
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(self.mysql.pool(at)).await;
        let mut due = Vec::new();
        for row in rows.map_err(|error| failed(READ, error))? {
            let fault = |error| failed(READ, error);
            let (ask_ms, asks): (i64, i32) =
                (row.try_get("ask_ms").map_err(fault)?, row.try_get("asks").map_err(fault)?);
            let id = mysql_refunds::payment_id(
                row.try_get("order_id").map_err(fault)?,
                row.try_get("attempt").map_err(fault)?,
            )?;
            let payment = readable("payments", read(&row));
            let state = payment.as_ref().map_or(PaymentState::Open, |payment| payment.state);
            let text = format!(
                "UPDATE {}.payments SET ask_ms = {NOW_MS} + ?, asks = asks + 1 \
                 WHERE order_id = ? AND attempt = ? AND ask_ms = ?",
                self.mysql.shard(id.order.shard())
            );
            let taken = sqlx::query(AssertSqlSafe(text))
                .bind(state.asked_again_ms(u32::try_from(asks).unwrap_or(0)))
                .bind(id.order.bytes().as_slice())
                .bind(id.attempt)
                .bind(ask_ms)
                .execute(self.mysql.pool(at))
                .await
                .map_err(|error| failed(CONTEXT, error))?;
            if taken.rows_affected() == 1 {
                due.extend(payment);
            }
        }
        Ok(due)
    }
}

#[async_trait]
impl Payments for MysqlPayments {
    fn instances(&self) -> Vec<Instance> {
        self.mysql.map.all_instances().collect()
    }

    async fn of(&self, order: OrderId) -> StoreResult<Vec<Payment>> {
        if !self.mysql.map.holds(order.shard()) {
            return Ok(Vec::new());
        }
        self.mysql.read(READ, Box::pin(self.read_of(order))).await
    }

    async fn open(&self, order: OrderId, terms: &PaymentTerms) -> StoreResult<Opened> {
        if !self.mysql.map.holds(order.shard()) {
            return Ok(Opened::Absent);
        }
        let at = self.mysql.map.instance_of(order.shard());
        self.mysql.change(at, CONTEXT, self.open_next(order, terms)).await
    }

    async fn advance(&self, payment: PaymentId, step: &PaymentStep) -> StoreResult<bool> {
        let at = self.mysql.map.instance_of(payment.order.shard());
        self.mysql.change(at, CONTEXT, self.take_step(payment, step)).await
    }

    async fn due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Payment>> {
        self.mysql.change(at, CONTEXT, self.take_due(at, limit)).await
    }
}

/// Reads the database's clock, in ms since 1970.
///
/// # Errors
/// When it does not answer.
pub async fn now_ms(tx: &mut Tx) -> StoreResult<i64> {
    let read = sqlx::query_scalar(AssertSqlSafe(format!("SELECT {NOW_MS}"))).fetch_one(&mut **tx).await;
    read.map_err(|error| failed(CONTEXT, error))
}

/// Answers the statement with which a payment begins to be closed. It takes the order's id and the attempt.
pub fn closing(mysql: &Mysql, shard: Shard) -> AssertSqlSafe<String> {
    step_sql(mysql, shard, (&to_closing(), "="), "'opening','open'")
}

/// Answers the statement with which all other payments of an order begin to be closed. It takes the same.
pub fn closing_others(mysql: &Mysql, shard: Shard) -> AssertSqlSafe<String> {
    step_sql(mysql, shard, (&to_closing(), "<>"), "'opening','open'")
}

/// Binds the key of a payment.
fn of_payment<'a>(query: Bound<'a>, payment: &'a PaymentId) -> Bound<'a> {
    query.bind(payment.order.bytes().as_slice()).bind(payment.attempt)
}

fn to_closing() -> String {
    // It comes before all others that the provider is asked about.
    format!("state = 'closing', closing_ms = {NOW_MS}, ask_ms = 0, asks = 0")
}

fn step_sql(mysql: &Mysql, shard: Shard, (set, attempt): (&str, &str), from: &str) -> AssertSqlSafe<String> {
    let table = mysql.shard(shard);
    AssertSqlSafe(format!(
        "UPDATE {table}.payments SET {set} WHERE order_id = ? AND attempt {attempt} ? AND state IN ({from})"
    ))
}

fn stored(request: &PaymentRequest) -> StoreResult<String> {
    serde_json::to_string(request).map_err(|error| StoreError::broken(CONTEXT, error.to_string()))
}

/// Reads the payments of an order, ascending by attempt, without their refunds. The caller decides by them, so all have
/// to be read.
async fn read_all(
    mysql: &Mysql,
    order: OrderId,
    connection: &mut MySqlConnection,
) -> StoreResult<Vec<Payment>> {
    rows_of(mysql, order, connection).await?.iter().map(read).collect()
}

async fn rows_of(
    mysql: &Mysql,
    order: OrderId,
    connection: &mut MySqlConnection,
) -> StoreResult<Vec<MySqlRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM {}.payments WHERE order_id = ? ORDER BY attempt",
        mysql.shard(order.shard())
    );
    let query = sqlx::query(AssertSqlSafe(text)).bind(order.bytes().as_slice());
    query.fetch_all(connection).await.map_err(|error| failed(READ, error))
}

fn read(row: &MySqlRow) -> StoreResult<Payment> {
    let fault = |error| failed(READ, error);
    let broken = |detail: String| StoreError::broken(READ, detail);
    let (state, request): (String, String) =
        (row.try_get("state").map_err(fault)?, row.try_get("request").map_err(fault)?);
    let (reference, url): (Option<Vec<u8>>, Option<String>) =
        (row.try_get("reference").map_err(fault)?, row.try_get("url").map_err(fault)?);
    let reference = reference.and_then(|reference| String::from_utf8(reference).ok());
    Ok(Payment {
        state: PaymentState::parse(&state).ok_or_else(|| broken(state))?,
        request: serde_json::from_str(&request).map_err(|error| broken(error.to_string()))?,
        page: reference.zip(url).map(|(reference, url)| PaymentPage { reference, url }),
        refund: None,
        notices: Vec::new(),
    })
}
