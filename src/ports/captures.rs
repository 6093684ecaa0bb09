//! Money that the provider says it has: it pays an order, or it is owed back.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::payment::RefundReason;
use crate::domain::{Capture, Decision, Order, PaymentId};

/// What became of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It has paid its order.
    Paid {
        /// The order as it is now.
        order: Box<Order>,
        /// What was decided of it, as the inventory is told.
        decision: Decision,
    },
    /// It was taken before: nothing was changed.
    Repeated,
    /// The order does not get it, so it is paid back. A refund has a row.
    Owed(RefundReason),
    /// No payment of ours explains it: nothing was changed.
    Unknown,
}

/// A capture that no payment explains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The capture.
    pub capture: Capture,
    /// How long it has been known, in ms.
    pub age_ms: i64,
}

/// Captures. Each ends as one paid order or one refund (I7).
#[async_trait]
pub trait Captures: Send + Sync {
    /// Takes a capture of a payment, in one transaction with all that follows. `event` is the provider's id of the
    /// event that told of it, at most 255 bytes. Idempotent, by the event and by the payment.
    async fn take(&self, event: Option<&str>, payment: PaymentId, capture: &Capture) -> StoreResult<Taken>;

    /// Keeps a capture that no payment explains. Idempotent, by its reference.
    async fn keep_orphan(&self, capture: &Capture) -> StoreResult<()>;

    /// Takes at most `limit` orphans that are to be tried again now. Each of them is due again later. A row that this
    /// version cannot read is passed over, and due again later, too.
    async fn orphans_due(&self, limit: usize) -> StoreResult<Vec<Orphan>>;

    /// Owes an orphan back that nobody explains, from now on. Idempotent.
    async fn owe_orphan(&self, capture: &Capture) -> StoreResult<()>;

    /// Forgets an orphan whose payment was found.
    async fn forget_orphan(&self, capture: &Capture) -> StoreResult<()>;
}
