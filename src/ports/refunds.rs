//! Captures that are paid back.

use std::time::Duration;

use async_trait::async_trait;

use super::order_changes::Moved;
use super::store_error::StoreResult;
use crate::domain::payment::{RefundKey, RefundState};
use crate::domain::{Instance, Mover, OrderId, Refund};

/// A change of a refund's state. It finds the refund only in one of some states, so that who is late changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundStep<'a> {
    /// The refund.
    pub key: &'a RefundKey,
    /// The capture that it must be about, by the provider's id of it; `None` for whichever.
    pub capture: Option<&'a str>,
    /// The states in which it may be found.
    pub from: &'a [RefundState],
    /// The state that it gets.
    pub to: RefundState,
    /// After which time the provider is asked about it; `None` when there is nothing to ask any more.
    pub again_in: Option<Duration>,
}

/// The rows of refunds, each keyed by what it pays back.
#[async_trait]
pub trait Refunds: Send + Sync {
    /// Pays a paid order back: it is `refunded`, and its capture has a refund, in one transaction. Its units go back on
    /// sale, or else are withheld. Idempotent.
    async fn refund_order(&self, order: OrderId, restock: bool, mover: &Mover<'_>) -> StoreResult<Moved>;

    /// Takes at most `limit` refunds of an instance about which the provider is to be asked now. Each of them is due
    /// again later. Orphans are those of the first instance. A row that this version cannot read is passed over, and
    /// due again later, too.
    async fn due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Refund>>;

    /// Changes the state of a refund. Answers whether it was found.
    async fn advance(&self, step: &RefundStep<'_>) -> StoreResult<bool>;

    /// Counts the refunds of an instance that have failed, or have come to no end within [`Refund::OVERDUE_MS`]. Those
    /// of orphans belong to the first instance.
    async fn stuck(&self, at: Instance) -> StoreResult<u64>;
}
