//! Orders as their buyers read them.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Month, Order, OrderCursor, OrderId, UserId};

/// Order rows, as they are read for their buyers.
#[async_trait]
pub trait Orders: Send + Sync {
    /// Reads the row of an order; `None` when there is none.
    async fn order(&self, order: OrderId) -> StoreResult<Option<Order>>;

    /// Answers whether the record of an order is a dead letter. `false` also when the record does not name its order.
    async fn is_dead_letter(&self, order: OrderId) -> StoreResult<bool>;

    /// Reads one buyer's orders in `months`, which descend: first by month, then newest first, below the cursor, at
    /// most `limit`.
    async fn orders_of(
        &self,
        user: &UserId,
        months: &[Month],
        below: Option<OrderCursor>,
        limit: u32,
    ) -> StoreResult<Vec<Order>>;

    /// Answers whether every shard has the month's orders table. `seckill migrate` makes these tables.
    async fn holds_month(&self, month: Month) -> StoreResult<bool>;
}
