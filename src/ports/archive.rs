//! Orders as an export reads them.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{OrderId, OrderRecord, Sale, Shard};

/// Orders as an export reads them.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Reads a sale's orders of one shard as records of an export, ascending by id above `after`, at most
    /// [`super::IMPORT_RECORDS_MAX`].
    ///
    /// # Errors
    /// Also when an order is in a state that no import can make.
    async fn orders(
        &self,
        sale: &Sale,
        shard: Shard,
        after: Option<OrderId>,
    ) -> StoreResult<Vec<OrderRecord>>;
}
