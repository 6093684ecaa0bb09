//! Tells the steps that orders took before there were events. It goes on where an interrupted run has left off.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::sqlite::Sqlite;
use super::sqlite_journal::tell;
use super::sqlite_order_store::{COLUMNS, read};
use super::sqlite_rows::{change_one, column, failed, parsed};
use crate::backend::readable::readable;
use crate::domain::{Mover, Order, OrderId, OrderMove};
use crate::ports::StoreResult;

const CONTEXT: &str = "tell what happened before there were events";
const NOTED: &str = "SELECT m.order_id, m.kind, m.at_ms FROM order_moves m JOIN (SELECT DISTINCT order_id \
     FROM order_moves WHERE order_id > ? ORDER BY order_id LIMIT 500) page ON page.order_id = m.order_id";
const UNKNOWN: &str = "UPDATE order_moves SET mover = ? WHERE order_id IN (SELECT value FROM json_each(?))";

/// The steps of orders, each its word and its time.
type Noted = BTreeMap<OrderId, Vec<(String, i64)>>;

/// Tells the steps of a folder that no event tells yet.
///
/// # Errors
/// When a statement fails. What is done stands, and the next start goes on.
pub async fn tell_all(sqlite: &Sqlite) -> StoreResult<()> {
    let fault = |error| failed(CONTEXT, error);
    let upto = sqlx::query_scalar("SELECT upto FROM retold_orders").fetch_one(sqlite.readers()).await;
    let mut upto: Option<String> = upto.map_err(fault)?;
    let mut done = 0;
    while let Some(after) = upto {
        let rows = sqlx::query(NOTED).bind(&after).fetch_all(sqlite.readers()).await.map_err(fault)?;
        let mut noted = Noted::new();
        for row in &rows {
            let step = (column(row, "kind")?, column(row, "at_ms")?);
            noted.entry(parsed(row, "order_id", OrderId::parse)?).or_default().push(step);
        }
        upto = noted.last_key_value().map(|(last, _)| last.to_string());
        done += noted.len();
        let (now_ms, last) = (sqlite.time.now_ms(), upto.clone());
        let work = async move |connection: &mut SqliteConnection| {
            retell(connection, &noted, now_ms).await?;
            change_one(connection, sqlx::query("UPDATE retold_orders SET upto = ?").bind(&last)).await
        };
        sqlite.writer.write(CONTEXT, work).await?;
        if upto.is_some() {
            tracing::info!(
                orders = done,
                "the journal of a folder from before there were events is made whole"
            );
        }
    }
    Ok(())
}

async fn retell(connection: &mut SqliteConnection, noted: &Noted, now_ms: i64) -> StoreResult<()> {
    let text = format!("SELECT {COLUMNS} FROM orders WHERE order_id IN (SELECT value FROM json_each(?))");
    let ids = json!(noted.keys().collect::<Vec<_>>()).to_string();
    let fault = |error| failed(CONTEXT, error);
    let rows =
        sqlx::query(AssertSqlSafe(text)).bind(&ids).fetch_all(&mut *connection).await.map_err(fault)?;
    let orders: Vec<Order> = rows.iter().filter_map(|row| readable("orders", read(row))).collect();
    let unknown = sqlx::query(UNKNOWN).bind(Mover::UNKNOWN.by.as_ref()).bind(&ids);
    unknown.execute(&mut *connection).await.map_err(fault)?;
    let moves: Vec<OrderMove<'_>> = orders
        .iter()
        .flat_map(|order| noted.get(&order.id).into_iter().flat_map(|noted| OrderMove::retold(order, noted)))
        .collect();
    tell(connection, &moves, now_ms).await
}
