//! Orders as an export and an operator read them, and what an import puts beside the order log.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Exported, ExportedPayment, Month, Order, OrderFilter, OrderId, Sale, Shard};

/// Orders of whole sales, and their payments.
#[async_trait]
pub trait Archive: Send + Sync {
    /// Reads a sale's orders of one shard with their steps and payments, ascending by id above `after`, at most
    /// `limit`.
    ///
    /// # Errors
    /// Also when an order has a word that this version does not know, or its steps do not lead to its state.
    async fn orders(
        &self,
        sale: &Sale,
        shard: Shard,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<Vec<Exported>>;

    /// Reads the orders of one shard that fit, ascending by id above `after`, at most `limit`. `month` is that of their
    /// sale. It looks at all orders of the month that are above `after`.
    async fn found(
        &self,
        filter: &OrderFilter,
        month: Month,
        shard: Shard,
        after: Option<OrderId>,
        limit: u32,
    ) -> StoreResult<Vec<Order>>;

    /// Puts payments in place, each of which has come to its end. Those that stand already are left alone. The orders
    /// are of any shards.
    async fn restore_payments(&self, payments: &[ExportedPayment]) -> StoreResult<()>;
}
