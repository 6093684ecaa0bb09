//! Removes what is old from the databases.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{AssertSqlSafe, Row};

use super::mysql::{Mysql, failed};
use super::mysql_text::list;
use crate::domain::stored_event::FIRST_NUMBER;
use crate::domain::{Instance, SaleId};
use crate::ports::{Retention, StoreResult};

const CONTEXT: &str = "remove what is old";

/// Removes rows of all databases.
pub struct MysqlRetention {
    /// The pools.
    pub mysql: Arc<Mysql>,
}

impl MysqlRetention {
    async fn numbers(&self, at: Instance, text: String) -> StoreResult<BTreeMap<i32, i64>> {
        let fault = |error| failed(CONTEXT, error);
        let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(self.mysql.pool(at)).await.map_err(fault)?;
        let number = |row: &MySqlRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(number).collect::<Result<_, sqlx::Error>>().map_err(fault)
    }

    /// Answers below which number the events of each partition may go: all readers have had them, and no sale needs
    /// them that is not settled.
    async fn bounds(
        &self,
        at: Instance,
        read_by: &[&str],
        settled: &[SaleId],
    ) -> StoreResult<BTreeMap<i32, i64>> {
        let control = self.mysql.control(at);
        let mut bounds =
            self.numbers(at, format!("SELECT part, next_number FROM {control}.event_logs")).await?;
        for reader in read_by {
            let name = list([reader.as_bytes()].into_iter());
            let text =
                format!("SELECT part, next_number FROM {control}.event_readers WHERE reader IN {name}");
            let read = self.numbers(at, text).await?;
            for (part, bound) in &mut bounds {
                *bound = (*bound).min(read.get(part).copied().unwrap_or(FIRST_NUMBER));
            }
        }
        let but = match settled {
            [] => String::new(),
            _ => {
                format!(" WHERE sale_id NOT IN {}", list(settled.iter().map(|sale| sale.as_str().as_bytes())))
            }
        };
        let text = format!("SELECT part, MIN(first_number) FROM {control}.view_marks{but} GROUP BY part");
        for (part, first) in self.numbers(at, text).await? {
            bounds.entry(part).and_modify(|bound| *bound = (*bound).min(first));
        }
        Ok(bounds)
    }

    async fn events(
        &self,
        at: Instance,
        before_ms: i64,
        (read_by, settled): (&[&str], &[SaleId]),
        rows_max: u32,
    ) -> StoreResult<u64> {
        let mut gone = 0;
        for (part, bound) in self.bounds(at, read_by, settled).await? {
            // Rows were committed in the order of their numbers, and their times are nearly in it. Nothing is read
            // beyond the bound.
            let young = "SELECT COALESCE((SELECT first_number FROM {control}.order_events WHERE part = ? \
                         AND first_number < ? AND at_ms >= ? ORDER BY first_number LIMIT 1), ?)";
            let young: i64 = sqlx::query_scalar(self.mysql.control_sql(at, young))
                .bind(part)
                .bind(bound)
                .bind(before_ms)
                .bind(bound)
                .fetch_one(self.mysql.pool(at))
                .await
                .map_err(|error| failed(CONTEXT, error))?;
            let text = "DELETE FROM {control}.order_events WHERE part = ? AND first_number < ? \
                        AND first_number + events <= ? ORDER BY first_number LIMIT ?";
            let query = sqlx::query(self.mysql.control_sql(at, text)).bind(part).bind(young).bind(young);
            let deleted = query.bind(rows_max).execute(self.mysql.pool(at)).await;
            gone += deleted.map_err(|error| failed(CONTEXT, error))?.rows_affected();
        }
        Ok(gone)
    }

    async fn letters(&self, at: Instance, before_ms: i64, rows_max: u32) -> StoreResult<u64> {
        let text =
            "DELETE FROM {control}.dead_letters WHERE state <> 'open' AND decided_ms < ? ORDER BY id LIMIT ?";
        let query = sqlx::query(self.mysql.control_sql(at, text)).bind(before_ms).bind(rows_max);
        let deleted = query.execute(self.mysql.pool(at)).await;
        Ok(deleted.map_err(|error| failed(CONTEXT, error))?.rows_affected())
    }

    async fn audit_log(&self, before_ms: i64, rows_max: u32) -> StoreResult<u64> {
        let text =
            "DELETE FROM {directory}.audit_log WHERE UNIX_TIMESTAMP(at) * 1000 < ? ORDER BY id LIMIT ?";
        let query = sqlx::query(self.mysql.directory_sql(text)).bind(before_ms).bind(rows_max);
        let deleted = query.execute(self.mysql.directory_pool()).await;
        Ok(deleted.map_err(|error| failed(CONTEXT, error))?.rows_affected())
    }
}

#[async_trait]
impl Retention for MysqlRetention {
    async fn forget_events(
        &self,
        at: Instance,
        before_ms: i64,
        bounds: (&[&str], &[SaleId]),
        rows_max: u32,
    ) -> StoreResult<u64> {
        self.mysql.change(at, CONTEXT, self.events(at, before_ms, bounds, rows_max)).await
    }

    async fn forget_letters(&self, at: Instance, before_ms: i64, rows_max: u32) -> StoreResult<u64> {
        self.mysql.change(at, CONTEXT, self.letters(at, before_ms, rows_max)).await
    }

    async fn forget_audit_log(&self, before_ms: i64, rows_max: u32) -> StoreResult<u64> {
        self.mysql.change(Mysql::DIRECTORY, CONTEXT, self.audit_log(before_ms, rows_max)).await
    }
}
