//! The tickets with which browsers open streams of their own orders.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::stream::TicketHolder;

/// The tickets, by the SHA-256 of their text. Every process sees them, and each is taken once.
#[async_trait]
pub trait StreamTickets: Send + Sync {
    /// Keeps a ticket for [`TicketHolder::KEPT_MS`].
    async fn give(&self, hash: [u8; 32], holder: &TicketHolder) -> StoreResult<()>;

    /// Takes a ticket; `None` for one that is unknown, was taken or is too old.
    async fn take(&self, hash: [u8; 32]) -> StoreResult<Option<TicketHolder>>;
}
