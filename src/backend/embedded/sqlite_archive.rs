//! Reads orders for exports, and puts the payments of an import in place.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_order_store::{COLUMNS, read};
use super::sqlite_rows::{column, failed, insert, number, parsed};
use crate::domain::exported::{ExportPage, ExportRow, ExportedEvent, ExportedRefund, OrderNodes};
use crate::domain::payment::{PaymentState, RefundReason, RefundState};
use crate::domain::{
    Exported, ExportedPayment, Money, Month, NodeMark, Order, OrderFilter, OrderId, OrderState, PaymentId,
    Reference, Sale, Shard, SkuId, TakenStep, UserId,
};
use crate::ports::{Archive, StoreResult};

const READ: &str = "read orders of a sale";
const STEPS: &str = "SELECT order_id, kind, mover, why, at_ms FROM order_moves \
     WHERE order_id IN (SELECT value FROM json_each(?))";
const EVENTS: &str = "SELECT order_id, attempt, event_id, outcome, at_ms FROM payment_events \
     WHERE order_id IN (SELECT value FROM json_each(?)) ORDER BY at_ms, event_id";
const REFUNDS: &str = "SELECT order_id, attempt, amount, currency, capture, reason, state, created_ms, tries \
     FROM refunds WHERE order_id IN (SELECT value FROM json_each(?))";
const PAYMENTS: &str = "SELECT state, request, reference, url, capture FROM payments \
     WHERE order_id IN (SELECT value FROM json_each(?)) ORDER BY order_id, attempt";
/// A condition without a value holds for every row.
const FITS: &str = "sale_id = ?1 AND (?2 IS NULL OR sku_id = ?2) AND (?3 IS NULL OR user_id = ?3) \
     AND (?4 IS NULL OR state = ?4) AND (?5 IS NULL OR reference = ?5) AND (?6 IS NULL OR accepted_ms >= ?6) \
     AND (?7 IS NULL OR accepted_ms < ?7) AND order_id > ?8 AND order_id <= ?9 ORDER BY order_id LIMIT ?10";
/// The first step of an order that was accepted here has no row. Of one that came from another backend it has, and its
/// times say nothing of the processes here.
const OWN: &str = "NOT EXISTS (SELECT 1 FROM order_moves m WHERE m.order_id = orders.order_id \
     AND m.kind IN ('persisted', 'rejected'))";
const PROCESSES: &str = "SELECT since_ms, mark FROM processes ORDER BY since_ms, rowid";
const STANDS: &str = "ON CONFLICT DO NOTHING";

/// Serves exports and imports from the database.
pub struct SqliteArchive {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

/// Since when a process has had the folder, ms since 1970, and what names it.
type Process = (i64, Option<NodeMark>);

impl SqliteArchive {
    async fn rows(
        &self,
        sale: &Sale,
        shard: Shard,
        (after, limit): (Option<OrderId>, u32),
        processes: &[Process],
    ) -> StoreResult<Vec<ExportRow>> {
        let text = format!(
            "SELECT {COLUMNS}, epoch, created_ms, {OWN} AS own FROM orders WHERE sale_id = ? AND order_id > ? AND order_id <= ? \
             ORDER BY order_id LIMIT ?"
        );
        let rows = sqlx::query(AssertSqlSafe(text))
            .bind(sale.id.as_str())
            .bind(bound(sale.month(), shard, after))
            .bind(OrderId::last_of(shard, sale.month()).to_string())
            .bind(limit)
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed(READ, error))?;
        let whole = |row: &SqliteRow| {
            let (order, created_ms) = (read(row)?, column(row, "created_ms")?);
            let at = |at_ms| process_at(processes, at_ms);
            let is_own: bool = column(row, "own")?;
            let nodes = OrderNodes { accepted: at(order.accepted_ms), written: at(created_ms) };
            let nodes = if is_own { nodes } else { OrderNodes::default() };
            Ok(ExportRow { order, epoch: number(row, "epoch")?, created_ms, nodes })
        };
        rows.iter().map(whole).collect()
    }

    async fn rows_of(&self, what: &'static str, orders: &str) -> StoreResult<Vec<SqliteRow>> {
        let rows = sqlx::query(what).bind(orders).fetch_all(self.sqlite.readers()).await;
        rows.map_err(|error| failed(READ, error))
    }

    async fn steps(&self, orders: &str, page: &mut ExportPage, known: &Known<'_>) -> StoreResult<()> {
        for row in self.rows_of(STEPS, orders).await? {
            let (order, at_ms) = (parsed(&row, "order_id", OrderId::parse)?, column(&row, "at_ms")?);
            page.steps.entry(order).or_default().push(TakenStep {
                kind: column(&row, "kind")?,
                by: column(&row, "mover")?,
                why: column(&row, "why")?,
                at_ms,
                node: known.at(order, at_ms),
            });
        }
        Ok(())
    }

    /// Reads when each process began to have the folder, ascending.
    async fn processes(&self) -> StoreResult<Vec<Process>> {
        let rows = sqlx::query(PROCESSES).fetch_all(self.sqlite.readers()).await;
        let process =
            |row: &SqliteRow| Ok((column(row, "since_ms")?, NodeMark::from_bytes(column(row, "mark")?)));
        rows.map_err(|error| failed(READ, error))?.iter().map(process).collect()
    }

    async fn payments(&self, orders: &str, page: &mut ExportPage, known: &Known<'_>) -> StoreResult<()> {
        for row in self.rows_of(PAYMENTS, orders).await? {
            let payment = payment(&row)?;
            let node = known.at(payment.request.id.order, payment.request.created_ms);
            page.payments.push(ExportedPayment { node, ..payment });
        }
        for row in self.rows_of(REFUNDS, orders).await? {
            let (id, refund) = (payment_id(&row)?, refund(&row)?);
            let node = known.at(id.order, refund.created_ms);
            page.refunds.insert(id, ExportedRefund { node, ..refund });
        }
        for row in self.rows_of(EVENTS, orders).await? {
            let (at_ms, id, outcome) =
                (column(&row, "at_ms")?, column(&row, "event_id")?, column(&row, "outcome")?);
            let payment = payment_id(&row)?;
            let node = known.at(payment.order, at_ms);
            page.events.push((payment, ExportedEvent { at_ms, id, outcome, node }));
        }
        Ok(())
    }
}

/// What is known of who did what: the processes of the folder, and the orders of a page that were accepted here.
struct Known<'a> {
    processes: &'a [Process],
    own: BTreeSet<OrderId>,
}

impl<'a> Known<'a> {
    fn of(processes: &'a [Process], page: &ExportPage) -> Self {
        let own = page.orders.iter().filter(|row| row.nodes.written.is_some());
        Self { processes, own: own.map(|row| row.order.id).collect() }
    }

    /// Answers the process that did something to an order at a time, in ms since 1970.
    fn at(&self, order: OrderId, at_ms: i64) -> Option<NodeMark> {
        self.own.contains(&order).then(|| process_at(self.processes, at_ms)).flatten()
    }
}

/// Answers the process that had the folder at a time, in ms since 1970: one at a time has it.
fn process_at(processes: &[Process], at_ms: i64) -> Option<NodeMark> {
    let later = processes.partition_point(|(since_ms, _)| *since_ms <= at_ms);
    processes[..later].last().and_then(|(_, mark)| *mark)
}

/// Answers the text above which the ids of a page are. There is one lower bound, or SQLite would begin every page at
/// the first order. For the first page it is the first id without its last character, because a text comes after its
/// own beginning.
fn bound(month: Month, shard: Shard, after: Option<OrderId>) -> String {
    let mut below = after.unwrap_or_else(|| OrderId::first_of(shard, month)).to_string();
    if after.is_none() {
        below.pop();
    }
    below
}

fn payment(row: &SqliteRow) -> StoreResult<ExportedPayment> {
    let (state, request): (&str, &str) = (column(row, "state")?, column(row, "request")?);
    Ok(ExportedPayment {
        state: PaymentState::parse(state).ok_or_else(|| broken(READ, state))?,
        request: serde_json::from_str(request).map_err(|error| broken(READ, error.to_string()))?,
        reference: column(row, "reference")?,
        url: column(row, "url")?,
        capture: column(row, "capture")?,
        refund: None,
        events: Vec::new(),
        node: None,
    })
}

fn payment_id(row: &SqliteRow) -> StoreResult<PaymentId> {
    Ok(PaymentId { order: parsed(row, "order_id", OrderId::parse)?, attempt: number(row, "attempt")? })
}

fn refund(row: &SqliteRow) -> StoreResult<ExportedRefund> {
    let (currency, reason, state): (&str, &str, &str) =
        (column(row, "currency")?, column(row, "reason")?, column(row, "state")?);
    let amount = Money::new(column(row, "amount")?, currency);
    Ok(ExportedRefund {
        amount: amount.map_err(|error| broken(READ, error.to_string()))?,
        capture: column(row, "capture")?,
        reason: RefundReason::parse(reason).ok_or_else(|| broken(READ, reason))?,
        state: RefundState::parse(state).ok_or_else(|| broken(READ, state))?,
        created_ms: column(row, "created_ms")?,
        tries: number(row, "tries")?,
        node: None,
    })
}

async fn restore(connection: &mut SqliteConnection, payments: &[ExportedPayment]) -> StoreResult<()> {
    const PAYMENTS: &str =
        "payments (order_id, attempt, state, request, reference, url, capture, created_ms)";
    insert(connection, (PAYMENTS, 8, STANDS), payments, |query, payment| {
        let ExportedPayment { request, reference, url, capture, .. } = payment;
        query
            .bind(request.id.order.to_string())
            .bind(request.id.attempt)
            .bind(payment.state.as_str())
            .bind(serde_json::to_string(request).expect("a request always serialises"))
            .bind(reference)
            .bind(url)
            .bind(capture)
            .bind(request.created_ms)
    })
    .await?;
    const REFUNDS: &str =
        "refunds (order_id, attempt, amount, currency, capture, reason, state, created_ms, tries)";
    let refunded = payments.iter().filter_map(|of| Some((of.request.id, of.refund.as_ref()?)));
    let refunded: Vec<(PaymentId, &ExportedRefund)> = refunded.collect();
    insert(connection, (REFUNDS, 9, STANDS), &refunded, |query, (id, refund)| {
        query
            .bind(id.order.to_string())
            .bind(id.attempt)
            .bind(refund.amount.amount())
            .bind(refund.amount.currency())
            .bind(&refund.capture)
            .bind(refund.reason.as_str())
            .bind(refund.state.as_str())
            .bind(refund.created_ms)
            .bind(refund.tries)
    })
    .await?;
    const EVENTS: &str = "payment_events (event_id, order_id, attempt, outcome, at_ms)";
    let events = payments.iter().flat_map(|of| of.events.iter().map(|event| (of.request.id, event)));
    let events: Vec<(PaymentId, &ExportedEvent)> = events.collect();
    insert(connection, (EVENTS, 5, STANDS), &events, |query, (id, event)| {
        let query = query.bind(&event.id).bind(id.order.to_string());
        query.bind(id.attempt).bind(&event.outcome).bind(event.at_ms)
    })
    .await
}

#[async_trait]
impl Archive for SqliteArchive {
    async fn orders(
        &self,
        sale: &Sale,
        shard: Shard,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<Vec<Exported>> {
        let processes = self.processes().await?;
        let orders = self.rows(sale, shard, (after, limit), &processes).await?;
        let ids = json!(orders.iter().map(|row| row.order.id).collect::<Vec<_>>()).to_string();
        let mut page = ExportPage { orders, ..ExportPage::default() };
        let known = Known::of(&processes, &page);
        self.steps(&ids, &mut page, &known).await?;
        self.payments(&ids, &mut page, &known).await?;
        page.exported().map_err(|left| broken(READ, left))
    }

    async fn found(
        &self,
        filter: &OrderFilter,
        month: Month,
        shard: Shard,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<Vec<Order>> {
        let text = format!("SELECT {COLUMNS} FROM orders WHERE {FITS}");
        let query = sqlx::query(AssertSqlSafe(text))
            .bind(filter.sale.as_str())
            .bind(filter.sku.as_ref().map(SkuId::as_str))
            .bind(filter.user.as_ref().map(UserId::as_str))
            .bind(filter.state.map(OrderState::as_str))
            .bind(filter.reference.as_ref().map(Reference::as_str))
            .bind(filter.since_ms)
            .bind(filter.until_ms)
            .bind(bound(month, shard, after))
            .bind(OrderId::last_of(shard, month).to_string())
            .bind(limit);
        let rows = query.fetch_all(self.sqlite.readers()).await.map_err(|error| failed(READ, error))?;
        rows.iter().map(read).collect()
    }

    async fn restore_payments(&self, payments: &[ExportedPayment]) -> StoreResult<()> {
        let payments = payments.to_vec();
        let work = async move |connection: &mut SqliteConnection| restore(connection, &payments).await;
        self.sqlite.writer.write("put payments in place", work).await
    }
}
