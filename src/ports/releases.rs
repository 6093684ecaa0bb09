//! What the databases owe the inventory: units that nobody holds any more and that are not on sale yet.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::reservation::ReleaseRequest;
use crate::domain::{Instance, SaleId};

/// The units of one order, which the inventory has to put back on sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    /// The row, ascending in the order in which rows were written.
    pub id: i64,
    /// Its sale.
    pub sale: SaleId,
    /// What goes back. Several rows may name the same order.
    pub release: ReleaseRequest,
}

/// The rows of `release_outbox`. A row is written with the decision that frees the units, in the same transaction.
#[async_trait]
pub trait Releases: Send + Sync {
    /// Answers the instances, each of which has rows of its own.
    fn instances(&self) -> Vec<Instance>;

    /// Reads at most `limit` rows of an instance whose id is above `after`, ascending.
    async fn owed(&self, at: Instance, after: i64, limit: usize) -> StoreResult<Vec<Owed>>;

    /// Removes rows of an instance whose units are back on sale, or never can be. Idempotent.
    async fn settle(&self, at: Instance, rows: &[i64]) -> StoreResult<()>;
}
