//! Takes orders along the arrows of their life: each step writes all that follows in the caller's transaction.
//!
//! The order of locks is: the orders' rows, ascending → their payments → their claims → the ledger, ascending → the
//! numbers of events, ascending. No order writer can wait for a change in a circle;
//! docs/adr/0020-orders-are-given-up.md goes through the pairs.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sqlx::{AssertSqlSafe, MySql, Row, Transaction};

use super::mysql::{Mysql, failed};
use super::mysql_journal as journal;
use super::mysql_order_store::{COLUMNS, is_missing_table, read};
use super::mysql_releases::{self, Owing};
use super::mysql_text::{list, push_bytes, set_now};
use crate::domain::batch_plan::Buyer;
use crate::domain::order_life::{Arrow, LedgerColumn};
use crate::domain::reservation::ReleaseRequest;
use crate::domain::{
    Decision, Instance, Month, Mover, Order, OrderId, OrderMove, OrderState, Part, SaleId, Shard, SkuId,
    UserId,
};
use crate::ports::{StoreError, StoreResult};

const CONTEXT: &str = "change order";

/// Takes orders along arrows.
pub struct MysqlOrderMoves {
    /// The databases.
    pub mysql: Arc<Mysql>,
}

/// A transaction on one instance.
pub type Tx = Transaction<'static, MySql>;

/// Orders by the table that has their rows. Locks are taken in its order.
pub type ByTable<T> = BTreeMap<(Shard, Month), Vec<T>>;

/// How orders are moved.
pub struct Along<'a> {
    /// The arrow that they follow.
    pub arrow: &'static Arrow,
    /// Whether the units of orders that hold nothing any more go back on sale. Those that do not are withheld when they
    /// were sold before.
    pub restock: bool,
    /// Who moves them.
    pub mover: &'a Mover<'a>,
    /// When each was moved, ms since 1970, if that was not now.
    pub times: Option<&'a BTreeMap<OrderId, i64>>,
}

impl Along<'_> {
    fn step<'a>(&'a self, order: &'a Order) -> OrderMove<'a> {
        let at_ms = self.times.and_then(|times| times.get(&order.id).copied());
        OrderMove { at_ms, ..OrderMove::of(order, (self.arrow, self.restock), self.mover) }
    }
}

impl MysqlOrderMoves {
    /// Reads an order and locks its row; `None` when it has none.
    pub async fn lock(&self, order: OrderId, tx: &mut Tx) -> StoreResult<Option<Order>> {
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
    pub async fn follow(
        &self,
        instance: Instance,
        along: Along<'_>,
        orders: &[Order],
        tx: &mut Tx,
    ) -> StoreResult<Vec<Decision>> {
        let Along { arrow, restock, .. } = along;
        for (nth, ((shard, month), orders)) in
            by_table(orders.iter(), |order| order.id).into_iter().enumerate()
        {
            self.set_state((shard, month), (arrow, nth == 0), &orders, tx).await?;
            if arrow.to.facts().units.is_none() {
                self.drop_claims(shard, &orders, tx).await?;
            }
            let moves: Vec<OrderMove<'_>> = orders.iter().map(|order| along.step(order)).collect();
            journal::note_moves(&self.mysql, shard, &moves, tx).await?;
        }
        self.count_units(instance, (arrow, restock), orders, tx).await?;
        let decisions = self.decide(instance, (arrow.to, restock), orders, tx).await?;
        let mut told: BTreeMap<Part, Vec<OrderMove<'_>>> = BTreeMap::new();
        for order in orders {
            let part = self.mysql.map.part_of(order.id.shard());
            told.entry(part).or_default().push(along.step(order));
        }
        for (part, moves) in told {
            journal::tell(&self.mysql, part, &moves, tx).await?;
        }
        Ok(decisions)
    }

    /// Sets the state of orders of one table. The first of several calls also sets the time of the change.
    async fn set_state(
        &self,
        (shard, month): (Shard, Month),
        (arrow, is_first): (&Arrow, bool),
        orders: &[&Order],
        tx: &mut Tx,
    ) -> StoreResult<()> {
        let ids = list(orders.iter().map(|order| order.id.bytes().as_slice()));
        let from: Vec<String> = arrow.from.iter().map(|state| format!("'{}'", state.as_str())).collect();
        let set_now = if is_first { set_now() } else { String::new() };
        let text = format!(
            "{set_now}UPDATE {{shard}}.orders_{{yyyymm}} FORCE INDEX (PRIMARY) SET state = '{}' \
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

    /// Moves the orders' units from the column of their state to that of the next one, SKU by SKU.
    async fn count_units(
        &self,
        instance: Instance,
        (arrow, restock): (&Arrow, bool),
        orders: &[Order],
        tx: &mut Tx,
    ) -> StoreResult<()> {
        let mut units: BTreeMap<(&SaleId, &SkuId), (i64, i64, i64)> = BTreeMap::new();
        for order in orders {
            let (held, sold, withheld) = units.entry((&order.sale, &order.sku)).or_default();
            if order.state.facts().units == Some(LedgerColumn::Sold) && !restock {
                *withheld += i64::from(order.quantity.units());
            }
            let mut count = |column: Option<LedgerColumn>, units: i64| match column {
                Some(LedgerColumn::Held) => *held += units,
                Some(LedgerColumn::Sold) => *sold += units,
                None => {}
            };
            count(order.state.facts().units, -i64::from(order.quantity.units()));
            count(arrow.to.facts().units, i64::from(order.quantity.units()));
        }
        for ((sale, sku), (held, sold, withheld)) in units {
            let text = "UPDATE {control}.ledger SET held = held + ?, sold = sold + ?, withheld = withheld + ? \
                        WHERE sale_id = ? AND sku_id = ? AND held + ? >= 0 AND sold + ? >= 0";
            let counted = sqlx::query(self.mysql.control_sql(instance, text))
                .bind(held)
                .bind(sold)
                .bind(withheld)
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
    pub async fn decide(
        &self,
        instance: Instance,
        (state, restock): (OrderState, bool),
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
                release: ReleaseRequest { decision: *decision, restock },
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
}

/// Sorts values and leaves out those that are there already.
fn sorted<'a>(values: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    values.collect::<std::collections::BTreeSet<_>>().into_iter()
}

/// Sorts orders by the table that has their rows.
pub fn by_table<T>(orders: impl Iterator<Item = T>, id: impl Fn(&T) -> OrderId) -> ByTable<T> {
    let mut tables = ByTable::new();
    for order in orders {
        let id = id(&order);
        tables.entry((id.shard(), id.month())).or_default().push(order);
    }
    tables
}
