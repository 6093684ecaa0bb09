//! What may go when it is old.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Instance, SaleId};

/// Removes what nobody needs any more, in small pieces. Nothing of it is a book: orders, payments, refunds and moves
/// never go.
#[async_trait]
pub trait Retention: Send + Sync {
    /// Removes the oldest events of an instance: those from before `before_ms` that the readers in `read_by` have had,
    /// up to the first event of a sale that is not among `settled`. Each partition keeps its events without gaps.
    /// Answers how many rows went, which are at most `rows_max` of each partition.
    async fn forget_events(
        &self,
        at: Instance,
        before_ms: i64,
        (read_by, settled): (&[&str], &[SaleId]),
        rows_max: u32,
    ) -> StoreResult<u64>;

    /// Removes dead letters of an instance that were decided before `before_ms`, and answers how many.
    async fn forget_letters(&self, at: Instance, before_ms: i64, rows_max: u32) -> StoreResult<u64>;

    /// Removes the rows of the audit log from before `before_ms`, oldest first, and answers how many.
    async fn forget_audit_log(&self, before_ms: i64, rows_max: u32) -> StoreResult<u64>;
}
