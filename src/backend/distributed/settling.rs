//! Settles sales: their reports stand in the directory, and their keys leave Redis.

use std::sync::Arc;

use async_trait::async_trait;
use redis::cmd;
use sqlx::Row;
use sqlx::mysql::MySqlRow;

use super::mysql::{Mysql, failed};
use super::redis_link::RedisLink;
use crate::domain::{Month, Sale, SaleId, SaleState};
use crate::ports::{Seal, Settling, StoreError, StoreResult, Waiting};

const READ: &str = "read settled sales";
const SEAL: &str = "seal a sale";

/// Serves settled sales from MySQL and Redis.
pub struct DistributedSettling {
    /// The directory and the instances.
    pub mysql: Arc<Mysql>,
    /// The inventory.
    pub redis: Arc<RedisLink>,
}

impl DistributedSettling {
    async fn read_settled(&self) -> StoreResult<Vec<(SaleId, Month)>> {
        let fault = |error| failed(READ, error);
        let text = "SELECT sale_id, starts_ms FROM {directory}.sales WHERE state = ?";
        let rows = sqlx::query(self.mysql.directory_sql(text))
            .bind(SaleState::Settled.as_str())
            .fetch_all(self.mysql.directory_pool())
            .await
            .map_err(fault)?;
        let mut settled = Vec::with_capacity(rows.len());
        for row in rows {
            let id: Vec<u8> = row.try_get(0).map_err(fault)?;
            let id = std::str::from_utf8(&id).ok().and_then(|id| SaleId::parse(id).ok());
            let id = id.ok_or_else(|| StoreError::broken(READ, "a sale id that is not ours"))?;
            settled.push((id, Month::of_ms(row.try_get(1).map_err(fault)?)));
        }
        Ok(settled)
    }

    async fn count_waiting(&self, sale: &Sale) -> StoreResult<Waiting> {
        let mut waiting = Waiting { releases: 0, set_aside: 0, adjustments: 0 };
        let text = "SELECT COUNT(*) FROM {directory}.stock_adjustments WHERE sale_id = ? AND under_way";
        let query = sqlx::query_scalar(self.mysql.directory_sql(text)).bind(sale.id.as_str().as_bytes());
        let count: i64 =
            query.fetch_one(self.mysql.directory_pool()).await.map_err(|error| failed(READ, error))?;
        waiting.adjustments = count.unsigned_abs();
        for at in self.mysql.map.all_instances() {
            let text = "SELECT COUNT(*) FROM {control}.release_outbox WHERE sale_id = ?";
            let query =
                sqlx::query_scalar(self.mysql.control_sql(at, text)).bind(sale.id.as_str().as_bytes());
            let count: i64 =
                query.fetch_one(self.mysql.pool(at)).await.map_err(|error| failed(READ, error))?;
            waiting.releases += count.unsigned_abs();
        }
        for bucket in sale.bucket_ids() {
            let mut len = cmd("XLEN");
            len.arg(self.redis.keys(&bucket).set_aside);
            waiting.set_aside += self.redis.command::<u64>("count what was set aside", &len).await?;
        }
        Ok(waiting)
    }

    async fn replace_seal(&self, sale: &SaleId, seal: &Seal) -> StoreResult<()> {
        let text = "INSERT INTO {directory}.sale_seals (sale_id, sealed_ms, hash, numbers, report) \
                    SELECT sale_id, ?, ?, ?, ? FROM {directory}.sales WHERE sale_id = ? AND state <> ? \
                    ON DUPLICATE KEY UPDATE sealed_ms = VALUES(sealed_ms), hash = VALUES(hash), \
                    numbers = VALUES(numbers), report = VALUES(report)";
        let sealed = sqlx::query(self.mysql.directory_sql(text))
            .bind(seal.sealed_ms)
            .bind(&seal.hash)
            .bind(&seal.numbers)
            .bind(&seal.report)
            .bind(sale.as_str().as_bytes())
            .bind(SaleState::Settled.as_str())
            .execute(self.mysql.directory_pool())
            .await;
        sealed.map(drop).map_err(|error| failed(SEAL, error))
    }

    async fn read_uncleared(&self) -> StoreResult<Vec<SaleId>> {
        let fault = |error| failed(READ, error);
        let text = "SELECT sale_id FROM {directory}.sale_seals WHERE cleared = FALSE";
        let rows = sqlx::query(self.mysql.directory_sql(text)).fetch_all(self.mysql.directory_pool()).await;
        let read = |row: &MySqlRow| {
            let id: Vec<u8> = row.try_get(0).map_err(fault)?;
            let id = std::str::from_utf8(&id).ok().and_then(|id| SaleId::parse(id).ok());
            id.ok_or_else(|| StoreError::broken(READ, "a sale id that is not ours"))
        };
        rows.map_err(fault)?.iter().map(read).collect()
    }

    async fn note_cleared(&self, sale: &SaleId) -> StoreResult<()> {
        for text in [
            "DELETE FROM {directory}.stock_adjustments WHERE sale_id = ?",
            "UPDATE {directory}.sale_seals SET cleared = TRUE WHERE sale_id = ?",
        ] {
            let query = sqlx::query(self.mysql.directory_sql(text)).bind(sale.as_str().as_bytes());
            query.execute(self.mysql.directory_pool()).await.map_err(|error| failed(SEAL, error))?;
        }
        Ok(())
    }

    async fn read_seal(&self, sale: &SaleId) -> StoreResult<Option<Seal>> {
        let fault = |error| failed(READ, error);
        let text = "SELECT e.sealed_ms, e.hash, e.numbers, e.report FROM {directory}.sale_seals e \
                    JOIN {directory}.sales s ON s.sale_id = e.sale_id WHERE e.sale_id = ? AND s.state = ?";
        let query = sqlx::query(self.mysql.directory_sql(text)).bind(sale.as_str().as_bytes());
        let query = query.bind(SaleState::Settled.as_str());
        let row = query.fetch_optional(self.mysql.readers(Mysql::DIRECTORY)).await.map_err(fault)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Seal {
            sealed_ms: row.try_get(0).map_err(fault)?,
            hash: row.try_get(1).map_err(fault)?,
            numbers: row.try_get(2).map_err(fault)?,
            report: row.try_get(3).map_err(fault)?,
        }))
    }
}

#[async_trait]
impl Settling for DistributedSettling {
    async fn settled(&self) -> StoreResult<Vec<(SaleId, Month)>> {
        self.mysql.read(READ, self.read_settled()).await
    }

    async fn waiting(&self, sale: &Sale) -> StoreResult<Waiting> {
        self.mysql.read(READ, self.count_waiting(sale)).await
    }

    async fn seal(&self, sale: &SaleId, seal: &Seal) -> StoreResult<()> {
        self.mysql.change(Mysql::DIRECTORY, SEAL, self.replace_seal(sale, seal)).await
    }

    async fn sealed(&self, sale: &SaleId) -> StoreResult<Option<Seal>> {
        self.mysql.read(READ, self.read_seal(sale)).await
    }

    async fn uncleared(&self) -> StoreResult<Vec<SaleId>> {
        self.mysql.read(READ, self.read_uncleared()).await
    }

    /// Large keys are freed on a thread of their own: nobody waits for Redis meanwhile.
    async fn clear(&self, sale: &Sale) -> StoreResult<()> {
        for bucket in sale.bucket_ids() {
            let mut unlink = cmd("UNLINK");
            // The gate goes with them: a bucket without a gate sells nothing.
            unlink.arg(self.redis.keys(&bucket).all());
            self.redis.command::<i64>("clear a sale", &unlink).await?;
        }
        self.mysql.change(Mysql::DIRECTORY, SEAL, self.note_cleared(&sale.id)).await
    }
}
