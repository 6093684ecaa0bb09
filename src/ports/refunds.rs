//! Captures that are paid back.

use std::time::Duration;

use async_trait::async_trait;

use super::order_changes::Moved;
use super::store_error::StoreResult;
use crate::domain::payment::{RefundKey, RefundState};
use crate::domain::{Instance, OrderId, Refund};

/// The rows of refunds, each keyed by what it pays back.
#[async_trait]
pub trait Refunds: Send + Sync {
    /// Pays a paid order back: it is `refunded`, and its capture has a refund, in one transaction. Its units go back on
    /// sale, or else are withheld. Idempotent.
    async fn refund_order(&self, order: OrderId, restock: bool) -> StoreResult<Moved>;

    /// Takes at most `limit` refunds of an instance about which the provider is to be asked now. Each of them is due
    /// again later. Orphans are those of the first instance.
    async fn due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Refund>>;

    /// Records where a refund is, and when the provider is asked again, if at all. Idempotent.
    async fn set(&self, key: &RefundKey, state: RefundState, again_in: Option<Duration>) -> StoreResult<()>;
}
