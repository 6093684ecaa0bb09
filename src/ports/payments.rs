//! The rows of payments, one for each attempt to pay an order.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::payment::PaymentPage;
use crate::domain::{Instance, Order, OrderId, Payment, PaymentId, PaymentTerms};

/// What came of the wish to pay an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// A new attempt has a row, and the provider does not know it yet.
    New(Box<Payment>),
    /// There is an attempt without a final answer of the provider.
    Found(Box<Payment>),
    /// The order does not wait for a payment, or not any more: nothing was changed.
    NotPayable(Box<Order>),
    /// The order has no row: nothing was changed.
    Absent,
}

/// What happens to a payment besides its capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentStep {
    /// The provider has a page for it: opening → open.
    Opened(PaymentPage),
    /// It shall not be paid any more: opening, open → closing.
    Closing,
    /// It was not closed after all, and certainly so: closing → opening or open, as it was before.
    Reopened,
    /// The provider says that it was not captured and never will be: every state without a final answer → closed.
    Closed,
    /// Somebody has acted at the provider itself. It is kept with the payment, whatever its state is.
    Noticed {
        /// The provider's id of the event, at most 255 bytes. An event is kept once.
        event: String,
        /// What was done, in the provider's words: at most 32 bytes, with a dot in it.
        kind: String,
    },
}

/// Payments in the shards of their orders. Times are those of the database's clock.
#[async_trait]
pub trait Payments: Send + Sync {
    /// Answers the instances, each of which has payments of its own.
    fn instances(&self) -> Vec<Instance>;

    /// Reads the payments of an order, ascending by attempt, each with its refund and its notices.
    async fn of(&self, order: OrderId) -> StoreResult<Vec<Payment>>;

    /// Makes the next attempt to pay an order, if the order waits for its payment, is not overdue, and every attempt
    /// before has the provider's final answer. At most one of several callers makes it.
    async fn open(&self, order: OrderId, terms: &PaymentTerms) -> StoreResult<Opened>;

    /// Lets something happen to a payment. Answers whether it did; a payment in another state is left alone.
    /// Idempotent.
    async fn advance(&self, payment: PaymentId, step: &PaymentStep) -> StoreResult<bool>;

    /// Takes at most `limit` payments of an instance about which the provider is to be asked now. Each of them is due
    /// again later, after twice the time, so that no other process takes it and a silent provider is left alone. A row
    /// that this version cannot read is passed over, and due again later, too.
    async fn due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Payment>>;
}
