//! Copies of orders that have rows, so that what many read does not reach the databases.
//!
//! Invariant: whoever changes an order or one of its payments removes the copy afterwards, and with it the right of all
//! others to make one of what they read before.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{OrderId, WholeOrder};

/// What is known of an order's copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// The copy.
    Found(Box<WholeOrder>),
    /// There is none, and the caller may make it under this number, of what it reads from now on.
    Wanted(u64),
    /// There is none, and another caller makes it.
    Awaited,
}

/// Copies that all processes share. They are bounded, so any of them may go at any time.
#[async_trait]
pub trait OrderCopies: Send + Sync {
    /// Reads the copy of an order, and makes nobody make one.
    async fn find(&self, order: OrderId) -> StoreResult<Option<WholeOrder>>;

    /// Reads the copy of an order. Of several callers who find none, one may make it.
    async fn read(&self, order: OrderId) -> StoreResult<Copied>;

    /// Keeps the copy that its caller may make, and answers whether it did: the order may have changed meanwhile.
    async fn keep(&self, number: u64, copy: &WholeOrder) -> StoreResult<bool>;

    /// Removes the copies of at most [`FORGOTTEN_MAX`] orders that have changed. Idempotent.
    async fn forget(&self, orders: &[OrderId]) -> StoreResult<()>;
}

/// Most orders whose copies are removed by one call.
pub const FORGOTTEN_MAX: usize = 1_000;
