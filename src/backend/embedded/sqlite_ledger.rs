//! Keeps the stock ledger, which has one row per SKU of a sale. There is one instance, so the ledger is also its pool.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use super::sqlite::Sqlite;
use super::sqlite_rows::{column, failed, parsed};
use crate::domain::{Holdings, Sale, SkuId};
use crate::ports::{Ledger, StoreResult};

/// Serves the ledger from the database.
pub struct SqliteLedger {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn open_pools(&self, sale: &Sale) -> StoreResult<()> {
        let sale = sale.clone();
        let work = async move |connection: &mut SqliteConnection| {
            for item in &sale.items {
                let text =
                    "INSERT INTO ledger (sale_id, sku_id, stock) VALUES (?, ?, ?) ON CONFLICT DO NOTHING";
                sqlx::query(text)
                    .bind(sale.id.as_str())
                    .bind(item.sku_id.as_str())
                    .bind(item.stock)
                    .execute(&mut *connection)
                    .await
                    .map_err(|error| failed("open pools", error))?;
            }
            Ok(())
        };
        self.sqlite.writer.write("open pools", work).await
    }

    /// Reads what orders hold and have sold. The same units count as granted and as allotted, because there is no pool
    /// apart from the ledger.
    async fn holdings(&self, sale: &Sale) -> StoreResult<HashMap<SkuId, Holdings>> {
        let rows = sqlx::query("SELECT sku_id, stock, held, sold, withheld FROM ledger WHERE sale_id = ?")
            .bind(sale.id.as_str())
            .fetch_all(self.sqlite.readers())
            .await
            .map_err(|error| failed("read holdings", error))?;
        let mut holdings = HashMap::new();
        for row in rows {
            let (stock, held, sold): (i64, i64, i64) =
                (column(&row, "stock")?, column(&row, "held")?, column(&row, "sold")?);
            let withheld: i64 = column(&row, "withheld")?;
            let used = held + sold + withheld;
            let of = Holdings { stock, granted: used, allotted: used, held, sold, withheld };
            holdings.insert(parsed(&row, "sku_id", SkuId::parse)?, of);
        }
        Ok(holdings)
    }
}
