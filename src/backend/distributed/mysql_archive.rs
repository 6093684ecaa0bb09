//! Reads orders for exports, and puts the payments of an import in place.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row};

use super::mysql::{Mysql, failed};
use super::mysql_order_store::{COLUMNS, is_missing_table, read};
use super::mysql_text::{insert_rows, list};
use crate::domain::exported::{ExportPage, ExportRow, ExportedEvent, ExportedRefund, OrderNodes};
use crate::domain::payment::{PaymentState, RefundReason, RefundState};
use crate::domain::{
    Exported, ExportedPayment, Money, Month, NodeMark, Order, OrderFilter, OrderId, OrderState, PaymentId,
    Reference, Sale, Shard, SkuId, TakenStep, UserId,
};
use crate::ports::{Archive, StoreError, StoreResult};

const READ: &str = "read orders of a sale";
const RESTORE: &str = "put payments in place";

/// Serves exports and imports from the shards.
pub struct MysqlArchive {
    /// The pools.
    pub mysql: Arc<Mysql>,
}

impl MysqlArchive {
    async fn rows_of_month(
        &self,
        sale: &Sale,
        shard: Shard,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<Vec<ExportRow>> {
        let text = format!(
            "SELECT {COLUMNS}, epoch, created_ms, nodes FROM {{shard}}.orders_{{yyyymm}} \
             WHERE sale_id = ? AND order_id > ? ORDER BY order_id LIMIT ?"
        );
        let rows = sqlx::query(self.mysql.shard_sql(shard, sale.month(), &text))
            .bind(sale.id.as_str().as_bytes())
            .bind(after.map_or(Vec::new(), |after| after.bytes().to_vec()))
            .bind(limit)
            .fetch_all(self.mysql.pool(self.mysql.map.instance_of(shard)))
            .await;
        let whole = |row: &MySqlRow| {
            let nodes: Option<Vec<u8>> = column(row, "nodes")?;
            Ok(ExportRow {
                order: read(row)?,
                epoch: small(row, "epoch")?,
                created_ms: column(row, "created_ms")?,
                nodes: OrderNodes::from_bytes(&nodes.unwrap_or_default()),
            })
        };
        match rows {
            Ok(rows) => rows.iter().map(whole).collect(),
            Err(error) if is_missing_table(&error) => Ok(Vec::new()),
            Err(error) => Err(failed(READ, error)),
        }
    }

    async fn find(
        &self,
        filter: &OrderFilter,
        month: Month,
        shard: Shard,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<Vec<Order>> {
        let OrderFilter { sale, sku, user, state, reference, since_ms, until_ms } = filter;
        let texts = [
            (Some(sale.as_str()), "sale_id = ?"),
            (sku.as_ref().map(SkuId::as_str), "sku_id = ?"),
            (user.as_ref().map(UserId::as_str), "user_id = ?"),
            (state.map(OrderState::as_str), "state = ?"),
            (reference.as_ref().map(Reference::as_str), "reference = ?"),
        ];
        let times = [(*since_ms, "accepted_ms >= ?"), (*until_ms, "accepted_ms < ?")];
        let wanted = texts.iter().filter(|(text, _)| text.is_some()).map(|(_, condition)| *condition);
        let wanted =
            wanted.chain(times.iter().filter(|(at, _)| at.is_some()).map(|(_, condition)| *condition));
        let text = format!(
            "SELECT {COLUMNS} FROM {{shard}}.orders_{{yyyymm}} WHERE {} AND order_id > ? ORDER BY order_id LIMIT ?",
            wanted.collect::<Vec<_>>().join(" AND ")
        );
        let mut query = sqlx::query(self.mysql.shard_sql(shard, month, &text));
        for text in texts.iter().filter_map(|(text, _)| *text) {
            query = query.bind(text);
        }
        for at_ms in times.iter().filter_map(|(at_ms, _)| *at_ms) {
            query = query.bind(at_ms);
        }
        let query = query.bind(after.map_or(Vec::new(), |after| after.bytes().to_vec())).bind(limit);
        match query.fetch_all(self.mysql.pool(self.mysql.map.instance_of(shard))).await {
            Ok(rows) => rows.iter().map(read).collect(),
            Err(error) if is_missing_table(&error) => Ok(Vec::new()),
            Err(error) => Err(failed(READ, error)),
        }
    }

    /// Reads the rows of a table of `shard` that belong to some orders.
    async fn rows_of(&self, shard: Shard, what: &str, orders: &[ExportRow]) -> StoreResult<Vec<MySqlRow>> {
        let ids = list(orders.iter().map(|row| row.order.id.bytes().as_slice()));
        let text = what.replace("{shard}", &self.mysql.shard(shard)).replace("{ids}", &ids);
        let pool = self.mysql.pool(self.mysql.map.instance_of(shard));
        sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(pool).await.map_err(|error| failed(READ, error))
    }

    async fn steps(&self, shard: Shard, page: &mut ExportPage) -> StoreResult<()> {
        let text = "SELECT order_id, CAST(kind AS CHAR) AS kind, mover, why, at_ms, node FROM {shard}.order_moves \
                    WHERE order_id IN {ids}";
        for row in self.rows_of(shard, text, &page.orders).await? {
            page.steps.entry(order_id(&row)?).or_default().push(TakenStep {
                kind: column(&row, "kind")?,
                by: column(&row, "mover")?,
                why: column(&row, "why")?,
                at_ms: column(&row, "at_ms")?,
                node: node(&row)?,
            });
        }
        Ok(())
    }

    async fn payments(&self, shard: Shard, page: &mut ExportPage) -> StoreResult<()> {
        let payments = "SELECT state, request, reference, url, capture, node FROM {shard}.payments \
                        WHERE order_id IN {ids} ORDER BY order_id, attempt";
        for row in self.rows_of(shard, payments, &page.orders).await? {
            page.payments.push(payment(&row)?);
        }
        let refunds = "SELECT order_id, attempt, amount, currency, capture, reason, state, created_ms, tries, node \
                       FROM {shard}.refunds WHERE order_id IN {ids}";
        for row in self.rows_of(shard, refunds, &page.orders).await? {
            page.refunds.insert(payment_id(&row)?, refund(&row)?);
        }
        let events = "SELECT order_id, attempt, event_id, outcome, at_ms, node FROM {shard}.payment_events \
                      WHERE order_id IN {ids} ORDER BY at_ms, event_id";
        for row in self.rows_of(shard, events, &page.orders).await? {
            let event = ExportedEvent {
                at_ms: column(&row, "at_ms")?,
                id: utf8(&row, "event_id")?.unwrap_or_default(),
                outcome: column(&row, "outcome")?,
                node: node(&row)?,
            };
            page.events.push((payment_id(&row)?, event));
        }
        Ok(())
    }

    async fn read_exported(
        &self,
        sale: &Sale,
        shard: Shard,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<Vec<Exported>> {
        let orders = self.rows_of_month(sale, shard, after, limit).await?;
        let mut page = ExportPage { orders, ..ExportPage::default() };
        if !page.orders.is_empty() {
            self.steps(shard, &mut page).await?;
            self.payments(shard, &mut page).await?;
        }
        page.exported().map_err(|left| StoreError::broken(READ, left))
    }

    async fn restore(&self, shard: Shard, payments: &[&ExportedPayment]) -> StoreResult<()> {
        let mut tx = self.mysql.begin(self.mysql.map.instance_of(shard), RESTORE).await?;
        let table = |name: &str, columns: &str| format!("{}.{name} ({columns})", self.mysql.shard(shard));
        let stands = |key: &str| format!("ON DUPLICATE KEY UPDATE {key} = {key}");
        let rows = table(
            "payments",
            "order_id, attempt, state, request, reference, url, capture, created_ms, ask_ms",
        );
        insert_rows(&mut tx, (&rows, 9, &stands("attempt")), payments, |query, payment| {
            let ExportedPayment { request, reference, url, capture, .. } = payment;
            let bytes = |text: &Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
            query
                .bind(request.id.order.bytes().as_slice())
                .bind(request.id.attempt)
                .bind(payment.state.as_str())
                .bind(serde_json::to_string(request).expect("a request always serialises"))
                .bind(bytes(reference))
                .bind(url)
                .bind(bytes(capture))
                .bind(request.created_ms)
                // The provider is asked about one that has not come to its end.
                .bind((!payment.state.is_final()).then_some(request.created_ms))
        })
        .await?;
        let refunded = payments.iter().filter_map(|of| Some((of.request.id, of.refund.as_ref()?)));
        let rows = table(
            "refunds",
            "order_id, attempt, amount, currency, capture, reason, state, created_ms, tries",
        );
        let refunded: Vec<(PaymentId, &ExportedRefund)> = refunded.collect();
        insert_rows(&mut tx, (&rows, 9, &stands("attempt")), &refunded, |query, (id, refund)| {
            query
                .bind(id.order.bytes().as_slice())
                .bind(id.attempt)
                .bind(refund.amount.amount())
                .bind(refund.amount.currency())
                .bind(refund.capture.as_bytes())
                .bind(refund.reason.as_str())
                .bind(refund.state.as_str())
                .bind(refund.created_ms)
                .bind(refund.tries)
        })
        .await?;
        let events = payments.iter().flat_map(|of| of.events.iter().map(|event| (of.request.id, event)));
        let events: Vec<(PaymentId, &ExportedEvent)> = events.collect();
        let rows = table("payment_events", "event_id, order_id, attempt, outcome, at_ms");
        insert_rows(&mut tx, (&rows, 5, &stands("event_id")), &events, |query, (id, event)| {
            let query = query.bind(event.id.as_bytes()).bind(id.order.bytes().as_slice());
            query.bind(id.attempt).bind(&event.outcome).bind(event.at_ms)
        })
        .await?;
        tx.commit().await.map_err(|error| failed(RESTORE, error))
    }
}

fn broken(detail: &str) -> StoreError {
    StoreError::broken(READ, detail.to_owned())
}

fn column<'r, T: sqlx::Decode<'r, sqlx::MySql> + sqlx::Type<sqlx::MySql>>(
    row: &'r MySqlRow,
    name: &str,
) -> StoreResult<T> {
    row.try_get(name).map_err(|error| failed(READ, error))
}

fn small<T: TryFrom<i32>>(row: &MySqlRow, name: &str) -> StoreResult<T> {
    let wide: i32 = column(row, name)?;
    T::try_from(wide).map_err(|_| broken(&format!("{name} is {wide}")))
}

fn utf8(row: &MySqlRow, name: &str) -> StoreResult<Option<String>> {
    let bytes: Option<Vec<u8>> = column(row, name)?;
    bytes.map(|bytes| String::from_utf8(bytes).map_err(|error| broken(&error.to_string()))).transpose()
}

fn order_id(row: &MySqlRow) -> StoreResult<OrderId> {
    let bytes: Vec<u8> = column(row, "order_id")?;
    OrderId::from_bytes(&bytes).map_err(|error| broken(&error.to_string()))
}

fn node(row: &MySqlRow) -> StoreResult<Option<NodeMark>> {
    Ok(column::<Option<Vec<u8>>>(row, "node")?.and_then(|bytes| NodeMark::from_bytes(&bytes)))
}

fn payment_id(row: &MySqlRow) -> StoreResult<PaymentId> {
    Ok(PaymentId { order: order_id(row)?, attempt: small(row, "attempt")? })
}

fn payment(row: &MySqlRow) -> StoreResult<ExportedPayment> {
    let (state, request): (String, String) = (column(row, "state")?, column(row, "request")?);
    Ok(ExportedPayment {
        state: PaymentState::parse(&state).ok_or_else(|| broken(&state))?,
        request: serde_json::from_str(&request).map_err(|error| broken(&error.to_string()))?,
        reference: utf8(row, "reference")?,
        url: column(row, "url")?,
        capture: utf8(row, "capture")?,
        refund: None,
        events: Vec::new(),
        node: node(row)?,
    })
}

fn refund(row: &MySqlRow) -> StoreResult<ExportedRefund> {
    let (currency, reason, state): (String, String, String) =
        (column(row, "currency")?, column(row, "reason")?, column(row, "state")?);
    let amount = Money::new(column(row, "amount")?, &currency);
    Ok(ExportedRefund {
        amount: amount.map_err(|error| broken(&error.to_string()))?,
        capture: utf8(row, "capture")?.unwrap_or_default(),
        reason: RefundReason::parse(&reason).ok_or_else(|| broken(&reason))?,
        state: RefundState::parse(&state).ok_or_else(|| broken(&state))?,
        created_ms: column(row, "created_ms")?,
        tries: small(row, "tries")?,
        node: node(row)?,
    })
}

#[async_trait]
impl Archive for MysqlArchive {
    async fn orders(
        &self,
        sale: &Sale,
        shard: Shard,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<Vec<Exported>> {
        // A page of a sale with few orders in a big month passes over all other orders, so it gets the time of a
        // change.
        let instance = self.mysql.map.instance_of(shard);
        self.mysql.change(instance, READ, self.read_exported(sale, shard, after, limit)).await
    }

    async fn found(
        &self,
        filter: &OrderFilter,
        month: Month,
        shard: Shard,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<Vec<Order>> {
        let instance = self.mysql.map.instance_of(shard);
        self.mysql.change(instance, READ, self.find(filter, month, shard, after, limit)).await
    }

    async fn restore_payments(&self, payments: &[ExportedPayment]) -> StoreResult<()> {
        let mut of_shards: BTreeMap<Shard, Vec<&ExportedPayment>> = BTreeMap::new();
        for payment in payments {
            of_shards.entry(payment.request.id.order.shard()).or_default().push(payment);
        }
        for (shard, payments) in of_shards {
            let instance = self.mysql.map.instance_of(shard);
            self.mysql.change(instance, RESTORE, self.restore(shard, &payments)).await?;
        }
        Ok(())
    }
}
