//! Reconciling (step 18): what the inventory and the databases have of a sale, and what brings together again what
//! belongs together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::books::{BucketBooks, Drift, DriftKind, OrderSum, SaleBooks};
use crate::domain::{BucketId, Month, Sale, Shard};

/// Both sides of the books. Cheap to clone.
#[derive(Clone)]
pub struct Books {
    /// The inventory's side.
    pub inventory: Arc<dyn InventoryBooks>,
    /// The databases' side.
    pub databases: Arc<dyn DatabaseBooks>,
}

/// The inventory's side of the books.
#[async_trait]
pub trait InventoryBooks: Send + Sync {
    /// Counts what every bucket of a sale has, ascending; `None` for a bucket that has no gate or has lost keys. No
    /// units moved between buckets meanwhile.
    ///
    /// # Errors
    /// Also when units moved all the time.
    async fn count(&self, sale: &Sale) -> StoreResult<Vec<Option<BucketBooks>>>;

    /// Sums up the holds of every bucket of a sale, ascending. They are not those of one moment.
    async fn sums(&self, sale: &Sale) -> StoreResult<Vec<OrderSum>>;

    /// Names every order in the outbox that should have been sent and that no entry names, and counts the outbox anew.
    /// Idempotent. Answers how many orders are named now and were not.
    async fn mend_outbox(&self, bucket: &BucketId) -> StoreResult<u64>;

    /// Has a bucket that still is in this epoch filled anew with what the databases have: it is closed at once, and a
    /// worker rebuilds it. `kind` is what was found wrong. Idempotent. Answers `false` when that does not end it, or
    /// the bucket is in another epoch by now.
    async fn refill(&self, bucket: &BucketId, epoch: u32, kind: DriftKind) -> StoreResult<bool>;
}

/// The databases' side of the books.
#[async_trait]
pub trait DatabaseBooks: Send + Sync {
    /// Reads what the databases have of a sale, of each instance at one moment.
    ///
    /// # Errors
    /// Also when one instance cannot be read.
    async fn of_sale(&self, sale: &Sale) -> StoreResult<SaleBooks>;

    /// Sums up the live orders of a sale in every database of orders, each as it is at one moment.
    ///
    /// # Errors
    /// Also when one cannot be read.
    async fn sums(&self, sale: &Sale) -> StoreResult<BTreeMap<Shard, OrderSum>>;

    /// Takes the turn of looking, or keeps it. Answers `false` while another process has it.
    async fn turn(&self, holder: [u8; 16], lease: Duration) -> StoreResult<bool>;

    /// Looks for grants that nobody has taken for ten seconds, and for payments of these months without an order: in
    /// the databases whose number is even, or is not, as `even` says, or in all.
    async fn strays(&self, months: &[Month], even: Option<bool>) -> StoreResult<Vec<Drift>>;

    /// Removes the claims of a sale in one database whose orders hold nothing. Idempotent. Answers how many there were.
    async fn mend_claims(&self, sale: &Sale, shard: Shard) -> StoreResult<u64>;

    /// Hands grants to the instances that they were given to. Idempotent.
    async fn mend_grants(&self) -> StoreResult<()>;
}
