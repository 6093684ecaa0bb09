//! Giving orders up: step 15 of docs/protocol/steps.md, by the buyer or by an operator.

use metrics::counter;

use super::{Failure, Shop};
use crate::domain::operator::Subject;
use crate::domain::order_life::OrderEvent;
use crate::domain::{Change, Mover, Order, OrderId, UserId};
use crate::metrics::ORDERS;
use crate::ports::{Ending, Moved};

/// How often an order is tried to be given up whose buyer opens one payment after the other.
const PAYMENTS_CLOSED_MAX: usize = 3;

/// The answer to who gives an order up.
#[derive(Debug)]
pub enum Cancelled {
    /// The order is cancelled, or was cancelled before.
    Done(Box<Order>),
    /// The order came to another end, so nothing was changed.
    NotCancellable(Box<Order>),
    /// Nobody knows yet what the order holds, so nothing was changed. Ask again.
    NotDecided,
    /// There is no such order.
    Unknown,
}

impl Shop {
    /// Cancels a buyer's own order. Idempotent.
    ///
    /// # Errors
    /// When a component failed. After an unknown outcome the order may be cancelled.
    pub async fn cancel(&self, user: &UserId, id: OrderId) -> Result<Cancelled, Failure> {
        match self.order_to_change(user, id).await? {
            Some(_) => self.give_up(id, &Mover::BUYER).await,
            None => Ok(Cancelled::Unknown),
        }
    }

    /// Cancels any order, as an operator wants it. Idempotent; every call is noted in the audit log.
    ///
    /// # Errors
    /// As [`Self::cancel`].
    pub async fn cancel_as_operator(&self, id: OrderId, change: &Change) -> Result<Cancelled, Failure> {
        if self.any_order(id).await?.is_none() {
            return Ok(Cancelled::Unknown);
        }
        self.ports.audit_log.note(change, &Subject::Order { order_id: id }).await?;
        self.give_up(id, &Mover::operator(change)).await
    }

    async fn give_up(&self, id: OrderId, mover: &Mover<'_>) -> Result<Cancelled, Failure> {
        let changes = &self.ports.order_changes;
        let mut moved = changes.change(id, OrderEvent::Cancel, mover).await?;
        for _ in 0..PAYMENTS_CLOSED_MAX {
            if !matches!(moved, Moved::PaymentOpen(_)) {
                break;
            }
            // Perhaps the buyer has paid just now, and nobody has told us.
            self.close_payment(id).await?;
            moved = changes.change(id, OrderEvent::Cancel, mover).await?;
        }
        let moved = match moved {
            // No order writer has decided it. What its row must say stands in its hold alone.
            Moved::Absent => match self.unwritten(id).await? {
                Some(record) => changes.end_unwritten(&record, Ending::Cancelled, mover).await?,
                None => return Ok(Cancelled::NotDecided),
            },
            moved => moved,
        };
        match moved {
            Moved::Done { order, decision } => {
                counter!(ORDERS, "status" => order.state.as_str()).increment(1);
                self.mark(&order, decision).await;
                Ok(Cancelled::Done(order))
            }
            Moved::Repeated(order) => Ok(Cancelled::Done(order)),
            Moved::Refused(order) => Ok(Cancelled::NotCancellable(order)),
            Moved::PaymentOpen(_) => Err(Failure::Unavailable),
            Moved::Absent => Ok(Cancelled::NotDecided),
        }
    }
}
