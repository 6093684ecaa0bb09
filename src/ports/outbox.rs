//! The outboxes: accepted orders whose records the order log may not have yet.

use std::time::Duration;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::reservation::{OutboxEntry, OutboxEntryId};
use crate::domain::{BucketId, OrderId};

/// The outboxes: accepted orders whose records the order log may not have yet.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Reads entries that are at least `min_age` old, oldest first: so many that about `limit` orders wait in them.
    async fn pending(
        &self,
        bucket: &BucketId,
        min_age: Duration,
        limit: usize,
    ) -> StoreResult<Vec<OutboxEntry>>;

    /// Marks `orders` queued, because the order log has acknowledged their records. Then removes those of `entries` in
    /// which no order waits any more. Idempotent.
    async fn acknowledge(
        &self,
        bucket: &BucketId,
        orders: &[OrderId],
        entries: &[OutboxEntryId],
    ) -> StoreResult<()>;

    /// Sets entries aside that can never be delivered as a whole, for a person. Idempotent. Nothing of them is lost,
    /// and their orders are not counted any more.
    async fn set_aside(&self, bucket: &BucketId, entries: &[OutboxEntryId]) -> StoreResult<()>;

    /// Counts the orders in all entries of a bucket, also those that do not wait any more.
    async fn len(&self, bucket: &BucketId) -> StoreResult<u64>;
}
