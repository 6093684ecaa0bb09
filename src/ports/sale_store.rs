//! The directory of sales.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Change, Sale, SaleId};

/// The directory of sales.
#[async_trait]
pub trait SaleStore: Send + Sync {
    /// Reads all sales, ascending by start.
    async fn sales(&self) -> StoreResult<Vec<Sale>>;

    /// Reads all sales that are not settled, ascending by start.
    async fn unsettled(&self) -> StoreResult<Vec<Sale>>;

    /// Reads one sale; `None` when there is none of that id.
    async fn sale(&self, id: &SaleId) -> StoreResult<Option<Sale>>;

    /// Inserts a sale and its audit row in one transaction. Answers `false` when the id is taken.
    async fn create(&self, sale: &Sale, change: &Change) -> StoreResult<bool>;

    /// Notes that all buckets of a sale's epoch are in place. Answers `false` when that was noted before.
    async fn mark_in_place(&self, sale: &Sale) -> StoreResult<bool>;

    /// Replaces a sale and inserts its audit row in one transaction, if the stored version still is `expected`. Answers
    /// `false` if it is not. Items are replaced as long as the sale is editable.
    async fn replace(&self, sale: &Sale, expected: u64, change: &Change) -> StoreResult<bool>;
}
