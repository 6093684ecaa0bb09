//! Settles sales: their reports stand in the database, and their rows leave the inventory.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::sqlite::Sqlite;
use super::sqlite_rows::{column, failed, parsed};
use crate::domain::{Month, Sale, SaleId, SaleState};
use crate::ports::{Seal, Settling, StoreResult, Waiting};

const READ: &str = "read settled sales";
const SETTLED: &str = "SELECT sale_id, starts_ms FROM sales WHERE definition ->> '$.state' = ?";
const SEAL: &str = "INSERT INTO sale_seals (sale_id, sealed_ms, hash, numbers, report) \
     SELECT ?1, ?2, ?3, ?4, ?5 FROM sales WHERE sale_id = ?1 AND definition ->> '$.state' <> 'settled' \
     ON CONFLICT DO UPDATE SET sealed_ms = ?2, hash = ?3, numbers = ?4, report = ?5";
const SEALED: &str = "SELECT e.sealed_ms, e.hash, e.numbers, e.report FROM sale_seals e \
     JOIN sales s ON s.sale_id = e.sale_id WHERE e.sale_id = ? AND s.definition ->> '$.state' = 'settled'";

/// Serves settled sales from the database.
pub struct SqliteSettling {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl Settling for SqliteSettling {
    async fn settled(&self) -> StoreResult<Vec<(SaleId, Month)>> {
        let rows =
            sqlx::query(SETTLED).bind(SaleState::Settled.as_str()).fetch_all(self.sqlite.readers()).await;
        let read = |row: &SqliteRow| {
            Ok((parsed(row, "sale_id", SaleId::parse)?, Month::of_ms(column(row, "starts_ms")?)))
        };
        rows.map_err(|error| failed(READ, error))?.iter().map(read).collect()
    }

    /// Answers none: units go back with the decision that frees them, and there is no outbox.
    async fn waiting(&self, _: &Sale) -> StoreResult<Waiting> {
        Ok(Waiting { releases: 0, set_aside: 0, adjustments: 0 })
    }

    async fn seal(&self, sale: &SaleId, seal: &Seal) -> StoreResult<()> {
        let (sale, seal) = (sale.clone(), seal.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let query = sqlx::query(SEAL).bind(sale.as_str()).bind(seal.sealed_ms).bind(&seal.hash);
            let sealed = query.bind(&seal.numbers).bind(&seal.report).execute(connection).await;
            sealed.map(drop).map_err(|error| failed("seal a sale", error))
        };
        self.sqlite.writer.write("seal a sale", work).await
    }

    async fn sealed(&self, sale: &SaleId) -> StoreResult<Option<Seal>> {
        let query = sqlx::query(SEALED).bind(sale.as_str());
        let row = query.fetch_optional(self.sqlite.readers()).await.map_err(|error| failed(READ, error))?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Seal {
            sealed_ms: column(&row, "sealed_ms")?,
            hash: column(&row, "hash")?,
            numbers: column(&row, "numbers")?,
            report: column(&row, "report")?,
        }))
    }

    async fn uncleared(&self) -> StoreResult<Vec<SaleId>> {
        let rows = sqlx::query("SELECT sale_id FROM sale_seals WHERE cleared = 0");
        let rows = rows.fetch_all(self.sqlite.readers()).await.map_err(|error| failed(READ, error))?;
        rows.iter().map(|row| parsed(row, "sale_id", SaleId::parse)).collect()
    }

    async fn clear(&self, sale: &Sale) -> StoreResult<()> {
        let sale = sale.id.clone();
        let work = async move |connection: &mut SqliteConnection| {
            for table in ["gates", "stock", "buyers", "reservations"] {
                let text = format!("DELETE FROM {table} WHERE sale_id = ?");
                let cleared =
                    sqlx::query(AssertSqlSafe(text)).bind(sale.as_str()).execute(&mut *connection).await;
                cleared.map_err(|error| failed("clear a sale", error))?;
            }
            let note = sqlx::query("UPDATE sale_seals SET cleared = 1 WHERE sale_id = ?").bind(sale.as_str());
            note.execute(connection).await.map(drop).map_err(|error| failed("clear a sale", error))
        };
        self.sqlite.writer.write("clear a sale", work).await
    }
}
