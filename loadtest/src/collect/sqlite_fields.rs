//! Runs queries of a folder's database, and reads the fields of their rows.

use anyhow::Context;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::ids::OrderId;

/// Reads a text. Here and in [`number`], a value of another type than the schema's means that the folder is not ours.
pub fn text(row: &SqliteRow, index: usize) -> anyhow::Result<String> {
    Ok(sqlx::Row::try_get(row, index)?)
}

/// Reads a number.
pub fn number(row: &SqliteRow, index: usize) -> anyhow::Result<i64> {
    Ok(sqlx::Row::try_get(row, index)?)
}

/// Reads the number of a partition, a bucket or a month.
pub fn small(row: &SqliteRow, index: usize) -> anyhow::Result<u16> {
    let value = number(row, index)?;
    u16::try_from(value).with_context(|| format!("{value} is no number of a partition, bucket or month"))
}

/// Reads an order id, which is text here.
pub fn order_id(row: &SqliteRow, index: usize) -> anyhow::Result<OrderId> {
    let id = text(row, index)?;
    OrderId::parse(&id).with_context(|| format!("{id:?} is not an order id"))
}

/// Runs a query, with the sale bound to its placeholder when there is one.
pub async fn fetch(
    connection: &mut SqliteConnection,
    query: &'static str,
    sale: Option<&str>,
) -> anyhow::Result<Vec<SqliteRow>> {
    let prepared = sale.into_iter().fold(sqlx::query(query), |prepared, sale| prepared.bind(sale.to_owned()));
    prepared.fetch_all(connection).await.with_context(|| format!("SQLite: {query}"))
}
