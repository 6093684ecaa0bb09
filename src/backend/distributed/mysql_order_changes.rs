//! Changes orders that have a row, or will have one: each change is one transaction with all that follows.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row};

use super::mysql::{Mysql, failed, is_duplicate};
use super::mysql_order_moves::{Along, MysqlOrderMoves, Tx, by_table};
use super::mysql_order_store::{COLUMNS, is_missing_table, months_of_shard, read};
use super::mysql_text::{NOW_MS, list, set_now};
use super::{mysql_journal as journal, mysql_payments, mysql_refunds};
use crate::domain::exported::OrderNodes;
use crate::domain::order::RejectReason;
use crate::domain::order_life::{OrderEvent, Step};
use crate::domain::payment::PaymentState;
use crate::domain::{
    Instance, Month, Mover, Order, OrderId, OrderMove, OrderRecord, OrderState, PaymentId, Shard,
};
use crate::ports::{Ending, Grace, Moved, OrderChanges, Overdue, StoreError, StoreResult};

const CONTEXT: &str = "change order";
const OVERDUE: &str = "read overdue orders";

/// Changes orders in the shards.
pub struct MysqlOrderChanges {
    mysql: Arc<Mysql>,
    moves: MysqlOrderMoves,
}

impl MysqlOrderChanges {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { moves: MysqlOrderMoves { mysql: mysql.clone() }, mysql }
    }

    async fn change_row(&self, order: OrderId, event: OrderEvent, mover: &Mover<'_>) -> StoreResult<Moved> {
        let instance = self.mysql.map.instance_of(order.shard());
        let mut tx = self.mysql.begin(instance, CONTEXT).await?;
        let Some(mut found) = self.moves.lock(order, &mut tx).await? else { return Ok(Moved::Absent) };
        let arrow = match found.state.on(event) {
            Step::Follows(arrow) => arrow,
            Step::Repeated => return Ok(Moved::Repeated(Box::new(found))),
            Step::Conflict => return Ok(Moved::Refused(Box::new(found))),
        };
        if event == OrderEvent::Pay && !found.is_payable(mysql_payments::now_ms(&mut tx).await?) {
            return Ok(Moved::Refused(Box::new(found)));
        }
        if event == OrderEvent::Cancel
            && !self.unsettled(std::slice::from_ref(&found), &mut tx).await?.is_empty()
        {
            return Ok(Moved::PaymentOpen(Box::new(found)));
        }
        let one = std::slice::from_ref(&found);
        let along = Along { arrow, restock: true, mover, times: None };
        let decided = self.moves.follow(instance, along, one, &mut tx).await?;
        let [decision] = decided[..] else {
            return Err(StoreError::broken(CONTEXT, "one order, one decision"));
        };
        tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
        found.state = arrow.to;
        Ok(Moved::Done { order: Box::new(found), decision })
    }

    /// Writes the row of an order that no order writer has written, and that holds nothing. Answers `None` when it has
    /// a row.
    async fn write_ended(
        &self,
        record: &OrderRecord,
        ending: Ending,
        mover: &Mover<'_>,
    ) -> StoreResult<Option<Moved>> {
        let instance = self.mysql.map.instance_of(record.order_id.shard());
        let mut tx = self.mysql.begin(instance, CONTEXT).await?;
        let (arrow, reason) = (ending.event().arrow(), ending.reason());
        let now = sqlx::raw_sql(AssertSqlSafe(set_now())).execute(&mut *tx).await;
        now.map_err(|error| failed(CONTEXT, error))?;
        let text = format!(
            "INSERT INTO {{shard}}.orders_{{yyyymm}} ({COLUMNS}, epoch, created_ms, nodes) \
             VALUES (?, ?, ?, ?, ?, ?, ?, '{}', ?, ?, @now_ms, ?, ?, @now_ms, ?)",
            arrow.to.as_str(),
        );
        let (shard, month) = (record.order_id.shard(), record.order_id.month());
        let nodes = OrderNodes { accepted: record.node, written: Some(self.mysql.node.mark()) };
        let inserted = sqlx::query(self.mysql.shard_sql(shard, month, &text))
            .bind(record.order_id.bytes().as_slice())
            .bind(record.sale_id.as_str().as_bytes())
            .bind(record.sku_id.as_str().as_bytes())
            .bind(record.user_id.as_str().as_bytes())
            .bind(record.quantity.units())
            .bind(record.unit_price.amount())
            .bind(record.unit_price.currency())
            .bind(reason.map(RejectReason::as_str))
            .bind(record.accepted_ms)
            .bind(record.reference.as_ref().map(|reference| reference.as_str().as_bytes()))
            .bind(record.epoch)
            .bind(nodes.bytes().as_slice())
            .execute(&mut *tx)
            .await;
        match inserted {
            Ok(_) => {}
            Err(error) if is_duplicate(&error) => return Ok(None),
            Err(error) => return Err(failed(CONTEXT, error)),
        }
        let moves = [OrderMove::first(record, arrow, reason.map(RejectReason::as_str), mover)];
        journal::note_moves(&self.mysql, shard, &moves, &mut tx).await?;
        let Some(order) = self.moves.lock(record.order_id, &mut tx).await? else {
            return Err(StoreError::broken(CONTEXT, "a row that was written is not there"));
        };
        let one = std::slice::from_ref(&order);
        let decided = self.moves.decide(instance, (arrow.to, true), one, &mut tx).await?;
        journal::tell(&self.mysql, self.mysql.map.part_of(shard), &moves, &mut tx).await?;
        tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
        Ok(decided.first().map(|decision| Moved::Done { order: Box::new(order), decision: *decision }))
    }

    /// Reads what is overdue. A month whose table was dropped has no orders, and must not keep others from expiring.
    async fn read_overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>> {
        let shards: Vec<Shard> = self.mysql.map.shards_of(orders.at).collect();
        let all = shards.iter().flat_map(|shard| orders.months.iter().map(|month| (*shard, *month)));
        let read = match self.overdue_in(all.collect(), orders, limit).await {
            Err(error) if is_missing_table(&error) => {
                let mut there = Vec::new();
                for shard in shards {
                    let months = months_of_shard(&self.mysql, shard, orders.months).await?;
                    there.extend(months.into_iter().map(|month| (shard, month)));
                }
                self.overdue_in(there, orders, limit).await
            }
            read => read,
        };
        let id = |row: &MySqlRow| {
            let id: Vec<u8> = row.try_get(0).map_err(|error| failed(OVERDUE, error))?;
            OrderId::from_bytes(&id).map_err(|error| StoreError::broken(OVERDUE, error.to_string()))
        };
        read.map_err(|error| failed(OVERDUE, error))?.iter().map(id).collect()
    }

    async fn overdue_in(
        &self,
        tables: Vec<(Shard, Month)>,
        orders: Overdue<'_>,
        limit: usize,
    ) -> sqlx::Result<Vec<MySqlRow>> {
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let each = tables.into_iter().map(|(shard, month)| {
            let (shard, Grace { ms, closing_ms }) = (self.mysql.shard(shard), orders.grace);
            format!(
                "(SELECT order_id FROM {shard}.orders_{} o WHERE state = '{}' AND expires_ms < {NOW_MS} - {ms} \
                 AND NOT EXISTS (SELECT 1 FROM {shard}.payments p WHERE p.order_id = o.order_id \
                 AND p.state = '{}' AND (p.closing_ms >= {NOW_MS} - {closing_ms} \
                 OR p.asks < {} AND p.closing_ms >= {NOW_MS} - {})) LIMIT {limit})",
                month.yyyymm(),
                OrderState::AwaitingPayment.as_str(),
                PaymentState::Closing.as_str(),
                PaymentState::ASKS_LEAST,
                orders.grace.unasked_ms(),
            )
        });
        let text = format!("{} LIMIT {limit}", each.collect::<Vec<_>>().join(" UNION ALL "));
        sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(self.mysql.pool(orders.at)).await
    }

    async fn expire_rows(&self, at: Instance, orders: &[OrderId], grace: Grace) -> StoreResult<Vec<Order>> {
        let mut tx = self.mysql.begin(at, CONTEXT).await?;
        let mut found: Vec<Order> = Vec::new();
        for ((shard, month), ids) in by_table(orders.iter(), |order| **order) {
            let ids = list(ids.into_iter().map(|id| id.bytes().as_slice()));
            // A lock that goes through the index of due orders would meet one that goes the other way.
            let text = format!(
                "SELECT {COLUMNS} FROM {{shard}}.orders_{{yyyymm}} FORCE INDEX (PRIMARY) \
                 WHERE order_id IN {ids} AND state = '{}' AND expires_ms < {NOW_MS} - {} \
                 ORDER BY order_id FOR UPDATE SKIP LOCKED",
                OrderState::AwaitingPayment.as_str(),
                grace.ms
            );
            let rows = sqlx::raw_sql(self.mysql.shard_sql(shard, month, &text)).fetch_all(&mut *tx).await;
            for row in rows.map_err(|error| failed(CONTEXT, error))? {
                found.push(read(&row)?);
            }
        }
        match self.expire_locked(at, found, grace, &mut tx).await {
            Ok(expired) => {
                tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
                Ok(expired)
            }
            Err(error) => {
                // A transaction that is dropped keeps its locks for a moment, and who tries again would pass over them.
                tx.rollback().await.map_err(|error| failed(CONTEXT, error))?;
                Err(error)
            }
        }
    }

    /// Lets locked orders expire, and begins to close the open payments of those that have one.
    async fn expire_locked(
        &self,
        at: Instance,
        mut orders: Vec<Order>,
        grace: Grace,
        tx: &mut Tx,
    ) -> StoreResult<Vec<Order>> {
        let mut waiting = BTreeSet::new();
        for Unsettled { payment, state, closing_for_ms, asks } in self.unsettled(&orders, tx).await? {
            if state != PaymentState::Closing {
                let close = mysql_payments::closing(&self.mysql, payment.order.shard());
                let begun = sqlx::query(close).bind(payment.order.bytes().as_slice()).bind(payment.attempt);
                begun.execute(&mut **tx).await.map_err(|error| failed(CONTEXT, error))?;
            }
            if closing_for_ms.is_none_or(|ms| grace.keeps(ms, asks)) {
                waiting.insert(payment.order);
            }
        }
        orders.retain(|order| !waiting.contains(&order.id));
        if orders.is_empty() {
            return Ok(orders);
        }
        let (arrow, mover) = (OrderEvent::Expire.arrow(), &Mover::EXPIRY);
        let expire = Along { arrow, restock: true, mover, times: None };
        self.moves.follow(at, expire, &orders, tx).await?;
        orders.iter_mut().for_each(|order| order.state = arrow.to);
        Ok(orders)
    }

    /// Reads the payments of locked orders about which the provider has not given its final answer. Who opens one locks
    /// its order first, so none is added before the caller commits.
    async fn unsettled(&self, orders: &[Order], tx: &mut Tx) -> StoreResult<Vec<Unsettled>> {
        let mut found = Vec::new();
        for ((shard, _), orders) in by_table(orders.iter(), |order| order.id) {
            let ids = list(orders.iter().map(|order| order.id.bytes().as_slice()));
            let text = format!(
                "SELECT order_id, attempt, state, {NOW_MS} - closing_ms, asks FROM {}.payments \
                 WHERE order_id IN {ids} AND state NOT IN ('{}','{}') ORDER BY order_id, attempt",
                self.mysql.shard(shard),
                PaymentState::Closed.as_str(),
                PaymentState::Captured.as_str(),
            );
            let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut **tx).await;
            for row in rows.map_err(|error| failed(CONTEXT, error))? {
                let fault = |error| failed(CONTEXT, error);
                let state: String = row.try_get(2).map_err(fault)?;
                let (closing_for_ms, asks): (Option<i64>, i32) =
                    (row.try_get(3).map_err(fault)?, row.try_get(4).map_err(fault)?);
                found.push(Unsettled {
                    payment: mysql_refunds::payment_id(
                        row.try_get(0).map_err(fault)?,
                        row.try_get(1).map_err(fault)?,
                    )?,
                    state: PaymentState::parse(&state).ok_or_else(|| StoreError::broken(CONTEXT, state))?,
                    closing_for_ms: closing_for_ms.map(|ms| u64::try_from(ms).unwrap_or(0)),
                    asks: u32::try_from(asks).unwrap_or(0),
                });
            }
        }
        Ok(found)
    }
}

/// A payment about which the provider has not given its final answer.
struct Unsettled {
    payment: PaymentId,
    state: PaymentState,
    /// For how long it is being closed, in ms; `None` when it is not.
    closing_for_ms: Option<u64>,
    /// How often the provider was asked to close it.
    asks: u32,
}

#[async_trait]
impl OrderChanges for MysqlOrderChanges {
    fn instances(&self) -> Vec<Instance> {
        self.mysql.map.all_instances().collect()
    }

    async fn change(&self, order: OrderId, event: OrderEvent, mover: &Mover<'_>) -> StoreResult<Moved> {
        if !self.mysql.map.holds(order.shard()) {
            return Ok(Moved::Absent);
        }
        let instance = self.mysql.map.instance_of(order.shard());
        self.mysql.change(instance, CONTEXT, self.change_row(order, event, mover)).await
    }

    async fn end_unwritten(
        &self,
        record: &OrderRecord,
        ending: Ending,
        mover: &Mover<'_>,
    ) -> StoreResult<Moved> {
        let instance = self.mysql.map.instance_of(record.order_id.shard());
        match self.mysql.change(instance, CONTEXT, self.write_ended(record, ending, mover)).await? {
            Some(moved) => Ok(moved),
            // The order writer was quicker.
            None => self.change(record.order_id, ending.event(), mover).await,
        }
    }

    async fn overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>> {
        self.mysql.read(OVERDUE, self.read_overdue(orders, limit)).await
    }

    async fn expire(&self, at: Instance, orders: &[OrderId], grace: Grace) -> StoreResult<Vec<Order>> {
        let mut orders = orders.to_vec();
        orders.sort_unstable();
        self.mysql.change(at, CONTEXT, self.expire_rows(at, &orders, grace)).await
    }
}
