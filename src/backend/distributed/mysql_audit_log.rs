//! Keeps the audit log in the directory.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, Row};

use super::mysql::{Mysql, connection, failed};
use crate::domain::audit::{AuditQuery, AuditRow};
use crate::domain::operator::Subject;
use crate::domain::{Change, SaleId};
use crate::ports::{AuditLog, StoreError, StoreResult};

const WRITE: &str = "write audit row";
const READ: &str = "read audit log";

/// Serves the audit log from the directory.
pub struct MysqlAuditLog {
    mysql: Arc<Mysql>,
}

impl MysqlAuditLog {
    /// Makes the port. It calls nothing.
    pub fn new(mysql: Arc<Mysql>) -> Self {
        Self { mysql }
    }

    async fn insert(&self, change: &Change, subject: &Subject) -> StoreResult<()> {
        let mut connection = connection(self.mysql.directory_pool(), WRITE).await?;
        audit(&self.mysql, change, subject, &mut connection).await
    }

    async fn read(&self, wanted: &AuditQuery) -> StoreResult<Vec<AuditRow>> {
        let AuditQuery { actor, action, sale, since_ms, until_ms, before, limit } = wanted;
        let texts = [
            (actor.as_deref(), "actor = ?"),
            (action.as_deref(), "action = ?"),
            (sale.as_ref().map(SaleId::as_str), "sale_id = ?"),
        ];
        let numbers = [
            (*since_ms, "UNIX_TIMESTAMP(at) * 1000 >= ?"),
            (*until_ms, "UNIX_TIMESTAMP(at) * 1000 < ?"),
            (*before, "id < ?"),
        ];
        let of_texts = texts.iter().filter(|(text, _)| text.is_some()).map(|(_, condition)| *condition);
        let of_numbers =
            numbers.iter().filter(|(number, _)| number.is_some()).map(|(_, condition)| *condition);
        let conditions: Vec<&str> = std::iter::once("TRUE").chain(of_texts).chain(of_numbers).collect();
        let text = format!(
            "SELECT id, CAST(UNIX_TIMESTAMP(at) * 1000 AS SIGNED), actor, action, sale_id, reason, request_id, \
             COALESCE(sale_after, details, 'null') FROM {{directory}}.audit_log WHERE {} ORDER BY id DESC LIMIT ?",
            conditions.join(" AND ")
        );
        let mut query = sqlx::query(self.mysql.directory_sql(&text));
        for text in texts.iter().filter_map(|(text, _)| *text) {
            query = query.bind(text);
        }
        for number in numbers.iter().filter_map(|(number, _)| *number) {
            query = query.bind(number);
        }
        let rows = query.bind(limit).fetch_all(self.mysql.directory_pool()).await;
        let rows = rows.map_err(|error| failed(READ, error))?;
        rows.iter().map(|row| stored(row).map_err(|error| failed(READ, error))).collect()
    }
}

fn stored(row: &MySqlRow) -> sqlx::Result<AuditRow> {
    let sale: Option<Vec<u8>> = row.try_get(4)?;
    Ok(AuditRow {
        number: row.try_get(0)?,
        at_ms: row.try_get(1)?,
        actor: row.try_get(2)?,
        action: row.try_get(3)?,
        sale: sale.map(|sale| String::from_utf8_lossy(&sale).into_owned()),
        reason: row.try_get(5)?,
        request_id: row.try_get(6)?,
        subject: row.try_get(7)?,
    })
}

#[async_trait]
impl AuditLog for MysqlAuditLog {
    async fn note(&self, change: &Change, subject: &Subject) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, WRITE, self.insert(change, subject)).await
    }

    async fn rows(&self, query: &AuditQuery) -> StoreResult<Vec<AuditRow>> {
        self.mysql.read(READ, self.read(query)).await
    }
}

/// Writes the audit row of a change, in the change's transaction.
///
/// # Errors
/// When the row cannot be written.
pub async fn audit(
    mysql: &Mysql,
    change: &Change,
    subject: &Subject,
    tx: &mut MySqlConnection,
) -> StoreResult<()> {
    let text = "INSERT INTO {directory}.audit_log \
                (actor, action, sale_id, reason, request_id, sale_after, details) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let json = serde_json::to_string(subject)
        .map_err(|error| StoreError::broken("write audit row", error.to_string()))?;
    let sale_id = subject.sale().map(|sale| sale.as_str().as_bytes());
    let (sale_after, details) = if sale_id.is_some() { (Some(json), None) } else { (None, Some(json)) };
    sqlx::query(mysql.directory_sql(text))
        .bind(&change.actor)
        .bind(change.action)
        .bind(sale_id)
        .bind(&change.reason)
        .bind(&change.request_id)
        .bind(sale_after)
        .bind(details)
        .execute(tx)
        .await
        .map(drop)
        .map_err(|error| failed("write audit row", error))
}
