//! Keeps the directory: the sales, the API keys, and an audit row of every change of a sale.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_rows::{column, failed};
use crate::domain::{ApiKey, Change, Sale, SaleId};
use crate::ports::{Keys, SaleStore, StoreResult};

/// Serves sales and API keys from the database.
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

    async fn sale(&self, id: &SaleId) -> StoreResult<Option<Sale>> {
        let row = sqlx::query("SELECT definition FROM sales WHERE sale_id = ?")
            .bind(id.as_str())
            .fetch_optional(self.sqlite.readers())
            .await
            .map_err(|error| failed("read sale", error))?;
        row.as_ref().map(read).transpose()
    }

    async fn create(&self, sale: &Sale, change: &Change) -> StoreResult<bool> {
        let (sale, change, at_ms) = (Written::of(sale)?, change.clone(), self.sqlite.clock.now_ms());
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

    async fn replace(&self, sale: &Sale, expected: u64, change: &Change) -> StoreResult<bool> {
        let (sale, change, at_ms) = (Written::of(sale)?, change.clone(), self.sqlite.clock.now_ms());
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

#[async_trait]
impl Keys for SqliteSaleStore {
    async fn api_key(&self, key_hash: [u8; 32]) -> StoreResult<Option<ApiKey>> {
        let text = "SELECT name, scopes FROM api_keys WHERE key_hash = ? AND revoked_ms IS NULL";
        let row = sqlx::query(text).bind(key_hash.to_vec()).fetch_optional(self.sqlite.readers()).await;
        let Some(row) = row.map_err(|error| failed("read API key", error))? else { return Ok(None) };
        let scopes: &str = column(&row, "scopes")?;
        Ok(Some(ApiKey {
            name: column(&row, "name")?,
            scopes: scopes.split(' ').map(str::to_owned).collect(),
        }))
    }

    async fn add_api_key(&self, key_hash: [u8; 32], key: &ApiKey) -> StoreResult<()> {
        let (key, at_ms) = (key.clone(), self.sqlite.clock.now_ms());
        let work = async move |connection: &mut SqliteConnection| {
            sqlx::query("INSERT INTO api_keys (key_hash, name, scopes, created_ms) VALUES (?, ?, ?, ?)")
                .bind(key_hash.to_vec())
                .bind(&key.name)
                .bind(key.scopes.join(" "))
                .bind(at_ms)
                .execute(connection)
                .await
                .map(drop)
                .map_err(|error| failed("add API key", error))
        };
        self.sqlite.writer.write("add API key", work).await
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
    let text = "INSERT INTO audit_log (at_ms, actor, action, sale_id, reason, request_id, sale_after) \
                VALUES (?, ?, ?, ?, ?, ?, ?)";
    sqlx::query(text)
        .bind(at_ms)
        .bind(&change.actor)
        .bind(change.action)
        .bind(&sale.id)
        .bind(&change.reason)
        .bind(&change.request_id)
        .bind(&sale.definition)
        .execute(connection)
        .await
        .map_err(|error| failed("write audit row", error))?;
    Ok(true)
}
