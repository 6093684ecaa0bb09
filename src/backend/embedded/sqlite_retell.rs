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
use crate::domain::{Order, OrderId, OrderMove};
use crate::ports::StoreResult;

const CONTEXT: &str = "tell what happened before there were events";
const NOTED: &str = "SELECT m.order_id, m.kind, m.at_ms FROM order_moves m JOIN (SELECT DISTINCT order_id \
     FROM order_moves WHERE from_state = '' AND order_id > ? ORDER BY order_id LIMIT 500) page \
     ON page.order_id = m.order_id WHERE m.from_state = ''";
const RETOLD: &str =
    "UPDATE order_moves SET from_state = ?, to_state = ?, mover = ? WHERE order_id = ? AND kind = ?";

/// The steps of orders, each its word and its time.
type Noted = BTreeMap<OrderId, Vec<(String, i64)>>;

/// Tells the steps of a folder that no event tells yet.
///
/// # Errors
/// When a statement fails. What is done stands, and the next start goes on.
pub async fn tell_all(sqlite: &Sqlite) -> StoreResult<()> {
    let fault = |error| failed(CONTEXT, error);
    let is_whole = sqlx::query_scalar("SELECT is_whole FROM event_logs").fetch_one(sqlite.readers()).await;
    if is_whole.map_err(fault)? {
        return Ok(());
    }
    let (mut after, mut done) = (String::new(), 0);
    loop {
        let rows = sqlx::query(NOTED).bind(&after).fetch_all(sqlite.readers()).await.map_err(fault)?;
        let mut noted = Noted::new();
        for row in &rows {
            let step = (column(row, "kind")?, column(row, "at_ms")?);
            noted.entry(parsed(row, "order_id", OrderId::parse)?).or_default().push(step);
        }
        let Some((last, _)) = noted.last_key_value() else { break };
        after = last.to_string();
        done += noted.len();
        let now_ms = sqlite.time.now_ms();
        let work = async move |connection: &mut SqliteConnection| retell(connection, &noted, now_ms).await;
        sqlite.writer.write(CONTEXT, work).await?;
        tracing::info!(orders = done, "the journal of a folder from before there were events is made whole");
    }
    let whole = async |connection: &mut SqliteConnection| {
        change_one(connection, sqlx::query("UPDATE event_logs SET is_whole = 1")).await
    };
    sqlite.writer.write(CONTEXT, whole).await
}

async fn retell(connection: &mut SqliteConnection, noted: &Noted, now_ms: i64) -> StoreResult<()> {
    let text = format!("SELECT {COLUMNS} FROM orders WHERE order_id IN (SELECT value FROM json_each(?))");
    let ids: Vec<&OrderId> = noted.keys().collect();
    let rows =
        sqlx::query(AssertSqlSafe(text)).bind(json!(ids).to_string()).fetch_all(&mut *connection).await;
    let rows = rows.map_err(|error| failed(CONTEXT, error))?;
    let orders: Vec<Order> = rows.iter().filter_map(|row| readable("orders", read(row))).collect();
    let moves: Vec<OrderMove<'_>> = orders
        .iter()
        .flat_map(|order| noted.get(&order.id).into_iter().flat_map(|noted| OrderMove::retold(order, noted)))
        .collect();
    for step in &moves {
        let query = sqlx::query(RETOLD).bind(step.from.as_ref()).bind(step.to.as_ref());
        let query = query.bind(step.by.as_ref()).bind(step.order_id.to_string()).bind(step.kind.as_ref());
        change_one(connection, query).await?;
    }
    tell(connection, &moves, now_ms).await
}
