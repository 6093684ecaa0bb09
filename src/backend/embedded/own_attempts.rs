//! Sums up attempts in memory: one process has the folder, and counts from its start.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;

use crate::domain::SaleId;
use crate::domain::attempts::{Attempts, CountedAttempts};
use crate::ports::{AttemptCounts, StoreResult};

/// Serves the sums from memory. There are as many as sales that sold in the life of the process.
#[derive(Default)]
pub struct OwnAttempts(Mutex<BTreeMap<SaleId, CountedAttempts>>);

#[async_trait]
impl AttemptCounts for OwnAttempts {
    async fn add(&self, new: &Attempts, now_ms: i64) -> StoreResult<()> {
        let mut sums = self.0.lock().expect("no code panics while holding it");
        for (sale, by_outcome) in new {
            let counted = sums.entry(sale.clone()).or_default();
            counted.since_ms.get_or_insert(now_ms);
            for (outcome, more) in by_outcome {
                *counted.by_outcome.entry(outcome.clone()).or_default() += more;
            }
        }
        Ok(())
    }

    async fn of(&self, sale: &SaleId) -> StoreResult<CountedAttempts> {
        let sums = self.0.lock().expect("no code panics while holding it");
        Ok(sums.get(sale).cloned().unwrap_or_default())
    }
}
