//! Keeps the audit log.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_rows::{column, failed};
use crate::domain::audit::{AuditQuery, AuditRow};
use crate::domain::operator::Subject;
use crate::domain::{Change, SaleId};
use crate::ports::{AuditLog, StoreResult};

const AUDIT: &str = "write audit row";
/// A condition without a value holds for every row.
const ROWS: &str = "SELECT id, at_ms, actor, action, sale_id, reason, request_id, \
     COALESCE(sale_after, details, 'null') AS subject FROM audit_log \
     WHERE (?1 IS NULL OR actor = ?1) AND (?2 IS NULL OR action = ?2) AND (?3 IS NULL OR sale_id = ?3) \
     AND (?4 IS NULL OR at_ms >= ?4) AND (?5 IS NULL OR at_ms < ?5) AND (?6 IS NULL OR id < ?6) \
     ORDER BY id DESC LIMIT ?7";

/// Serves the audit log from the database.
pub struct SqliteAuditLog {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl AuditLog for SqliteAuditLog {
    async fn note(&self, change: &Change, subject: &Subject) -> StoreResult<()> {
        let (change, at_ms) = (change.clone(), self.sqlite.time.now_ms());
        let subject = subject.clone();
        let work =
            async move |connection: &mut SqliteConnection| note(connection, &change, &subject, at_ms).await;
        self.sqlite.writer.write(AUDIT, work).await
    }

    async fn rows(&self, wanted: &AuditQuery) -> StoreResult<Vec<AuditRow>> {
        let AuditQuery { actor, action, sale, since_ms, until_ms, before, limit } = wanted;
        let query = sqlx::query(ROWS).bind(actor.as_deref()).bind(action.as_deref());
        let query = query.bind(sale.as_ref().map(SaleId::as_str)).bind(since_ms).bind(until_ms);
        let rows = query.bind(before).bind(limit).fetch_all(self.sqlite.readers()).await;
        rows.map_err(|error| failed("read audit log", error))?.iter().map(stored).collect()
    }
}

fn stored(row: &SqliteRow) -> StoreResult<AuditRow> {
    Ok(AuditRow {
        number: column(row, "id")?,
        at_ms: column(row, "at_ms")?,
        actor: column(row, "actor")?,
        action: column(row, "action")?,
        sale: column(row, "sale_id")?,
        reason: column(row, "reason")?,
        request_id: column(row, "request_id")?,
        subject: column(row, "subject")?,
    })
}

/// Writes the audit row of a change.
///
/// # Errors
/// When the row cannot be written.
pub async fn note(
    connection: &mut SqliteConnection,
    change: &Change,
    subject: &Subject,
    at_ms: i64,
) -> StoreResult<()> {
    let json = serde_json::to_string(subject).map_err(|error| broken(AUDIT, error.to_string()))?;
    let sale_id = subject.sale().map(SaleId::as_str);
    let columns = if sale_id.is_some() { (sale_id, Some(&*json), None) } else { (None, None, Some(&*json)) };
    audit(connection, change, columns, at_ms).await
}

/// Writes an audit row: of the change of a sale, with the sale as it is then, or of another change, with its details.
///
/// # Errors
/// When the row cannot be written.
pub async fn audit(
    connection: &mut SqliteConnection,
    change: &Change,
    (sale_id, sale_after, details): (Option<&str>, Option<&str>, Option<&str>),
    at_ms: i64,
) -> StoreResult<()> {
    let text = "INSERT INTO audit_log (at_ms, actor, action, sale_id, reason, request_id, sale_after, details) \
                VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(text)
        .bind(at_ms)
        .bind(&change.actor)
        .bind(change.action)
        .bind(sale_id)
        .bind(&change.reason)
        .bind(&change.request_id)
        .bind(sale_after)
        .bind(details)
        .execute(connection)
        .await
        .map(drop)
        .map_err(|error| failed(AUDIT, error))
}
