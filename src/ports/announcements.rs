//! What processes tell each other at once: which orders have changed. It is a hint, and may be lost.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Order, TraceContext};

/// Most orders of one announcement.
pub const ANNOUNCED_MAX: usize = 512;

/// How an order stands, as it is told.
#[derive(Debug, Clone)]
pub struct Told {
    /// The order.
    pub order: Order,
    /// The step of a trace that changed it; `None` when no trace is recorded.
    pub trace: Option<TraceContext>,
}

impl From<Order> for Told {
    /// Of an order whose change is not traced.
    fn from(order: Order) -> Self {
        Self { order, trace: None }
    }
}

/// Tells all processes which orders have changed, and hears it of them.
#[async_trait]
pub trait Announcements: Send + Sync {
    /// Tells all processes, this one too, how orders stand now; at most [`ANNOUNCED_MAX`] of them. Whoever does not
    /// hear just now never does.
    ///
    /// # Errors
    /// When nobody may have been told. To tell it again does no harm.
    async fn announce(&self, orders: &[Told]) -> StoreResult<()>;

    /// Tells all processes that orders may have changed of which nobody tells.
    ///
    /// # Errors
    /// When nobody may have been told.
    async fn announce_missed(&self) -> StoreResult<()>;

    /// Begins to hear what is announced from now on.
    ///
    /// # Errors
    /// When nothing could be heard.
    async fn hear(&self) -> StoreResult<Box<dyn Hearing>>;
}

/// Hears announcements, for as long as it does not fail.
#[async_trait]
pub trait Hearing: Send {
    /// Waits for the next announcement of another process, for a fraction of a second; answers no orders when there was
    /// none.
    ///
    /// # Errors
    /// When something may have been missed, also by the process that would have told of it. Nothing is heard any more.
    async fn next(&mut self) -> StoreResult<Vec<Told>>;
}
