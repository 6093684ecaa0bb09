//! Adjusts the stock of sales that are on. All of it is one transaction, so none is ever under way.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_audit_log::note;
use super::sqlite_rows::{failed, number};
use crate::domain::operator::Subject;
use crate::domain::{Adjustment, Change, Sale, SaleId};
use crate::ports::{Adjusted, StockAdjustments, StoreResult};

const CONTEXT: &str = "adjust stock";
const VERSION: &str = "SELECT version FROM sales WHERE sale_id = ?";
const SALE: &str = "UPDATE sales SET version = ?, definition = ? WHERE sale_id = ?";
const LEDGER: &str =
    "UPDATE ledger SET stock = stock + ?, withheld = withheld - ? WHERE sale_id = ? AND sku_id = ?";
const STOCK: &str =
    "UPDATE stock SET available = available + ? WHERE sale_id = ? AND bucket = ? AND sku_id = ?";
const AVAILABLE: &str = "SELECT available FROM stock WHERE sale_id = ? AND bucket = ? AND sku_id = ?";

/// Serves adjustments from the database.
pub struct SqliteAdjustments {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl StockAdjustments for SqliteAdjustments {
    async fn adjust(&self, sale: &Sale, adjustment: &Adjustment, change: &Change) -> StoreResult<Adjusted> {
        let (sale, adjustment, change) = (sale.clone(), adjustment.clone(), change.clone());
        let at_ms = self.sqlite.time.now_ms();
        let work = async move |connection: &mut SqliteConnection| {
            adjust(connection, &sale, &adjustment, &change, at_ms).await
        };
        self.sqlite.writer.write(CONTEXT, work).await
    }

    async fn under_way(&self, _: &SaleId) -> StoreResult<Option<Adjustment>> {
        Ok(None)
    }

    async fn finish(&self, _: Duration) -> StoreResult<usize> {
        Ok(0)
    }
}

async fn adjust(
    connection: &mut SqliteConnection,
    sale: &Sale,
    adjustment: &Adjustment,
    change: &Change,
    at_ms: i64,
) -> StoreResult<Adjusted> {
    let fault = |error| failed(CONTEXT, error);
    // What is refused is looked for first: the transaction is committed in any case.
    let found = sqlx::query(VERSION).bind(sale.id.as_str()).fetch_optional(&mut *connection).await;
    let found: Option<u64> = found.map_err(fault)?.map(|row| number(&row, "version")).transpose()?;
    if found != Some(sale.version) {
        return Ok(Adjusted::VersionMoved);
    }
    let units = units_of(connection, sale, adjustment).await?;
    let free: i64 = units.iter().map(|(available, _)| available).sum();
    if free < i64::from(adjustment.taken()) {
        return Ok(Adjusted::Short { free: u32::try_from(free).unwrap_or(0) });
    }
    let adjusted = adjustment.applied_to(sale);
    let definition = serde_json::to_string(&adjusted).map_err(|error| broken(CONTEXT, error.to_string()))?;
    let version = i64::try_from(adjusted.version).map_err(|error| broken(CONTEXT, error.to_string()))?;
    let query = sqlx::query(SALE).bind(version).bind(definition).bind(sale.id.as_str());
    query.execute(&mut *connection).await.map_err(fault)?;
    let ledger = sqlx::query(LEDGER)
        .bind(i64::from(adjustment.after) - i64::from(adjustment.before))
        .bind(adjustment.returned)
        .bind(sale.id.as_str())
        .bind(adjustment.sku_id.as_str());
    ledger.execute(&mut *connection).await.map_err(fault)?;
    for (bucket, (_, change)) in (0u16..).zip(units) {
        let stock = sqlx::query(STOCK).bind(change).bind(sale.id.as_str()).bind(bucket);
        let done = stock.bind(adjustment.sku_id.as_str()).execute(&mut *connection).await.map_err(fault)?;
        if done.rows_affected() != 1 {
            return Err(broken(CONTEXT, format!("bucket {bucket} is not in place")));
        }
    }
    let subject = Subject::Stock { sale: Box::new(adjusted), adjusted: adjustment.clone(), refused: false };
    note(connection, change, &subject, at_ms).await?;
    Ok(Adjusted::Done)
}

/// Answers what each bucket has, and what it gets or, below 0, gives: its share, as far as it has it, and what others
/// cannot give.
async fn units_of(
    connection: &mut SqliteConnection,
    sale: &Sale,
    adjustment: &Adjustment,
) -> StoreResult<Vec<(i64, i64)>> {
    let mut units = Vec::new();
    let mut missing = i64::from(adjustment.taken());
    for bucket in sale.bucket_ids() {
        let query = sqlx::query(AVAILABLE).bind(sale.id.as_str()).bind(bucket.bucket);
        let row = query.bind(adjustment.sku_id.as_str()).fetch_optional(&mut *connection).await;
        let row = row.map_err(|error| failed(CONTEXT, error))?;
        let available: i64 = row.as_ref().map_or(Ok(0), |row| number(row, "available"))?;
        let given = available.min(sale.bucket_share(adjustment.taken(), bucket.bucket).into());
        missing -= given;
        units.push((available, i64::from(sale.bucket_share(adjustment.added(), bucket.bucket)) - given));
    }
    for (available, change) in &mut units {
        let more = missing.min(*available + *change).max(0);
        missing -= more;
        *change -= more;
    }
    Ok(units)
}
