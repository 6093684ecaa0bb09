//! Keeps the payments of orders.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_order_moves::find;
use super::sqlite_refunds;
use super::sqlite_rows::{column, failed, number};
use crate::backend::readable::readable;
use crate::domain::payment::{Notice, PaymentPage, PaymentState};
use crate::domain::{Instance, OrderId, OrderState, Payment, PaymentId, PaymentRequest, PaymentTerms};
use crate::ports::{Opened, PaymentStep, Payments, StoreResult};

const CONTEXT: &str = "change payment";
const READ: &str = "read payments";
const OF_ORDER: &str =
    "SELECT state, request, reference, url FROM payments WHERE order_id = ? ORDER BY attempt";
const INSERT: &str = "INSERT INTO payments (order_id, attempt, state, request, created_ms, ask_ms) \
     VALUES (?, ?, ?, ?, ?, ?)";
/// It comes before all others that the provider is asked about.
const CLOSING: &str = "UPDATE payments SET state = 'closing', closing_ms = ?1, ask_ms = 0, asks = 0 \
     WHERE order_id = ?2 AND attempt = ?3 AND state IN ('opening', 'open')";
const OPENED: &str = "UPDATE payments SET state = 'open', reference = ?, url = ? \
     WHERE order_id = ? AND attempt = ? AND state = 'opening'";
const REOPENED: &str = "UPDATE payments SET state = iif(url IS NULL, 'opening', 'open'), closing_ms = NULL, \
     ask_ms = ?, asks = 0 \
     WHERE order_id = ? AND attempt = ? AND state = 'closing'";
const CLOSED: &str = "UPDATE payments SET state = 'closed', ask_ms = NULL \
     WHERE order_id = ? AND attempt = ? AND state IN ('opening', 'open', 'closing')";
const DUE: &str = "SELECT order_id, attempt, state, request, reference, url, asks, ask_ms FROM payments WHERE ask_ms <= ? \
     ORDER BY ask_ms LIMIT ?";
/// Words with a dot: the others are outcomes of our own.
const NOTICES: &str = "SELECT attempt, outcome, at_ms FROM payment_events WHERE order_id = ? AND outcome LIKE '%.%' \
     ORDER BY at_ms, event_id";
const NOTICED: &str = "INSERT INTO payment_events (event_id, order_id, attempt, outcome, at_ms) \
     SELECT ?1, order_id, attempt, ?2, ?3 FROM payments WHERE order_id = ?4 AND attempt = ?5 \
     ON CONFLICT DO NOTHING";
const ASKED: &str =
    "UPDATE payments SET ask_ms = ?, asks = asks + 1 WHERE order_id = ? AND attempt = ? AND ask_ms = ?";

/// Serves payments from the database.
pub struct SqlitePayments {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl Payments for SqlitePayments {
    fn instances(&self) -> Vec<Instance> {
        vec![Instance::FIRST]
    }

    async fn of(&self, order: OrderId) -> StoreResult<Vec<Payment>> {
        let rows = sqlx::query(OF_ORDER).bind(order.to_string()).fetch_all(self.sqlite.readers()).await;
        let rows = rows.map_err(|error| failed(READ, error))?;
        let mut payments: Vec<Payment> =
            rows.iter().filter_map(|row| readable("payments", read(row))).collect();
        if !payments.is_empty() {
            for refund in sqlite_refunds::read_of(&self.sqlite, order).await? {
                let of = payments.iter_mut().find(|payment| refund.key.is_of(payment.request.id));
                if let Some(payment) = of {
                    payment.refund = Some(refund);
                }
            }
            let rows = sqlx::query(NOTICES).bind(order.to_string()).fetch_all(self.sqlite.readers()).await;
            for row in rows.map_err(|error| failed(READ, error))? {
                let attempt: u8 = number(&row, "attempt")?;
                if let Some(payment) = payments.iter_mut().find(|it| it.request.id.attempt == attempt) {
                    let notice = Notice { kind: column(&row, "outcome")?, at_ms: number(&row, "at_ms")? };
                    payment.notices.push(notice);
                }
            }
        }
        Ok(payments)
    }

    async fn open(&self, id: OrderId, terms: &PaymentTerms) -> StoreResult<Opened> {
        let (terms, time) = (terms.clone(), self.sqlite.time.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let Some(order) = find(connection, id).await? else { return Ok(Opened::Absent) };
            let now_ms = time.now_ms();
            if !order.is_payable(now_ms) {
                return Ok(Opened::NotPayable(Box::new(order)));
            }
            let payments = read_all(connection, id).await?;
            if let Some(unsettled) = payments.iter().find(|payment| !payment.state.is_final()) {
                return Ok(Opened::Found(Box::new(unsettled.clone())));
            }
            let last = payments.last().map_or(0, |payment| payment.request.id.attempt);
            let Some(request) = PaymentRequest::next(&order, last, now_ms, &terms) else {
                return Ok(Opened::NotPayable(Box::new(order)));
            };
            let payment = Payment {
                state: PaymentState::Opening,
                request,
                page: None,
                refund: None,
                notices: Vec::new(),
            };
            let stored = serde_json::to_string(&payment.request);
            sqlx::query(INSERT)
                .bind(id.to_string())
                .bind(payment.request.id.attempt)
                .bind(payment.state.as_str())
                .bind(stored.map_err(|error| broken(CONTEXT, error.to_string()))?)
                .bind(now_ms)
                .bind(now_ms.saturating_add(PaymentState::FIRST_ASKED_MS))
                .execute(connection)
                .await
                .map_err(|error| failed(CONTEXT, error))?;
            Ok(Opened::New(Box::new(payment)))
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn advance(&self, payment: PaymentId, step: &PaymentStep) -> StoreResult<bool> {
        let (step, time) = (step.clone(), self.sqlite.time.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let query = match &step {
                PaymentStep::Closing => return begin_closing(connection, payment, time.now_ms()).await,
                PaymentStep::Opened(page) => sqlx::query(OPENED).bind(&page.reference).bind(&page.url),
                PaymentStep::Reopened => {
                    // An order that has come to its end meanwhile has nothing to pay any more.
                    let order = find(connection, payment.order).await?;
                    if order.is_none_or(|order| order.state != OrderState::AwaitingPayment) {
                        return Ok(false);
                    }
                    sqlx::query(REOPENED).bind(time.now_ms().saturating_add(PaymentState::FIRST_ASKED_MS))
                }
                PaymentStep::Closed => sqlx::query(CLOSED),
                PaymentStep::Noticed { event, kind } => {
                    sqlx::query(NOTICED).bind(event).bind(kind).bind(time.now_ms())
                }
            };
            let query = query.bind(payment.order.to_string()).bind(payment.attempt);
            let changed = query.execute(connection).await.map_err(|error| failed(CONTEXT, error))?;
            Ok(changed.rows_affected() == 1)
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn due(&self, _: Instance, limit: usize) -> StoreResult<Vec<Payment>> {
        let now_ms = self.sqlite.time.now_ms();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = sqlx::query(DUE).bind(now_ms).bind(limit).fetch_all(self.sqlite.readers()).await;
        let mut due = Vec::new();
        for row in rows.map_err(|error| failed(READ, error))? {
            let payment = readable("payments", read(&row));
            let state = payment.as_ref().map_or(PaymentState::Open, |payment| payment.state);
            due.push(Due {
                key: (column(&row, "order_id")?, number(&row, "attempt")?),
                ask_ms: column(&row, "ask_ms")?,
                again_ms: now_ms.saturating_add(state.asked_again_ms(number(&row, "asks")?)),
                payment,
            });
        }
        if due.is_empty() {
            return Ok(Vec::new());
        }
        let work = async move |connection: &mut SqliteConnection| {
            let mut taken = Vec::new();
            for due in &due {
                let (order, attempt) = &due.key;
                let query = sqlx::query(ASKED).bind(due.again_ms).bind(order).bind(attempt).bind(due.ask_ms);
                let asked = query.execute(&mut *connection).await.map_err(|error| failed(CONTEXT, error))?;
                // Who finds another time in the row has come after somebody who knows more.
                taken.extend(due.payment.clone().filter(|_| asked.rows_affected() == 1));
            }
            Ok(taken)
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }
}

/// A payment that is due, as it was read.
struct Due {
    key: (String, u8),
    ask_ms: i64,
    again_ms: i64,
    /// `None` when this version cannot read it.
    payment: Option<Payment>,
}

/// Begins to close a payment, unless its state is another one. Answers whether it did.
///
/// # Errors
/// When the statement fails.
pub async fn begin_closing(
    connection: &mut SqliteConnection,
    payment: PaymentId,
    now_ms: i64,
) -> StoreResult<bool> {
    let query = sqlx::query(CLOSING).bind(now_ms).bind(payment.order.to_string()).bind(payment.attempt);
    let changed = query.execute(connection).await.map_err(|error| failed(CONTEXT, error))?;
    Ok(changed.rows_affected() == 1)
}

/// Reads the payments of an order in the writer's transaction, ascending by attempt, without their refunds.
///
/// # Errors
/// When they cannot be read.
pub async fn read_all(connection: &mut SqliteConnection, order: OrderId) -> StoreResult<Vec<Payment>> {
    let rows = sqlx::query(AssertSqlSafe(OF_ORDER)).bind(order.to_string()).fetch_all(connection).await;
    rows.map_err(|error| failed(READ, error))?.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> StoreResult<Payment> {
    let (state, request): (&str, &str) = (column(row, "state")?, column(row, "request")?);
    let (reference, url): (Option<String>, Option<String>) = (column(row, "reference")?, column(row, "url")?);
    Ok(Payment {
        state: PaymentState::parse(state).ok_or_else(|| broken(READ, state))?,
        request: serde_json::from_str(request).map_err(|error| broken(READ, error.to_string()))?,
        page: reference.zip(url).map(|(reference, url)| PaymentPage { reference, url }),
        refund: None,
        notices: Vec::new(),
    })
}
