//! Sums up attempts in Redis: a hash for each sale.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::redis_link::RedisLink;
use crate::domain::SaleId;
use crate::domain::attempts::{Attempts, CountedAttempts};
use crate::ports::{AttemptCounts, StoreResult};

/// The field that says since when is counted, in ms since 1970. No outcome has its name.
const SINCE: &str = "since_ms";
/// How long sums are kept after the last attempt.
const KEPT_S: i64 = 7 * 86_400;

/// Serves the sums from Redis.
pub struct RedisAttempts {
    /// The link.
    pub link: Arc<RedisLink>,
}

#[async_trait]
impl AttemptCounts for RedisAttempts {
    async fn add(&self, new: &Attempts, now_ms: i64) -> StoreResult<()> {
        let mut sums = redis::pipe();
        for (sale, by_outcome) in new {
            let key = self.link.attempts(sale);
            sums.cmd("HSETNX").arg(&key).arg(SINCE).arg(now_ms).ignore();
            for (outcome, more) in by_outcome {
                sums.cmd("HINCRBY").arg(&key).arg(outcome).arg(*more).ignore();
            }
            sums.cmd("EXPIRE").arg(&key).arg(KEPT_S).ignore();
        }
        self.link.pipeline::<()>("add attempts", &sums).await
    }

    async fn of(&self, sale: &SaleId) -> StoreResult<CountedAttempts> {
        let read = redis::cmd("HGETALL").arg(self.link.attempts(sale)).to_owned();
        let mut by_outcome: BTreeMap<String, u64> = self.link.command("read attempts", &read).await?;
        let since_ms = by_outcome.remove(SINCE).and_then(|ms| i64::try_from(ms).ok());
        Ok(CountedAttempts { since_ms, by_outcome })
    }
}
