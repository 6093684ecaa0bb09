//! Paying orders and paying them back: step 14 of docs/protocol/steps.md, as far as a buyer or an operator asks for it.

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;

use super::{Failure, Shop};
use crate::domain::operator::Subject;
use crate::domain::order_life::OrderEvent;
use crate::domain::payment::{PaymentState, RefundKey, RefundState};
use crate::domain::{Change, Mover, Order, OrderId, Payment, UserId};
use crate::metrics::{ORDERS, REFUNDS};
use crate::ports::{Effect, Moved, Opened, PaymentStep, RefundStep, Standing};
use crate::trace;

/// The answer to who wants to pay an order.
#[derive(Debug)]
pub enum Paying {
    /// The order can be paid on the payment's page.
    Open {
        /// The payment, which has a page.
        payment: Box<Payment>,
        /// Whether the attempt began with this call.
        is_new: bool,
    },
    /// The order costs nothing, and is paid.
    Free(Box<Order>),
    /// The order cannot be paid, or not any more: nothing was changed.
    NotPayable(Box<Order>),
    /// The order is not decided yet. Ask again.
    NotDecided,
    /// This shop takes no money.
    NoTill,
    /// There is no such order.
    Unknown,
}

/// The answer to an operator who wants an order paid back.
#[derive(Debug)]
pub enum Refunding {
    /// The order is refunded, or was refunded before.
    Done(Box<Order>),
    /// The order is not paid, so nothing was changed.
    NotRefundable(Box<Order>),
    /// There is no such order.
    Unknown,
}

impl Shop {
    /// Opens a payment of a buyer's own order, or finds the one that is open. Idempotent: repeated calls find the same
    /// payment. The work goes on when the caller leaves.
    ///
    /// # Errors
    /// When a component failed, or the provider did: then the payment is known, and the next call goes on with it.
    pub async fn pay(self: &Arc<Self>, user: &UserId, id: OrderId) -> Result<Paying, Failure> {
        let Some(order) = self.order_to_change(user, id).await? else { return Ok(Paying::Unknown) };
        if self.till.is_none() {
            return Ok(Paying::NoTill);
        }
        let shop = self.clone();
        let work = async move {
            if order.unit_price.amount() == 0 {
                shop.pay_nothing(id).await
            } else {
                shop.open_payment(id).await
            }
        };
        self.tasks.spawn(trace::within(trace::purpose(), work)).await.unwrap_or(Err(Failure::OutcomeUnknown))
    }

    async fn pay_nothing(&self, id: OrderId) -> Result<Paying, Failure> {
        match self.ports.order_changes.change(id, OrderEvent::Pay, &Mover::BUYER).await? {
            Moved::Done { order, decision } => {
                counter!(ORDERS, "status" => order.state.as_str()).increment(1);
                self.mark(&order, decision).await;
                Ok(Paying::Free(order))
            }
            Moved::Repeated(order) => Ok(Paying::Free(order)),
            Moved::Refused(order) | Moved::PaymentOpen(order) => Ok(Paying::NotPayable(order)),
            Moved::Absent => Ok(Paying::NotDecided),
        }
    }

    async fn open_payment(&self, id: OrderId) -> Result<Paying, Failure> {
        let Some(till) = &self.till else { return Ok(Paying::NoTill) };
        let (mut payment, is_new) = match self.ports.payments.open(id, &till.terms).await? {
            Opened::New(payment) => (payment, true),
            Opened::Found(payment) => (payment, false),
            Opened::NotPayable(order) => return Ok(Paying::NotPayable(order)),
            Opened::Absent => return Ok(Paying::NotDecided),
        };
        if payment.state == PaymentState::Closing {
            // The attempt before is still being closed. The order can be paid again as soon as it is.
            return Err(Failure::Unavailable);
        }
        if payment.page.is_none() {
            let page = till.provider.open(&payment.request).await.map_err(Failure::of_read)?;
            let opened = PaymentStep::Opened(page.clone());
            if !self.ports.payments.advance(payment.request.id, &opened).await? {
                return self.opened_by_another(payment, is_new).await;
            }
            (payment.page, payment.state) = (Some(page), PaymentState::Open);
        }
        Ok(Paying::Open { payment, is_new })
    }

    /// Answers with a payment that another call has opened meanwhile, or has begun to close.
    async fn opened_by_another(&self, payment: Box<Payment>, is_new: bool) -> Result<Paying, Failure> {
        let id = payment.request.id;
        let payments = self.ports.payments.of(id.order).await.map_err(Failure::of_read)?;
        let found = payments.into_iter().find(|payment| payment.request.id == id);
        let open = found.filter(|payment| payment.state == PaymentState::Open);
        open.map_or(Err(Failure::Unavailable), |payment| {
            Ok(Paying::Open { payment: Box::new(payment), is_new })
        })
    }

    /// Reads the payments of an order, ascending by attempt; none where the shop takes no money.
    ///
    /// # Errors
    /// When they could not be read.
    pub async fn payments(&self, order: &Order) -> Result<Vec<Payment>, Failure> {
        if self.till.is_none() || order.state.is_pending() {
            return Ok(Vec::new());
        }
        self.ports.payments.of(order.id).await.map_err(Failure::of_read)
    }

    /// Closes the payment of an order that has no final answer. Afterwards there is none, or the order is paid.
    ///
    /// # Errors
    /// When the provider gave no answer. It is asked again, by whoever wants it and by the task that asks.
    pub(super) async fn close_payment(&self, id: OrderId) -> Result<(), Failure> {
        let payments = self.ports.payments.of(id).await.map_err(Failure::of_read)?;
        let Some(payment) = payments.into_iter().find(|payment| !payment.state.is_final()) else {
            return Ok(());
        };
        let till = self.till.as_ref().ok_or(Failure::Unavailable)?;
        let is_begun = self.ports.payments.advance(payment.request.id, &PaymentStep::Closing).await?;
        match till.provider.close(&payment).await {
            Ok(standing @ (Standing::Closed | Standing::Captured(_))) => {
                self.settle_payment(&payment, standing).await.map(drop)
            }
            Ok(Standing::Open) => Err(Failure::OutcomeUnknown),
            Err(error) if error.effect == Effect::NotApplied && is_begun => {
                self.ports.payments.advance(payment.request.id, &PaymentStep::Reopened).await?;
                Err(Failure::from(error))
            }
            Err(error) => {
                tracing::warn!(%error, payment = %payment.request.id, "a payment is being closed without an answer");
                Err(Failure::OutcomeUnknown)
            }
        }
    }

    /// Pays an order back, as an operator wants it. Its units go back on sale when `restock` says so and the sale has
    /// not ended; otherwise they are withheld. When the order is refunded already, its refunds that have failed are
    /// tried again. Idempotent; every call is noted in the audit log.
    ///
    /// # Errors
    /// When a component failed. After an unknown outcome the order may be refunded.
    pub async fn refund_as_operator(
        &self,
        id: OrderId,
        restock: bool,
        change: &Change,
    ) -> Result<Refunding, Failure> {
        let Some(whole) = self.any_order(id).await? else { return Ok(Refunding::Unknown) };
        self.ports.audit_log.note(change, &Subject::Order { order_id: id }).await?;
        let restock = restock && self.is_on_sale(&whole.order);
        match self.ports.refunds.refund_order(id, restock, &Mover::operator(change)).await? {
            Moved::Done { order, decision } => {
                counter!(ORDERS, "status" => order.state.as_str()).increment(1);
                self.mark(&order, decision).await;
                Ok(Refunding::Done(order))
            }
            Moved::Repeated(order) => {
                for refund in
                    self.ports.payments.of(id).await?.into_iter().filter_map(|payment| payment.refund)
                {
                    self.after_failure(&refund.key, RefundState::Owed).await?;
                }
                Ok(Refunding::Done(order))
            }
            Moved::Refused(order) | Moved::PaymentOpen(order) => Ok(Refunding::NotRefundable(order)),
            Moved::Absent => Ok(Refunding::NotRefundable(Box::new(whole.order.clone()))),
        }
    }

    /// Takes a refund that has failed to another state, as an operator wants it: `owed`, so that it is tried again, or
    /// `settled`, because its buyer has the money in another way. Answers `false` when no refund of this key has
    /// failed. Every call is noted in the audit log.
    ///
    /// # Errors
    /// When a component failed.
    pub async fn take_refund_on(
        &self,
        key: &RefundKey,
        to: RefundState,
        change: &Change,
    ) -> Result<bool, Failure> {
        self.ports.audit_log.note(change, &Subject::Refund { refund: key.to_string() }).await?;
        self.after_failure(key, to).await
    }

    /// Takes a refund that has failed to another state. Answers whether it had failed.
    async fn after_failure(&self, key: &RefundKey, to: RefundState) -> Result<bool, Failure> {
        if matches!(key, RefundKey::Payment(id) if !self.map.holds(id.order.shard())) {
            return Ok(false);
        }
        let again_in = (to == RefundState::Owed).then_some(Duration::ZERO);
        let step = RefundStep { key, capture: None, from: &[RefundState::Failed], to, again_in };
        let is_taken = self.ports.refunds.advance(&step).await?;
        if is_taken && to == RefundState::Settled {
            counter!(REFUNDS, "state" => to.as_str()).increment(1);
        }
        Ok(is_taken)
    }

    /// Answers whether units of an order's sale can still be sold.
    fn is_on_sale(&self, order: &Order) -> bool {
        let snapshot = self.catalog();
        let sale = snapshot.sales.get(&order.sale);
        sale.is_some_and(|sale| !sale.state.is_editable() && !sale.is_over(self.clock.now_ms()))
    }
}
