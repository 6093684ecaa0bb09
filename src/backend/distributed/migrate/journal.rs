//! Tells the steps that orders took before there were events. It goes on where an interrupted run has left off.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Row};

use crate::backend::distributed::mysql::{Mysql, failed};
use crate::backend::distributed::mysql_journal::{self as journal, MOVE_COLUMNS, push_move};
use crate::backend::distributed::mysql_order_moves::by_table;
use crate::backend::distributed::mysql_order_store::{COLUMNS, is_missing_table, read};
use crate::backend::distributed::mysql_text::{list, push_insert, set_now};
use crate::backend::readable::readable;
use crate::domain::{Instance, Order, OrderId, OrderMove, Part, Shard};
use crate::ports::{StoreError, StoreResult};

const CONTEXT: &str = "tell what happened before there were events";

/// Most orders of one transaction.
const ORDERS_MAX: usize = 500;

/// The steps of orders, each its word and its time.
type Noted = BTreeMap<OrderId, Vec<(String, i64)>>;

/// Tells the steps of an instance that no event tells yet. `progress` is told how many orders are done. The caller has
/// the lock of the instance's control database.
///
/// # Errors
/// When a statement fails. What is done stands, and the next run goes on.
pub async fn tell_all(mysql: &Mysql, instance: Instance, progress: &impl Fn(&str)) -> StoreResult<()> {
    for part in mysql.map.all_parts().filter(|part| mysql.map.instance_of_part(*part) == instance) {
        if is_whole(mysql, part).await? {
            continue;
        }
        let mut done = 0;
        for shard in mysql.map.shards_of(instance).filter(|shard| mysql.map.part_of(*shard) == part) {
            let mut after = Vec::new();
            loop {
                let noted = read_noted(mysql, shard, &after).await?;
                let Some((last, _)) = noted.last_key_value() else { break };
                after = last.bytes().to_vec();
                done += noted.len();
                tell(mysql, (part, shard), &noted).await?;
                progress(&format!("journal of partition {}: {done} orders", part.number()));
            }
        }
        set_whole(mysql, part).await?;
    }
    Ok(())
}

async fn is_whole(mysql: &Mysql, part: Part) -> StoreResult<bool> {
    let instance = mysql.map.instance_of_part(part);
    let text = "SELECT is_whole FROM {control}.event_logs WHERE part = ?";
    sqlx::query_scalar(mysql.control_sql(instance, text))
        .bind(part.number())
        .fetch_one(mysql.pool(instance))
        .await
        .map_err(|error| failed(CONTEXT, error))
}

async fn set_whole(mysql: &Mysql, part: Part) -> StoreResult<()> {
    let instance = mysql.map.instance_of_part(part);
    let text = "UPDATE {control}.event_logs SET is_whole = TRUE WHERE part = ?";
    let query = sqlx::query(mysql.control_sql(instance, text)).bind(part.number());
    query.execute(mysql.pool(instance)).await.map(drop).map_err(|error| failed(CONTEXT, error))
}

/// Reads the steps of the next orders of a shard that no event tells.
async fn read_noted(mysql: &Mysql, shard: Shard, after: &[u8]) -> StoreResult<Noted> {
    let fault = |error| failed(CONTEXT, error);
    let moves = format!("{}.order_moves", mysql.shard(shard));
    let text = format!(
        "SELECT m.order_id, m.kind, m.at_ms FROM {moves} m JOIN (SELECT DISTINCT order_id FROM {moves} \
         WHERE from_state = '' AND order_id > ? ORDER BY order_id LIMIT {ORDERS_MAX}) page \
         ON page.order_id = m.order_id WHERE m.from_state = ''"
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

/// Tells steps in one transaction, and adds to their rows what the events say.
async fn tell(mysql: &Mysql, (part, shard): (Part, Shard), noted: &Noted) -> StoreResult<()> {
    let instance = mysql.map.instance_of(shard);
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
    let mut statements = vec![set_now()];
    let table = format!("{}.order_moves ({MOVE_COLUMNS})", mysql.shard(shard));
    push_insert(&mut statements, &table, &moves, push_move);
    for statement in &mut statements[1..] {
        statement.truncate(statement.trim_end_matches(';').len());
        statement.push_str(
            " ON DUPLICATE KEY UPDATE from_state = VALUES(from_state), to_state = VALUES(to_state), \
             mover = VALUES(mover)",
        );
    }
    for statement in statements {
        let noted = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await;
        noted.map_err(|error| failed(CONTEXT, error))?;
    }
    journal::tell(mysql, part, &moves, &mut tx).await?;
    tx.commit().await.map_err(|error| failed(CONTEXT, error))
}
