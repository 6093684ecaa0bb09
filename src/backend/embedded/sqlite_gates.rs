//! Sets a sale's buckets as the operator wants them: puts the stock in place, and opens, pauses or ends the gates.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;

use super::failures::broken;
use super::sqlite::Sqlite;
use super::sqlite_rows::{column, failed, number, parsed};
use crate::domain::{Sale, SaleState, SkuId};
use crate::ports::{BucketState, Gates, Placed, StoreResult, UnitMove};

/// Serves the gates from the database.
pub struct SqliteGates {
    /// The database.
    pub sqlite: Arc<Sqlite>,
}

#[async_trait]
impl Gates for SqliteGates {
    /// One process has the folder, and nothing that it sold is lost without the rest: whoever comes may open the gates.
    async fn preheat(&self, sale: &Sale) -> StoreResult<Vec<Placed>> {
        let sale = sale.clone();
        let work = async move |connection: &mut SqliteConnection| {
            for bucket in 0..sale.buckets {
                put_in_place(connection, &sale, bucket).await?;
            }
            Ok(Vec::new())
        };
        self.sqlite.writer.write("preheat", work).await
    }

    async fn set_gates(&self, sale: &Sale, _: &[Placed]) -> StoreResult<()> {
        let Some(state) = sale.state.gate() else { return Ok(()) };
        if !sale.in_place && sale.state != SaleState::Ended {
            return Ok(());
        }
        // Gate repair calls this in every round, so nothing is written that stands already.
        if self.all_are(sale, state).await? {
            return Ok(());
        }
        let sale = sale.clone();
        let work = async move |connection: &mut SqliteConnection| {
            for bucket in 0..sale.buckets {
                set(connection, &sale, bucket, state).await?;
            }
            Ok(())
        };
        self.sqlite.writer.write("set gate", work).await
    }

    /// Moves the units in one transaction, so none is ever under way.
    async fn move_units(&self, sale: &Sale, from: u16, to: u16, sku: &SkuId, units: u32) -> StoreResult<u32> {
        let (sale, sku) = (sale.id.clone(), sku.clone());
        let work = async move |connection: &mut SqliteConnection| {
            let fault = |error| failed("move units", error);
            let text = "SELECT available FROM stock WHERE sale_id = ? AND bucket = ? AND sku_id = ?";
            let row = sqlx::query(text).bind(sale.as_str()).bind(from).bind(sku.as_str());
            let row = row.fetch_optional(&mut *connection).await.map_err(fault)?;
            let available: u32 = row.as_ref().map_or(Ok(0), |row| number(row, "available"))?;
            let moved = units.min(available);
            let text =
                "UPDATE stock SET available = available + ? WHERE sale_id = ? AND bucket = ? AND sku_id = ?";
            for (bucket, change) in [(from, -i64::from(moved)), (to, i64::from(moved))] {
                let query =
                    sqlx::query(text).bind(change).bind(sale.as_str()).bind(bucket).bind(sku.as_str());
                let done = query.execute(&mut *connection).await.map_err(fault)?;
                if done.rows_affected() != 1 {
                    return Err(broken("move units", format!("bucket {bucket} is not in place")));
                }
            }
            Ok(moved)
        };
        self.sqlite.writer.write("move units", work).await
    }

    async fn finish_move(&self, _: &Sale, _: u16, _: &UnitMove) -> StoreResult<()> {
        Ok(())
    }

    async fn now_ms(&self) -> StoreResult<i64> {
        Ok(self.sqlite.time.now_ms())
    }

    async fn buckets(&self, sale: &Sale) -> StoreResult<Vec<BucketState>> {
        let text = "SELECT g.bucket, s.sku_id, s.available FROM gates g \
             JOIN stock s ON s.sale_id = g.sale_id AND s.bucket = g.bucket WHERE g.sale_id = ?";
        let rows = sqlx::query(text).bind(sale.id.as_str()).fetch_all(self.sqlite.readers()).await;
        let mut found: BTreeMap<u16, HashMap<SkuId, i64>> = BTreeMap::new();
        for row in rows.map_err(|error| failed("read stock", error))? {
            let units = found.entry(number(&row, "bucket")?).or_default();
            units.insert(parsed(&row, "sku_id", SkuId::parse)?, column(&row, "available")?);
        }
        let state = |bucket| match found.remove(&bucket) {
            Some(available) => {
                BucketState::Whole { available, under_way: Vec::new(), placing_since_ms: None }
            }
            None => BucketState::Absent,
        };
        Ok((0..sale.buckets).map(state).collect())
    }
}

impl SqliteGates {
    async fn all_are(&self, sale: &Sale, state: &str) -> StoreResult<bool> {
        let text = "SELECT COUNT(*) AS gates FROM gates \
             WHERE sale_id = ? AND state = ? AND version >= ?";
        let row = sqlx::query(text)
            .bind(sale.id.as_str())
            .bind(state)
            .bind(i64::try_from(sale.version).unwrap_or(i64::MAX))
            .fetch_one(self.sqlite.readers())
            .await;
        let found: i64 = column(&row.map_err(|error| failed("read gates", error))?, "gates")?;
        Ok(found == i64::from(sale.buckets))
    }
}

/// Puts one bucket in place as `lua/preheat.lua` does: a gate that stands is left as it is.
async fn put_in_place(connection: &mut SqliteConnection, sale: &Sale, bucket: u16) -> StoreResult<()> {
    let fault = |error| failed("preheat", error);
    let gate = "INSERT INTO gates (sale_id, bucket, epoch, state, opens_ms, closes_ms, buyer_limit, unpaid_max) \
         VALUES (?, ?, ?, 'placing', ?, ?, ?, ?) ON CONFLICT DO NOTHING";
    let made = sqlx::query(gate)
        .bind(sale.id.as_str())
        .bind(bucket)
        .bind(sale.epoch)
        .bind(sale.starts_ms)
        .bind(sale.ends_ms)
        .bind(sale.buyer_limit)
        .bind(sale.unpaid_max)
        .execute(&mut *connection)
        .await
        .map_err(fault)?;
    if made.rows_affected() == 0 {
        let row = sqlx::query("SELECT epoch FROM gates WHERE sale_id = ? AND bucket = ?")
            .bind(sale.id.as_str())
            .bind(bucket)
            .fetch_one(connection)
            .await
            .map_err(fault)?;
        return match number::<u32>(&row, "epoch")? == sale.epoch {
            true => Ok(()),
            false => Err(broken("preheat", format!("bucket {bucket} has another epoch"))),
        };
    }
    for item in &sale.items {
        sqlx::query("INSERT INTO stock (sale_id, bucket, sku_id, available) VALUES (?, ?, ?, ?)")
            .bind(sale.id.as_str())
            .bind(bucket)
            .bind(item.sku_id.as_str())
            .bind(sale.bucket_stock(item, bucket))
            .execute(&mut *connection)
            .await
            .map_err(fault)?;
    }
    Ok(())
}

/// Sets one gate as `lua/gate.lua` does: never back to what an older version of the sale said.
async fn set(connection: &mut SqliteConnection, sale: &Sale, bucket: u16, state: &str) -> StoreResult<()> {
    let fault = |error| failed("set gate", error);
    let row =
        sqlx::query("SELECT COALESCE(version, 0) AS version FROM gates WHERE sale_id = ? AND bucket = ?")
            .bind(sale.id.as_str())
            .bind(bucket)
            .fetch_optional(&mut *connection)
            .await
            .map_err(fault)?;
    let Some(row) = row else {
        // A published sale may be ended before it was preheated. Then there is no gate to shut.
        return match sale.state {
            SaleState::Ended => Ok(()),
            _ => Err(broken("set gate", format!("bucket {bucket}: gate missing"))),
        };
    };
    if number::<u64>(&row, "version")? > sale.version {
        return Ok(());
    }
    sqlx::query("UPDATE gates SET state = ?, version = ? WHERE sale_id = ? AND bucket = ?")
        .bind(state)
        .bind(i64::try_from(sale.version).unwrap_or(i64::MAX))
        .bind(sale.id.as_str())
        .bind(bucket)
        .execute(connection)
        .await
        .map(drop)
        .map_err(fault)
}
