//! Removes what is old from the database.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;
use sqlx::sqlite::SqliteConnection;

use super::sqlite::Sqlite;
use super::sqlite_rows::failed;
use crate::domain::{Instance, SaleId};
use crate::ports::{Retention, StoreResult};

const CONTEXT: &str = "remove what is old";
/// The first event that a reader has not had, or that a sale needs which is not settled.
const NEEDED_FROM: &str = "SELECT MIN( \
     COALESCE((SELECT MIN(COALESCE(r.next_number, 1)) FROM json_each(?1) wanted \
     LEFT JOIN event_readers r ON r.reader = wanted.value), next_number), \
     COALESCE((SELECT MIN(first_number) FROM view_marks WHERE sale_id NOT IN \
     (SELECT value FROM json_each(?2))), next_number)) FROM event_logs";
/// The first of those before it that is young, or itself.
const KEPT_FROM: &str = "SELECT COALESCE((SELECT first_number FROM order_events WHERE first_number < ?1 AND at_ms >= ?2 \
     ORDER BY first_number LIMIT 1), ?1)";
const EVENTS: &str = "DELETE FROM order_events WHERE first_number IN (SELECT first_number FROM order_events \
     WHERE first_number < ?1 AND first_number + events <= ?1 ORDER BY first_number LIMIT ?2)";
const LETTERS: &str = "DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters \
     WHERE state <> 'open' AND decided_ms < ? ORDER BY id LIMIT ?)";
const AUDIT_LOG: &str =
    "DELETE FROM audit_log WHERE id IN (SELECT id FROM audit_log WHERE at_ms < ? ORDER BY id LIMIT ?)";

/// Removes rows of the database.
pub struct SqliteRetention {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

/// Deletes what is below a bound, at most so many rows, and answers how many.
async fn delete(
    connection: &mut SqliteConnection,
    text: &'static str,
    below: i64,
    rows_max: u32,
) -> StoreResult<u64> {
    let deleted = sqlx::query(text).bind(below).bind(rows_max).execute(connection).await;
    Ok(deleted.map_err(|error| failed(CONTEXT, error))?.rows_affected())
}

#[async_trait]
impl Retention for SqliteRetention {
    async fn forget_events(
        &self,
        _: Instance,
        before_ms: i64,
        (read_by, settled): (&[&str], &[SaleId]),
        rows_max: u32,
    ) -> StoreResult<u64> {
        let (read_by, settled) = (json!(read_by).to_string(), json!(settled).to_string());
        let work = async move |connection: &mut SqliteConnection| {
            let fault = |error| failed(CONTEXT, error);
            let needed = sqlx::query_scalar(NEEDED_FROM).bind(&read_by).bind(&settled);
            let needed: i64 = needed.fetch_one(&mut *connection).await.map_err(fault)?;
            let kept = sqlx::query_scalar(KEPT_FROM).bind(needed).bind(before_ms);
            let kept_from: i64 = kept.fetch_one(&mut *connection).await.map_err(fault)?;
            delete(connection, EVENTS, kept_from, rows_max).await
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn forget_letters(&self, _: Instance, before_ms: i64, rows_max: u32) -> StoreResult<u64> {
        let work = async move |connection: &mut SqliteConnection| {
            delete(connection, LETTERS, before_ms, rows_max).await
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn forget_audit_log(&self, before_ms: i64, rows_max: u32) -> StoreResult<u64> {
        let work = async move |connection: &mut SqliteConnection| {
            delete(connection, AUDIT_LOG, before_ms, rows_max).await
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }
}
