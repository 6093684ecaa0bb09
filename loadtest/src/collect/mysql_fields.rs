//! Runs queries of MySQL, and reads the fields of their rows.

use anyhow::Context;
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{AssertSqlSafe, Row};

use crate::ids::OrderId;

/// Reads a text. Texts leave MySQL as bytes: ids are VARBINARY, and what the driver calls a CHAR with a binary
/// collation differs between servers.
pub fn text(row: &MySqlRow, index: usize) -> anyhow::Result<String> {
    let bytes: Vec<u8> = row.try_get(index)?;
    String::from_utf8(bytes).context("a text column holds other bytes")
}

/// Reads a text that may be NULL. Bytes that are no UTF-8 are replaced.
pub fn optional_text(row: &MySqlRow, index: usize) -> anyhow::Result<Option<String>> {
    let bytes: Option<Vec<u8>> = row.try_get(index)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Reads a number.
pub fn number(row: &MySqlRow, index: usize) -> anyhow::Result<i64> {
    Ok(row.try_get(index)?)
}

/// Reads an order id, which is 16 bytes long.
pub fn order_id(row: &MySqlRow, index: usize) -> anyhow::Result<OrderId> {
    let bytes: Vec<u8> = row.try_get(index)?;
    OrderId::from_slice(&bytes).context("an order id is not 16 bytes long")
}

/// Runs a query with texts bound to its placeholders. The query itself is made of checked numbers and configured names
/// only.
pub async fn fetch(
    connection: &mut MySqlConnection,
    query: String,
    bound: &[&str],
) -> anyhow::Result<Vec<MySqlRow>> {
    let what = query.clone();
    let prepared = sqlx::query(AssertSqlSafe(query));
    let prepared = bound.iter().fold(prepared, |prepared, value| prepared.bind(value.as_bytes()));
    prepared.fetch_all(connection).await.with_context(|| format!("MySQL: {what}"))
}
