//! Tells the steps that orders took before there were events. It goes on where an interrupted run has left off.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Row};

use crate::backend::distributed::mysql::{Mysql, failed};
use crate::backend::distributed::mysql_journal as journal;
use crate::backend::distributed::mysql_order_moves::by_table;
use crate::backend::distributed::mysql_order_store::{COLUMNS, is_missing_table, read};
use crate::backend::distributed::mysql_text::{list, set_now};
use crate::backend::readable::readable;
use crate::domain::{Instance, Mover, Order, OrderId, OrderMove, Shard};
use crate::ports::{StoreError, StoreResult};

const CONTEXT: &str = "tell what happened before there were events";

/// Most orders of one transaction.
const ORDERS_MAX: usize = 500;

/// The steps of orders, each its word and its time.
type Noted = BTreeMap<OrderId, Vec<(String, i64)>>;

/// Tells the steps of an instance that no event tells yet. `progress` is told how many orders are done. The caller has
/// the lock of the instance's control database, and nothing else moves an order.
///
/// # Errors
/// When a statement fails. What is done stands, and the next run goes on.
pub async fn tell_all(mysql: &Mysql, instance: Instance, progress: &impl Fn(&str)) -> StoreResult<()> {
    for shard in mysql.map.shards_of(instance) {
        let Some(mut after) = upto(mysql, shard).await? else { continue };
        let mut done = 0;
        loop {
            let noted = read_noted(mysql, shard, &after).await?;
            let last = noted.last_key_value().map(|(last, _)| last.bytes().to_vec());
            tell(mysql, shard, &noted, last.as_deref()).await?;
            let Some(last) = last else { break };
            after = last;
            done += noted.len();
            progress(&format!("journal of shard {}: {done} orders", shard.number()));
        }
    }
    Ok(())
}

/// Reads up to which order a shard is done; `None` once it is done.
async fn upto(mysql: &Mysql, shard: Shard) -> StoreResult<Option<Vec<u8>>> {
    let instance = mysql.map.instance_of(shard);
    sqlx::query_scalar(
        mysql.control_sql(instance, "SELECT upto FROM {control}.retold_shards WHERE shard = ?"),
    )
    .bind(shard.number())
    .fetch_one(mysql.pool(instance))
    .await
    .map_err(|error| failed(CONTEXT, error))
}

/// Reads the steps of the next orders of a shard.
async fn read_noted(mysql: &Mysql, shard: Shard, after: &[u8]) -> StoreResult<Noted> {
    let fault = |error| failed(CONTEXT, error);
    let moves = format!("{}.order_moves", mysql.shard(shard));
    let text = format!(
        "SELECT m.order_id, m.kind, m.at_ms FROM {moves} m JOIN (SELECT DISTINCT order_id FROM {moves} \
         WHERE order_id > ? ORDER BY order_id LIMIT {ORDERS_MAX}) page ON page.order_id = m.order_id"
    );
    let pool = mysql.pool(mysql.map.instance_of(shard));
    let rows = sqlx::query(AssertSqlSafe(text)).bind(after).fetch_all(pool).await.map_err(fault)?;
    let mut noted = Noted::new();
    for row in rows {
        let id: Vec<u8> = row.try_get(0).map_err(fault)?;
        let id = OrderId::from_bytes(&id).map_err(|error| StoreError::broken(CONTEXT, error.to_string()))?;
        let step = (row.try_get(1).map_err(fault)?, row.try_get(2).map_err(fault)?);
        noted.entry(id).or_default().push(step);
    }
    Ok(noted)
}

/// Tells steps in one transaction, and says in it up to which order their shard is done now.
async fn tell(mysql: &Mysql, shard: Shard, noted: &Noted, upto: Option<&[u8]>) -> StoreResult<()> {
    let (instance, part) = (mysql.map.instance_of(shard), mysql.map.part_of(shard));
    let mut tx = mysql.begin(instance, CONTEXT).await?;
    let mut orders: Vec<Order> = Vec::new();
    for ((shard, month), ids) in by_table(noted.keys().copied(), |id| *id) {
        let ids = list(ids.iter().map(|id| id.bytes().as_slice()));
        let text =
            format!("SELECT {COLUMNS} FROM {{shard}}.orders_{{yyyymm}} WHERE order_id IN {ids} FOR UPDATE");
        match sqlx::raw_sql(mysql.shard_sql(shard, month, &text)).fetch_all(&mut *tx).await {
            Ok(rows) => orders.extend(rows.iter().filter_map(|row| readable("orders", read(row)))),
            // A month that was dropped has no orders whose steps could be told.
            Err(error) if is_missing_table(&error) => {}
            Err(error) => return Err(failed(CONTEXT, error)),
        }
    }
    let moves: Vec<OrderMove<'_>> = orders
        .iter()
        .flat_map(|order| noted.get(&order.id).into_iter().flat_map(|noted| OrderMove::retold(order, noted)))
        .collect();
    let fault = |error| failed(CONTEXT, error);
    let unknown = format!(
        "{} UPDATE {}.order_moves SET mover = '{}' WHERE order_id IN {}",
        set_now(),
        mysql.shard(shard),
        Mover::UNKNOWN.by,
        list(noted.keys().map(|id| id.bytes().as_slice()))
    );
    if !noted.is_empty() {
        sqlx::raw_sql(AssertSqlSafe(unknown)).execute(&mut *tx).await.map_err(fault)?;
    }
    journal::tell(mysql, part, &moves, &mut tx).await?;
    let done = mysql.control_sql(instance, "UPDATE {control}.retold_shards SET upto = ? WHERE shard = ?");
    sqlx::query(done).bind(upto).bind(shard.number()).execute(&mut *tx).await.map_err(fault)?;
    tx.commit().await.map_err(fault)
}
