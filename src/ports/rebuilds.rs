//! Rebuilding buckets of the inventory that have lost what they had (step 17): what the databases say, and who may
//! fill a bucket anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::store_error::StoreResult;
use super::watermarks::Watermarks;
use crate::domain::inventory_model::Bucket;
use crate::domain::rebuild::{Elsewhere, Truth};
use crate::domain::{BucketId, Instance, Sale};

/// A bucket that one process rebuilds, until another one takes it over. Every later step carries the epoch, and of two
/// processes the one with the older epoch is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The bucket.
    pub bucket: BucketId,
    /// Its new epoch, which no other claim has.
    pub epoch: u32,
}

/// Both sides of a rebuild, and what tells whether one is needed. Cheap to clone.
#[derive(Clone)]
pub struct Recovery {
    /// The databases' side.
    pub rebuilds: Arc<dyn Rebuilds>,
    /// The inventory's side.
    pub refills: Arc<dyn Refills>,
    /// The watermarks of the databases.
    pub watermarks: Arc<dyn Watermarks>,
}

/// The databases' side of a rebuild.
#[async_trait]
pub trait Rebuilds: Send + Sync {
    /// Claims a bucket and raises its epoch; `None` while another process has it.
    async fn claim(&self, sale: &Sale, bucket: u16, lease: Duration) -> StoreResult<Option<Claim>>;

    /// Prolongs a claim, or ends it with a lease of 0. Answers `false` when another process has taken it over.
    async fn keep(&self, claim: &Claim, lease: Duration) -> StoreResult<bool>;

    /// Sets a fence in every partition that has orders of the bucket: from now on an order of an older epoch is written
    /// as rejected only. Idempotent.
    async fn fence(&self, sale: &Sale, claim: &Claim) -> StoreResult<()>;

    /// Reads what some instances have of a sale, each as it is at one moment.
    ///
    /// # Errors
    /// Also when one of them cannot be read.
    async fn truth(&self, sale: &Sale, instances: &BTreeSet<Instance>) -> StoreResult<Truth>;
}

/// The inventory's side of a rebuild.
#[async_trait]
pub trait Refills: Send + Sync {
    /// Prolongs the leases of a sale's buckets, as far as their server is the one on which they were put in place.
    async fn renew(&self, sale: &Sale) -> StoreResult<()>;

    /// Closes a claimed bucket, as far as it is not closed. Idempotent.
    async fn shut(&self, claim: &Claim) -> StoreResult<()>;

    /// Removes what is left of a bucket, with its gate first. Answers `false` when a newer claim has been there.
    async fn clear(&self, claim: &Claim) -> StoreResult<bool>;

    /// Counts what buckets of a sale have that are not claimed. From then on they take no units that a claimed bucket
    /// gave before.
    ///
    /// # Errors
    /// Also when units moved all the time.
    async fn elsewhere(&self, sale: &Sale, claims: &[Claim]) -> StoreResult<Elsewhere>;

    /// Fills a cleared bucket, compares what it has with what was filled in, and opens it as the sale says. Answers
    /// `false` when a newer claim has been there.
    ///
    /// # Errors
    /// Also when the bucket does not have what was filled in.
    async fn fill(&self, sale: &Sale, claim: &Claim, bucket: &Bucket) -> StoreResult<bool>;
}
