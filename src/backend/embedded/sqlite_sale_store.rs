//! Keeps the sales.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_audit_log::audit;
use super::sqlite_rows::{column, failed};
use crate::domain::{Change, Sale, SaleId, SaleState};
use crate::ports::{SaleStore, StoreResult};

/// Serves sales from the database.
pub struct SqliteSaleStore {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

/// Holds a sale as its row holds it.
struct Written {
    id: String,
    starts_ms: i64,
    version: i64,
    definition: String,
}

impl Written {
    fn of(sale: &Sale) -> StoreResult<Self> {
        let definition =
            serde_json::to_string(sale).map_err(|error| broken("write sale", error.to_string()))?;
        let version = i64::try_from(sale.version).map_err(|error| broken("write sale", error.to_string()))?;
        Ok(Self { id: sale.id.to_string(), starts_ms: sale.starts_ms, version, definition })
    }
}

fn read(row: &SqliteRow) -> StoreResult<Sale> {
    let definition: &str = column(row, "definition")?;
    serde_json::from_str(definition).map_err(|error| broken("read sale", error.to_string()))
}

#[async_trait]
impl SaleStore for SqliteSaleStore {
    async fn sales(&self) -> StoreResult<Vec<Sale>> {
        let rows = sqlx::query("SELECT definition FROM sales ORDER BY starts_ms, sale_id")
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed("read sales", error))?;
        rows.iter().map(read).collect()
    }

    async fn unsettled(&self) -> StoreResult<Vec<Sale>> {
        let text =
            "SELECT definition FROM sales WHERE definition ->> '$.state' <> ? ORDER BY starts_ms, sale_id";
        let rows = sqlx::query(text).bind(SaleState::Settled.as_str()).fetch_all(self.sqlite.readers()).await;
        rows.map_err(|error| failed("read sales", error))?.iter().map(read).collect()
    }

    async fn sale(&self, id: &SaleId) -> StoreResult<Option<Sale>> {
        let row = sqlx::query("SELECT definition FROM sales WHERE sale_id = ?")
            .bind(id.as_str())
            .fetch_optional(self.sqlite.readers())
            .await
            .map_err(|error| failed("read sale", error))?;
        row.as_ref().map(read).transpose()
    }

    async fn create(&self, sale: &Sale, change: &Change) -> StoreResult<bool> {
        let (sale, change, at_ms) = (Written::of(sale)?, change.clone(), self.sqlite.time.now_ms());
        let work = async move |connection: &mut SqliteConnection| {
            let text = "INSERT INTO sales (sale_id, starts_ms, version, definition) VALUES (?, ?, ?, ?) \
                        ON CONFLICT DO NOTHING";
            let made = sqlx::query(text)
                .bind(&sale.id)
                .bind(sale.starts_ms)
                .bind(sale.version)
                .bind(&sale.definition)
                .execute(&mut *connection)
                .await
                .map_err(|error| failed("create sale", error))?;
            audited(made.rows_affected(), connection, &sale, &change, at_ms).await
        };
        self.sqlite.writer.write("create sale", work).await
    }

    async fn mark_in_place(&self, sale: &Sale) -> StoreResult<bool> {
        let id = sale.id.to_string();
        let work = async move |connection: &mut SqliteConnection| {
            let text = "UPDATE sales SET definition = json_set(definition, '$.in_place', json('true')) \
                        WHERE sale_id = ? AND NOT json_extract(definition, '$.in_place')";
            let done = sqlx::query(text).bind(&id).execute(connection).await;
            done.map(|done| done.rows_affected() == 1).map_err(|error| failed("mark in place", error))
        };
        self.sqlite.writer.write("mark in place", work).await
    }

    async fn replace(&self, sale: &Sale, expected: u64, change: &Change) -> StoreResult<bool> {
        let (sale, change, at_ms) = (Written::of(sale)?, change.clone(), self.sqlite.time.now_ms());
        let expected = i64::try_from(expected).unwrap_or(i64::MAX);
        let work = async move |connection: &mut SqliteConnection| {
            let text = "UPDATE sales SET starts_ms = ?, version = ?, definition = ? \
                        WHERE sale_id = ? AND version = ?";
            let changed = sqlx::query(text)
                .bind(sale.starts_ms)
                .bind(sale.version)
                .bind(&sale.definition)
                .bind(&sale.id)
                .bind(expected)
                .execute(&mut *connection)
                .await
                .map_err(|error| failed("change sale", error))?;
            audited(changed.rows_affected(), connection, &sale, &change, at_ms).await
        };
        self.sqlite.writer.write("change sale", work).await
    }
}

/// Writes the change's audit row when the change did something, and answers whether it did.
async fn audited(
    changed: u64,
    connection: &mut SqliteConnection,
    sale: &Written,
    change: &Change,
    at_ms: i64,
) -> StoreResult<bool> {
    if changed == 0 {
        return Ok(false);
    }
    audit(connection, change, (Some(&sale.id), Some(&sale.definition), None), at_ms).await?;
    Ok(true)
}
