//! Brings the directory up to what the gates in Redis say, when the instance that has it was set back.

use std::collections::BTreeSet;

use redis::cmd;

use super::stores::{CONTEXT, Recoverer};
use crate::backend::distributed::mysql::{Mysql, failed};
use crate::domain::{BucketId, Sale, SaleId, SaleState, Sales};
use crate::ports::StoreResult;

/// How many keys Redis looks at for one answer.
const SCANNED: u32 = 1000;

/// In what the directory is behind the gates.
#[derive(Debug, Default)]
pub struct Behind {
    /// Buckets with a newer epoch than the directory knows.
    pub epochs: Vec<(BucketId, u32)>,
    /// Sales with a newer version than the directory has, each with the state that its gates have.
    pub sales: Vec<(SaleId, u64, SaleState)>,
    /// What only a person can bring together, each in a sentence.
    pub unclear: Vec<String>,
}

impl Recoverer {
    /// Answers whether the instance has the directory.
    pub fn has_directory(&self) -> bool {
        self.at == Mysql::DIRECTORY
    }

    /// Compares the directory with the gates.
    ///
    /// # Errors
    /// When Redis or the directory cannot be read.
    pub async fn behind(&self, sales: &Sales) -> StoreResult<Behind> {
        let mut behind = Behind::default();
        for sale in sales.values() {
            self.compare_gates(sale, &mut behind).await?;
        }
        let unknown = self.sales_with_gates().await?.into_iter().filter(|id| !sales.contains_key(id));
        behind.unclear.extend(unknown.map(|id| {
            format!(
                "sale {id} has gates in Redis, and the directory does not know it: create it again, as it was"
            )
        }));
        Ok(behind)
    }

    async fn compare_gates(&self, sale: &Sale, behind: &mut Behind) -> StoreResult<()> {
        let text =
            "SELECT COALESCE(MAX(epoch), 0) FROM {directory}.bucket_epochs WHERE sale_id = ? AND bucket = ?";
        let mut newest: Option<(u64, SaleState)> = None;
        for bucket in sale.bucket_ids() {
            let mut read = cmd("HMGET");
            read.arg(self.redis.keys(&bucket).gate).arg(&["epoch", "version", "state"]);
            let (epoch, version, state): (Option<u32>, Option<u64>, Option<String>) =
                self.redis.command(CONTEXT, &read).await?;
            let Some(epoch) = epoch else { continue };
            let known: i64 = sqlx::query_scalar(self.mysql.directory_sql(text))
                .bind(sale.id.as_str().as_bytes())
                .bind(bucket.bucket)
                .fetch_one(self.mysql.directory_pool())
                .await
                .map_err(|error| failed(CONTEXT, error))?;
            if i64::from(epoch) > known.max(i64::from(sale.epoch)) {
                behind.epochs.push((bucket, epoch));
            }
            let state =
                SaleState::ALL.into_iter().find(|of| of.gate() == state.as_deref() && state.is_some());
            let known = newest.map_or(sale.version, |(version, _)| version);
            newest = version.zip(state).filter(|(version, _)| *version > known).or(newest);
        }
        if let Some((version, state)) = newest {
            behind.unclear.push(format!(
                "sale {}: what was changed after its version {} is lost; it stays {}, as its gates are",
                sale.id,
                sale.version,
                state.as_str()
            ));
            behind.sales.push((sale.id.clone(), version, state));
        }
        Ok(())
    }

    async fn sales_with_gates(&self) -> StoreResult<BTreeSet<SaleId>> {
        let (mut cursor, mut found) = (0_u64, BTreeSet::new());
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(self.redis.gates()).arg("COUNT").arg(SCANNED);
            let (next, keys): (u64, Vec<String>) = self.redis.command(CONTEXT, &scan).await?;
            let sale = |key: &String| {
                let (_, rest) = key.split_once('{')?;
                SaleId::parse(rest.split_once('.')?.0).ok()
            };
            found.extend(keys.iter().filter_map(sale));
            cursor = next;
            if cursor == 0 {
                return Ok(found);
            }
        }
    }

    /// Raises what the directory has to what the gates have.
    ///
    /// # Errors
    /// When the directory cannot be changed.
    pub async fn catch_up(&self, behind: &Behind) -> StoreResult<()> {
        let fault = |error| failed(CONTEXT, error);
        let epoch = "INSERT INTO {directory}.bucket_epochs (sale_id, bucket, epoch, until_ms) VALUES (?, ?, ?, 0) \
                     ON DUPLICATE KEY UPDATE epoch = GREATEST(epoch, VALUES(epoch))";
        for (bucket, newest) in &behind.epochs {
            let query = sqlx::query(self.mysql.directory_sql(epoch)).bind(bucket.sale.as_str().as_bytes());
            let query = query.bind(bucket.bucket).bind(newest);
            query.execute(self.mysql.directory_pool()).await.map_err(fault)?;
        }
        let sale = "UPDATE {directory}.sales SET version = ?, state = ? WHERE sale_id = ? AND version < ?";
        let in_place = "UPDATE {directory}.epochs SET in_place = TRUE WHERE sale_id = ?";
        for (id, version, state) in &behind.sales {
            let id = id.as_str().as_bytes();
            let query = sqlx::query(self.mysql.directory_sql(sale)).bind(version).bind(state.as_str());
            let query = query.bind(id).bind(version);
            query.execute(self.mysql.directory_pool()).await.map_err(fault)?;
            let query = sqlx::query(self.mysql.directory_sql(in_place)).bind(id);
            query.execute(self.mysql.directory_pool()).await.map_err(fault)?;
        }
        Ok(())
    }
}
