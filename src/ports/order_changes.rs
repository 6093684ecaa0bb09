//! What happens to orders after they were accepted: they are given up, and they expire.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::order::RejectReason;
use crate::domain::order_life::OrderEvent;
use crate::domain::payment::PaymentState;
use crate::domain::{Decision, Instance, Month, Mover, Order, OrderId, OrderRecord};

/// What an event did to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// The order took the event's arrow.
    Done {
        /// The order as it is now.
        order: Box<Order>,
        /// What was decided of it, as the inventory is told.
        decision: Decision,
    },
    /// The event led here before: nothing was changed.
    Repeated(Box<Order>),
    /// The event is not for the order's state: nothing was changed.
    Refused(Box<Order>),
    /// The order has a payment about which the provider has not given its final answer: nothing was changed.
    PaymentOpen(Box<Order>),
    /// The order has no row: nothing was changed.
    Absent,
}

/// How an order ends that no order writer has written. Its payment was never due, so its row says that it was due when
/// the row was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Its buyer or an operator gives it up.
    Cancelled,
    /// It is rejected, as a dead letter that is given back.
    GivenUp,
}

impl Ending {
    /// Answers what happens to the order.
    pub fn event(self) -> OrderEvent {
        if self == Self::GivenUp { OrderEvent::Reject } else { OrderEvent::Cancel }
    }

    /// Answers why it is rejected, if it is.
    pub fn reason(self) -> Option<RejectReason> {
        (self == Self::GivenUp).then_some(RejectReason::GivenUp)
    }
}

/// Which orders of an instance are overdue.
#[derive(Debug, Clone, Copy)]
pub struct Overdue<'a> {
    /// The instance.
    pub at: Instance,
    /// The months of sales whose orders may be overdue.
    pub months: &'a [Month],
    /// How long they are kept.
    pub grace: Grace,
}

/// How long orders are kept that were not paid in time, by the database's clock.
#[derive(Debug, Clone, Copy)]
pub struct Grace {
    /// How long after its time an order is kept, in ms.
    pub ms: u64,
    /// How long an order is kept while its payment is being closed and the provider gives no answer, in ms.
    pub closing_ms: u64,
}

impl Grace {
    /// Answers how long an order is kept while its payment is being closed and nobody has asked the provider about it
    /// often enough, in ms: twelve times as long.
    pub fn unasked_ms(&self) -> u64 {
        self.closing_ms.saturating_mul(12)
    }

    /// Answers whether an order is kept whose payment is being closed for so long, in ms, and about which the provider
    /// was asked `asks` times.
    pub fn keeps(&self, closing_for_ms: u64, asks: u32) -> bool {
        closing_for_ms < self.closing_ms
            || asks < PaymentState::ASKS_LEAST && closing_for_ms < self.unasked_ms()
    }
}

/// Moves of orders along the arrows of [`crate::domain::order_life`]. Each is one transaction with all that follows:
/// row, claims, ledger, journal, and what the inventory is owed. In embedded mode the units go back on sale in it.
#[async_trait]
pub trait OrderChanges: Send + Sync {
    /// Answers the instances, each of which has orders of its own.
    fn instances(&self) -> Vec<Instance>;

    /// Lets an event happen to an order that has a row. An order with an open payment is not cancelled. Idempotent.
    async fn change(&self, order: OrderId, event: OrderEvent, mover: &Mover<'_>) -> StoreResult<Moved>;

    /// Ends an order whose record no order writer has written: it gets its row here, and the writer finds it. To an
    /// order that has a row by now the event happens as by [`Self::change`]. Idempotent.
    async fn end_unwritten(
        &self,
        record: &OrderRecord,
        ending: Ending,
        mover: &Mover<'_>,
    ) -> StoreResult<Moved>;

    /// Reads at most `limit` orders that are overdue and not paid, in no order. Those whose payments are being closed
    /// are not among them, but for those that are kept for too long.
    async fn overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>>;

    /// Lets those of `orders` expire that are overdue, and passes over those that another change works on just now. An
    /// open payment of theirs begins to be closed, and its order waits for that, at most [`Grace::closing_ms`]. Answers
    /// those that expired, as they are now. Idempotent.
    async fn expire(&self, at: Instance, orders: &[OrderId], grace: Grace) -> StoreResult<Vec<Order>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_kept_until_the_provider_was_asked_often_enough_or_for_long_enough() {
        let grace = Grace { ms: 0, closing_ms: 300_000 };
        assert!(grace.keeps(299_999, 40), "there is time");
        assert!(!grace.keeps(300_000, PaymentState::ASKS_LEAST));
        assert!(grace.keeps(300_000, PaymentState::ASKS_LEAST - 1), "the shop may have stood still");
        assert!(!grace.keeps(3_600_000, 0), "nobody asks any more");
    }
}
