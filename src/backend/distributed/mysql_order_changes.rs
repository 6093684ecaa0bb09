//! Changes orders that have a row, or will have one: each change is one transaction with all that follows.
//!
//! The order of locks is: the orders' rows, ascending → their claims → the ledger, ascending. No order writer can wait
//! for a change in a circle; docs/adr/0020-orders-are-given-up.md goes through the pairs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, MySql, Row, Transaction};

use super::mysql::{Mysql, failed, is_duplicate};
use super::mysql_order_store::{COLUMNS, is_missing_table, months_of_shard, read};
use super::mysql_releases::{self, Owing};
use super::mysql_text::{NOW_MS, list, push_bytes, push_insert};
use crate::domain::batch_plan::Buyer;
use crate::domain::order_life::{Arrow, LedgerColumn, OrderEvent, Step};
use crate::domain::reservation::ReleaseRequest;
use crate::domain::{
    Decision, Instance, Month, Order, OrderId, OrderRecord, OrderState, SaleId, Shard, SkuId, UserId,
};
use crate::ports::{Moved, OrderChanges, Overdue, StoreError, StoreResult};

const CONTEXT: &str = "change order";
const OVERDUE: &str = "read overdue orders";

/// Changes orders in the shards.
pub struct MysqlOrderChanges {
    mysql: Arc<Mysql>,
}

type Tx = Transaction<'static, MySql>;

/// Orders by the table that has their rows. Locks are taken in its order.
type ByTable<T> = BTreeMap<(Shard, Month), Vec<T>>;

impl MysqlOrderChanges {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    async fn change_row(&self, order: OrderId, event: OrderEvent) -> StoreResult<Moved> {
        let instance = self.mysql.map.instance_of(order.shard());
        let mut tx = self.mysql.begin(instance, CONTEXT).await?;
        let Some(mut found) = self.lock(order, &mut tx).await? else { return Ok(Moved::Absent) };
        let arrow = match found.state.on(event) {
            Step::Follows(arrow) => arrow,
            Step::Repeated => return Ok(Moved::Repeated(Box::new(found))),
            Step::Conflict => return Ok(Moved::Refused(Box::new(found))),
        };
        let decided = self.follow(instance, arrow, std::slice::from_ref(&found), &mut tx).await?;
        let [decision] = decided[..] else {
            return Err(StoreError::broken(CONTEXT, "one order, one decision"));
        };
        tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
        found.state = arrow.to;
        Ok(Moved::Done { order: Box::new(found), decision })
    }

    /// Reads an order and locks its row; `None` when it has none.
    async fn lock(&self, order: OrderId, tx: &mut Tx) -> StoreResult<Option<Order>> {
        let text = format!("SELECT {COLUMNS} FROM {{shard}}.orders_{{yyyymm}} WHERE order_id = ? FOR UPDATE");
        let row = sqlx::query(self.mysql.shard_sql(order.shard(), order.month(), &text))
            .bind(order.bytes().as_slice())
            .fetch_optional(&mut **tx)
            .await;
        match row {
            Ok(row) => row.as_ref().map(read).transpose(),
            Err(error) if is_missing_table(&error) => Ok(None),
            Err(error) => Err(failed(CONTEXT, error)),
        }
    }

    /// Takes orders of one state along an arrow, with all that follows. Their rows are locked.
    async fn follow(
        &self,
        instance: Instance,
        arrow: &Arrow,
        orders: &[Order],
        tx: &mut Tx,
    ) -> StoreResult<Vec<Decision>> {
        for ((shard, month), orders) in by_table(orders.iter(), |order| order.id) {
            self.set_state((shard, month), arrow, &orders, tx).await?;
            if arrow.to.facts().units.is_none() {
                self.drop_claims(shard, &orders, tx).await?;
            }
            let ids: Vec<OrderId> = orders.iter().map(|order| order.id).collect();
            self.note_moves(shard, arrow, &ids, tx).await?;
        }
        self.count_units(instance, arrow, orders, tx).await?;
        self.decide(instance, arrow.to, orders, tx).await
    }

    async fn set_state(
        &self,
        (shard, month): (Shard, Month),
        arrow: &Arrow,
        orders: &[&Order],
        tx: &mut Tx,
    ) -> StoreResult<()> {
        let ids = list(orders.iter().map(|order| order.id.bytes().as_slice()));
        let from: Vec<String> = arrow.from.iter().map(|state| format!("'{}'", state.as_str())).collect();
        let text = format!(
            "UPDATE {{shard}}.orders_{{yyyymm}} FORCE INDEX (PRIMARY) SET state = '{}' \
             WHERE order_id IN {ids} AND state IN ({})",
            arrow.to.as_str(),
            from.join(",")
        );
        let changed = sqlx::raw_sql(self.mysql.shard_sql(shard, month, &text)).execute(&mut **tx).await;
        let changed = changed.map_err(|error| failed(CONTEXT, error))?.rows_affected();
        if usize::try_from(changed) == Ok(orders.len()) {
            return Ok(());
        }
        Err(StoreError::broken(
            CONTEXT,
            format!("{changed} of {} rows changed under their locks", orders.len()),
        ))
    }

    /// Deletes the claims of orders, each by its whole key. A statement that finds them by a condition may go through
    /// the claims of others, and a lock that it had to wait for stays although the row is none of its own.
    async fn drop_claims(&self, shard: Shard, orders: &[&Order], tx: &mut Tx) -> StoreResult<()> {
        let users = list(sorted(orders.iter().map(|order| order.user.as_str().as_bytes())));
        let sales = list(sorted(orders.iter().map(|order| order.sale.as_str().as_bytes())));
        let ids = list(orders.iter().map(|order| order.id.bytes().as_slice()));
        let claims = format!("{}.claims", self.mysql.shard(shard));
        let text = format!(
            "SELECT sale_id, user_id, unit FROM {claims} WHERE sale_id IN {sales} AND user_id IN {users} \
             AND order_id IN {ids} ORDER BY sale_id, user_id, unit"
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut **tx).await;
        let mut statements = String::new();
        for row in rows.map_err(|error| failed(CONTEXT, error))? {
            let (sale, user): (Vec<u8>, Vec<u8>) = (
                row.try_get(0).map_err(|error| failed(CONTEXT, error))?,
                row.try_get(1).map_err(|error| failed(CONTEXT, error))?,
            );
            let unit: i32 = row.try_get(2).map_err(|error| failed(CONTEXT, error))?;
            statements.push_str(&format!("DELETE FROM {claims} WHERE sale_id = "));
            push_bytes(&mut statements, &sale);
            statements.push_str(" AND user_id = ");
            push_bytes(&mut statements, &user);
            statements.push_str(&format!(" AND unit = {unit};"));
        }
        if statements.is_empty() {
            return Ok(());
        }
        let dropped = sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut **tx).await;
        dropped.map(drop).map_err(|error| failed(CONTEXT, error))
    }

    async fn note_moves(
        &self,
        shard: Shard,
        arrow: &Arrow,
        orders: &[OrderId],
        tx: &mut Tx,
    ) -> StoreResult<()> {
        let Some(word) = arrow.move_word else { return Ok(()) };
        let table = format!("{}.order_moves (order_id, kind, at_ms)", self.mysql.shard(shard));
        let mut statements = Vec::new();
        push_insert(&mut statements, &table, orders, |text, order| {
            push_bytes(text, order.bytes());
            text.push_str(&format!(",'{word}',{NOW_MS}"));
        });
        for statement in statements {
            let noted = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut **tx).await;
            noted.map_err(|error| failed(CONTEXT, error))?;
        }
        Ok(())
    }

    /// Moves the orders' units from the column of their state to that of the next one, SKU by SKU.
    async fn count_units(
        &self,
        instance: Instance,
        arrow: &Arrow,
        orders: &[Order],
        tx: &mut Tx,
    ) -> StoreResult<()> {
        let mut units: BTreeMap<(&SaleId, &SkuId), (i64, i64)> = BTreeMap::new();
        for order in orders {
            let (held, sold) = units.entry((&order.sale, &order.sku)).or_default();
            let mut count = |column: Option<LedgerColumn>, units: i64| match column {
                Some(LedgerColumn::Held) => *held += units,
                Some(LedgerColumn::Sold) => *sold += units,
                None => {}
            };
            count(order.state.facts().units, -i64::from(order.quantity.units()));
            count(arrow.to.facts().units, i64::from(order.quantity.units()));
        }
        for ((sale, sku), (held, sold)) in units {
            let text = "UPDATE {control}.ledger SET held = held + ?, sold = sold + ? \
                        WHERE sale_id = ? AND sku_id = ? AND held + ? >= 0 AND sold + ? >= 0";
            let counted = sqlx::query(self.mysql.control_sql(instance, text))
                .bind(held)
                .bind(sold)
                .bind(sale.as_str().as_bytes())
                .bind(sku.as_str().as_bytes())
                .bind(held)
                .bind(sold)
                .execute(&mut **tx)
                .await
                .map_err(|error| failed(CONTEXT, error))?;
            if counted.rows_affected() != 1 {
                return Err(StoreError::broken(CONTEXT, format!("{sale}/{sku} does not count these units")));
            }
        }
        Ok(())
    }

    /// Answers what was decided of orders that came to `state`, and writes what the inventory is owed of them.
    async fn decide(
        &self,
        instance: Instance,
        state: OrderState,
        orders: &[Order],
        tx: &mut Tx,
    ) -> StoreResult<Vec<Decision>> {
        let mut keeps = HashMap::new();
        if state.holds_nothing() {
            for ((shard, _), orders) in by_table(orders.iter(), |order| order.id) {
                self.read_keeps(shard, &orders, &mut keeps, tx).await?;
            }
        }
        let decision = |order: &Order| {
            let buyer = (order.sale.clone(), order.user.clone());
            let buyer_keeps = state.holds_nothing().then(|| keeps.get(&buyer).copied().unwrap_or(0));
            Decision { order: order.id, state, buyer_keeps }
        };
        let decisions: Vec<Decision> = orders.iter().map(decision).collect();
        if state.holds_nothing() {
            let owed = orders.iter().zip(&decisions).map(|(order, decision)| Owing {
                sale: &order.sale,
                sku: &order.sku,
                user: &order.user,
                quantity: order.quantity,
                release: ReleaseRequest { decision: *decision, restock: true },
            });
            mysql_releases::owe(&self.mysql, instance, &owed.collect::<Vec<_>>(), tx).await?;
        }
        Ok(decisions)
    }

    /// Reads how many units the buyers of orders hold.
    async fn read_keeps(
        &self,
        shard: Shard,
        orders: &[&Order],
        keeps: &mut HashMap<Buyer, u32>,
        tx: &mut Tx,
    ) -> StoreResult<()> {
        let users = list(sorted(orders.iter().map(|order| order.user.as_str().as_bytes())));
        let sales = list(sorted(orders.iter().map(|order| order.sale.as_str().as_bytes())));
        let text = format!(
            "SELECT sale_id, user_id, COUNT(*) FROM {}.claims WHERE sale_id IN {sales} AND user_id IN {users} \
             GROUP BY sale_id, user_id",
            self.mysql.shard(shard)
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut **tx).await;
        for row in rows.map_err(|error| failed(CONTEXT, error))? {
            let (sale, user): (Vec<u8>, Vec<u8>) = (
                row.try_get(0).map_err(|error| failed(CONTEXT, error))?,
                row.try_get(1).map_err(|error| failed(CONTEXT, error))?,
            );
            let units: i64 = row.try_get(2).map_err(|error| failed(CONTEXT, error))?;
            let sale = std::str::from_utf8(&sale).ok().and_then(|sale| SaleId::parse(sale).ok());
            let user = std::str::from_utf8(&user).ok().and_then(|user| UserId::parse(user).ok());
            let buyer =
                sale.zip(user).ok_or_else(|| StoreError::broken(CONTEXT, "a claim that is not ours"))?;
            keeps.insert(buyer, u32::try_from(units).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// Writes the row of an order that no order writer has written. Answers `None` when it has a row.
    async fn write_cancelled(
        &self,
        record: &OrderRecord,
        payment_window_ms: i64,
    ) -> StoreResult<Option<Moved>> {
        let instance = self.mysql.map.instance_of(record.order_id.shard());
        let mut tx = self.mysql.begin(instance, CONTEXT).await?;
        let arrow = OrderEvent::Cancel.arrow();
        let text = format!(
            "INSERT INTO {{shard}}.orders_{{yyyymm}} ({COLUMNS}, epoch, created_ms) \
             VALUES (?, ?, ?, ?, ?, ?, ?, '{}', NULL, ?, {NOW_MS} + {payment_window_ms}, ?, {NOW_MS})",
            arrow.to.as_str()
        );
        let (shard, month) = (record.order_id.shard(), record.order_id.month());
        let inserted = sqlx::query(self.mysql.shard_sql(shard, month, &text))
            .bind(record.order_id.bytes().as_slice())
            .bind(record.sale_id.as_str().as_bytes())
            .bind(record.sku_id.as_str().as_bytes())
            .bind(record.user_id.as_str().as_bytes())
            .bind(record.quantity.units())
            .bind(record.unit_price.amount())
            .bind(record.unit_price.currency())
            .bind(record.accepted_ms)
            .bind(record.epoch)
            .execute(&mut *tx)
            .await;
        match inserted {
            Ok(_) => {}
            Err(error) if is_duplicate(&error) => return Ok(None),
            Err(error) => return Err(failed(CONTEXT, error)),
        }
        self.note_moves(shard, arrow, &[record.order_id], &mut tx).await?;
        let Some(order) = self.lock(record.order_id, &mut tx).await? else {
            return Err(StoreError::broken(CONTEXT, "a row that was written is not there"));
        };
        let decided = self.decide(instance, arrow.to, std::slice::from_ref(&order), &mut tx).await?;
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
            format!(
                "(SELECT order_id FROM {}.orders_{} WHERE state = '{}' AND expires_ms < {NOW_MS} - {} LIMIT {limit})",
                self.mysql.shard(shard),
                month.yyyymm(),
                OrderState::AwaitingPayment.as_str(),
                orders.grace_ms
            )
        });
        let text = format!("{} LIMIT {limit}", each.collect::<Vec<_>>().join(" UNION ALL "));
        sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(self.mysql.pool(orders.at)).await
    }

    async fn expire_rows(&self, at: Instance, orders: &[OrderId], grace_ms: u64) -> StoreResult<usize> {
        let mut tx = self.mysql.begin(at, CONTEXT).await?;
        let mut found: Vec<Order> = Vec::new();
        for ((shard, month), ids) in by_table(orders.iter(), |order| **order) {
            let ids = list(ids.into_iter().map(|id| id.bytes().as_slice()));
            // A lock that goes through the index of due orders would meet one that goes the other way.
            let text = format!(
                "SELECT {COLUMNS} FROM {{shard}}.orders_{{yyyymm}} FORCE INDEX (PRIMARY) \
                 WHERE order_id IN {ids} AND state = '{}' AND expires_ms < {NOW_MS} - {grace_ms} \
                 ORDER BY order_id FOR UPDATE SKIP LOCKED",
                OrderState::AwaitingPayment.as_str()
            );
            let rows = sqlx::raw_sql(self.mysql.shard_sql(shard, month, &text)).fetch_all(&mut *tx).await;
            for row in rows.map_err(|error| failed(CONTEXT, error))? {
                found.push(read(&row)?);
            }
        }
        if found.is_empty() {
            return Ok(0);
        }
        if let Err(error) = self.follow(at, OrderEvent::Expire.arrow(), &found, &mut tx).await {
            // A transaction that is dropped keeps its locks for a moment, and who tries again would pass over them.
            tx.rollback().await.map_err(|error| failed(CONTEXT, error))?;
            return Err(error);
        }
        tx.commit().await.map_err(|error| failed(CONTEXT, error))?;
        Ok(found.len())
    }
}

#[async_trait]
impl OrderChanges for MysqlOrderChanges {
    fn instances(&self) -> Vec<Instance> {
        self.mysql.map.all_instances().collect()
    }

    async fn change(&self, order: OrderId, event: OrderEvent) -> StoreResult<Moved> {
        if !self.mysql.map.holds(order.shard()) {
            return Ok(Moved::Absent);
        }
        let instance = self.mysql.map.instance_of(order.shard());
        self.mysql.change(instance, CONTEXT, self.change_row(order, event)).await
    }

    async fn cancel_unwritten(&self, record: &OrderRecord, payment_window_ms: i64) -> StoreResult<Moved> {
        let instance = self.mysql.map.instance_of(record.order_id.shard());
        match self.mysql.change(instance, CONTEXT, self.write_cancelled(record, payment_window_ms)).await? {
            Some(moved) => Ok(moved),
            // The order writer was quicker.
            None => self.change(record.order_id, OrderEvent::Cancel).await,
        }
    }

    async fn overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>> {
        self.mysql.read(OVERDUE, self.read_overdue(orders, limit)).await
    }

    async fn expire(&self, at: Instance, orders: &[OrderId], grace_ms: u64) -> StoreResult<usize> {
        let mut orders = orders.to_vec();
        orders.sort_unstable();
        self.mysql.change(at, CONTEXT, self.expire_rows(at, &orders, grace_ms)).await
    }
}

/// Sorts values and leaves out those that are there already.
fn sorted<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values.collect::<std::collections::BTreeSet<_>>().into_iter()
}

fn by_table<T>(orders: impl Iterator<Item = T>, id: impl Fn(&T) -> OrderId) -> ByTable<T> {
    let mut tables = ByTable::new();
    for order in orders {
        let id = id(&order);
        tables.entry((id.shard(), id.month())).or_default().push(order);
    }
    tables
}
