//! Reads dead letters and notes what became of them.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_batch;
use super::sqlite_rows::{column, failed, number};
use crate::backend::readable::readable;
use crate::domain::{
    DeadLetter, DeadLetterId, Instance, LetterQuery, LetterState, OrderId, OrderRecord, Part, Sales,
};
use crate::ports::{DeadLetters, Redecided, StoreResult};

const READ: &str = "read dead letters";
/// The columns that [`read`] reads.
const COLUMNS: &str = "id, part, log_offset, reason, order_id, payload, state, at_ms, decided_ms";

/// Serves dead letters from the database.
pub struct SqliteDeadLetters {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

fn read(row: &SqliteRow) -> StoreResult<DeadLetter> {
    let (order, state): (Option<&str>, &str) = (column(row, "order_id")?, column(row, "state")?);
    let order = order.map(OrderId::parse).transpose();
    Ok(DeadLetter {
        id: DeadLetterId { at: Instance::FIRST, number: column(row, "id")? },
        part: Part::new(number(row, "part")?),
        offset: column(row, "log_offset")?,
        reason: column(row, "reason")?,
        order: order.map_err(|error| broken(READ, error.to_string()))?,
        payload: column(row, "payload")?,
        state: LetterState::parse(state).ok_or_else(|| broken(READ, state))?,
        at_ms: column(row, "at_ms")?,
        decided_ms: column(row, "decided_ms")?,
    })
}

#[async_trait]
impl DeadLetters for SqliteDeadLetters {
    async fn list(&self, query: &LetterQuery) -> StoreResult<Vec<DeadLetter>> {
        let text = format!(
            "SELECT {COLUMNS} FROM dead_letters WHERE id > ?1 AND (?2 IS NULL OR state = ?2) \
             AND (?3 IS NULL OR reason = ?3) ORDER BY id LIMIT ?4"
        );
        let rows = sqlx::query(AssertSqlSafe(text))
            .bind(query.after.map_or(0, |after| after.number))
            .bind(query.state.map(LetterState::as_str))
            .bind(query.reason.as_deref())
            .bind(query.limit)
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed(READ, error))?;
        Ok(rows.iter().filter_map(|row| readable("dead_letters", read(row))).collect())
    }

    async fn read(&self, id: DeadLetterId) -> StoreResult<Option<DeadLetter>> {
        if id.at != Instance::FIRST {
            return Ok(None);
        }
        let text = format!("SELECT {COLUMNS} FROM dead_letters WHERE id = ?");
        let query = sqlx::query(AssertSqlSafe(text)).bind(id.number);
        let row = query.fetch_optional(self.sqlite.readers()).await.map_err(|error| failed(READ, error))?;
        row.as_ref().map(read).transpose()
    }

    async fn decide(&self, id: DeadLetterId, state: LetterState) -> StoreResult<bool> {
        const DECIDE: &str =
            "UPDATE dead_letters SET state = ?, decided_ms = ? WHERE id = ? AND state = 'open'";
        if id.at != Instance::FIRST {
            return Ok(false);
        }
        let time = self.sqlite.time.clone();
        let work = async move |connection: &mut SqliteConnection| {
            let query = sqlx::query(DECIDE).bind(state.as_str()).bind(time.now_ms()).bind(id.number);
            let decided = query.execute(connection).await;
            Ok(decided.map_err(|error| failed("decide a dead letter", error))?.rows_affected() == 1)
        };
        self.sqlite.writer.write("decide a dead letter", work).await
    }

    async fn write_apart(&self, record: &OrderRecord, sales: &Sales) -> StoreResult<Redecided> {
        let (record, sales) = (record.clone(), sales.clone());
        let (map, time) = (self.sqlite.map, self.sqlite.time.clone());
        let work = async move |connection: &mut SqliteConnection| {
            sqlite_batch::write_apart(connection, &record, &sales, map, time.now_ms()).await
        };
        self.sqlite.writer.write("write apart", work).await
    }

    async fn open(&self) -> StoreResult<u64> {
        let text = "SELECT COUNT(*) FROM dead_letters WHERE state = 'open'";
        let open: i64 = sqlx::query_scalar(text)
            .fetch_one(self.sqlite.readers())
            .await
            .map_err(|error| failed(READ, error))?;
        Ok(open.unsigned_abs())
    }
}
