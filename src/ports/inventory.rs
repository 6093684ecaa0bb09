//! The scarce units in front of MySQL: reservations and their holds.

use std::sync::Arc;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::reservation::{ReleaseRequest, Released, Reservation, ReserveRequest, Verdict};
use crate::domain::{BucketId, Decision, OrderId, UserId};

/// The scarce units in front of MySQL. It decides which purchases become orders.
#[async_trait]
pub trait Inventory: Send + Sync {
    /// Reserves up to `admission.reserve_batch_max` purchases of one bucket in one call, and answers them in the same
    /// order. Idempotent by order id.
    ///
    /// # Errors
    /// `Unknown` when no answer came: any of the batch may be held. Ask again with the same ids.
    async fn reserve(&self, bucket: &BucketId, batch: Arc<[ReserveRequest]>) -> StoreResult<Vec<Verdict>>;

    /// Reads the hold of an order in the first of `buckets` that knows it; `None` when none does.
    async fn reservation(&self, buckets: &[BucketId], order: OrderId) -> StoreResult<Option<Reservation>>;

    /// Reads the users of all orders ever held in a bucket, in no order. A user may be among them more than once.
    async fn winners(&self, bucket: &BucketId) -> StoreResult<Vec<UserId>>;

    /// Marks what MySQL decided (step 13), and takes the units of an order that holds none off its buyer. Best effort
    /// and idempotent; a mark that is older than what is known changes nothing.
    async fn mark_decided(&self, bucket: &BucketId, decided: &[Decision]) -> StoreResult<()>;

    /// Takes the units of orders that hold nothing in MySQL off their buyers, and puts them back on sale if they are to
    /// (step 16). Idempotent.
    ///
    /// # Errors
    /// `Unknown` when no answer came. Ask again with the same orders.
    async fn release(&self, bucket: &BucketId, orders: &[ReleaseRequest]) -> StoreResult<Released>;
}
