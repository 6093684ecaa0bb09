//! How often purchases were attempted, summed over the processes.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::SaleId;
use crate::domain::attempts::{Attempts, CountedAttempts};

/// The sums of attempts. They are for people who look, and no book: a process that dies leaves out its last second, and
/// a Redis that is lost begins again.
#[async_trait]
pub trait AttemptCounts: Send + Sync {
    /// Adds what a process has counted until a time, in ms since 1970. Not idempotent.
    async fn add(&self, new: &Attempts, now_ms: i64) -> StoreResult<()>;

    /// Reads the sums of a sale. They are forgotten a week after the last attempt.
    async fn of(&self, sale: &SaleId) -> StoreResult<CountedAttempts>;
}
