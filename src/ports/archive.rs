//! Orders as an export reads them, and what an import puts beside the order log.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Exported, ExportedPayment, OrderId, Sale, Shard};

/// Orders as an export reads them, and their payments.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Reads a sale's orders of one shard with their steps and payments, ascending by id above `after`, at most
    /// [`super::IMPORT_RECORDS_MAX`].
    ///
    /// # Errors
    /// Also when an order has a word that this version does not know, or its steps do not lead to its state.
    async fn orders(&self, sale: &Sale, shard: Shard, after: Option<OrderId>) -> StoreResult<Vec<Exported>>;

    /// Puts payments in place, each of which has come to its end. Those that stand already are left alone. The orders
    /// are of any shards.
    async fn restore_payments(&self, payments: &[ExportedPayment]) -> StoreResult<()>;
}
