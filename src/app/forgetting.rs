//! Has what is remembered of an order forgotten whenever it or one of its payments changes, or may have: by this
//! process, and the copy that all share.
//!
//! Other processes know it at most [`crate::memory::order_cache::KEPT`] later. Copies that cannot be removed now are
//! owed ([`CopyRemover`]).

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::order_life::OrderEvent;
use crate::domain::payment::RefundKey;
use crate::domain::{
    Capture, Instance, Mover, Order, OrderId, OrderRecord, Payment, PaymentId, PaymentTerms, Refund,
};
use crate::memory::order_cache::OrderCache;
use crate::ports::{
    Captures, Ending, Grace, Moved, Opened, OrderChanges, Orphan, Overdue, PaymentStep, Payments, Ports,
    RefundStep, Refunds, StoreResult, Taken,
};
use crate::worker::copy_remover::CopyRemover;

/// What is remembered of orders.
#[derive(Clone)]
struct Memories {
    cache: Arc<OrderCache>,
    remover: Option<Arc<CopyRemover>>,
}

/// Orders that may have changed, until they are forgotten. Who is not waited for any more leaves it to the remover.
struct Changed<'a> {
    with: &'a Memories,
    orders: &'a [OrderId],
    is_forgotten: bool,
}

impl Changed<'_> {
    fn forget_here(&self) {
        self.orders.iter().for_each(|order| self.with.cache.forget(*order));
    }

    async fn forget(mut self) {
        self.forget_here();
        if let Some(remover) = &self.with.remover {
            remover.remove(self.orders).await;
        }
        // Somebody may have read the copy meanwhile.
        self.forget_here();
        self.is_forgotten = true;
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        if !self.is_forgotten {
            self.forget_here();
            if let Some(remover) = &self.with.remover {
                remover.owe(self.orders);
            }
        }
    }
}

impl Memories {
    /// Makes a change, and has its orders forgotten, whatever came of it.
    async fn change<T>(
        &self,
        orders: &[OrderId],
        change: impl Future<Output = StoreResult<T>> + Send,
    ) -> StoreResult<T> {
        let changed = Changed { with: self, orders, is_forgotten: false };
        let done = change.await;
        changed.forget().await;
        done
    }
}

/// Has the changes of all ports forget what is remembered.
pub fn forgetting(mut ports: Ports, cache: &Arc<OrderCache>, remover: Option<&Arc<CopyRemover>>) -> Ports {
    let with = Memories { cache: cache.clone(), remover: remover.cloned() };
    ports.order_changes = Arc::new(ForgettingChanges { of: ports.order_changes, with: with.clone() });
    ports.payments = Arc::new(ForgettingPayments { of: ports.payments, with: with.clone() });
    ports.captures = Arc::new(ForgettingCaptures { of: ports.captures, with: with.clone() });
    ports.refunds = Arc::new(ForgettingRefunds { of: ports.refunds, with });
    ports
}

struct ForgettingChanges {
    of: Arc<dyn OrderChanges>,
    with: Memories,
}

#[async_trait]
impl OrderChanges for ForgettingChanges {
    fn instances(&self) -> Vec<Instance> {
        self.of.instances()
    }

    async fn change(&self, order: OrderId, event: OrderEvent, mover: &Mover<'_>) -> StoreResult<Moved> {
        self.with.change(&[order], self.of.change(order, event, mover)).await
    }

    async fn end_unwritten(
        &self,
        record: &OrderRecord,
        ending: Ending,
        mover: &Mover<'_>,
    ) -> StoreResult<Moved> {
        self.with.change(&[record.order_id], self.of.end_unwritten(record, ending, mover)).await
    }

    async fn overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>> {
        self.of.overdue(orders, limit).await
    }

    async fn expire(&self, at: Instance, orders: &[OrderId], grace: Grace) -> StoreResult<Vec<Order>> {
        self.with.change(orders, self.of.expire(at, orders, grace)).await
    }
}

struct ForgettingPayments {
    of: Arc<dyn Payments>,
    with: Memories,
}

#[async_trait]
impl Payments for ForgettingPayments {
    fn instances(&self) -> Vec<Instance> {
        self.of.instances()
    }

    async fn of(&self, order: OrderId) -> StoreResult<Vec<Payment>> {
        self.of.of(order).await
    }

    async fn open(&self, order: OrderId, terms: &PaymentTerms) -> StoreResult<Opened> {
        self.with.change(&[order], self.of.open(order, terms)).await
    }

    async fn advance(&self, payment: PaymentId, step: &PaymentStep) -> StoreResult<bool> {
        self.with.change(&[payment.order], self.of.advance(payment, step)).await
    }

    async fn due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Payment>> {
        self.of.due(at, limit).await
    }
}

struct ForgettingCaptures {
    of: Arc<dyn Captures>,
    with: Memories,
}

#[async_trait]
impl Captures for ForgettingCaptures {
    async fn take(&self, event: Option<&str>, payment: PaymentId, capture: &Capture) -> StoreResult<Taken> {
        self.with.change(&[payment.order], self.of.take(event, payment, capture)).await
    }

    async fn keep_orphan(&self, capture: &Capture) -> StoreResult<()> {
        self.of.keep_orphan(capture).await
    }

    async fn orphans_due(&self, limit: usize) -> StoreResult<Vec<Orphan>> {
        self.of.orphans_due(limit).await
    }

    async fn owe_orphan(&self, capture: &Capture) -> StoreResult<()> {
        self.of.owe_orphan(capture).await
    }

    async fn forget_orphan(&self, capture: &Capture) -> StoreResult<()> {
        self.of.forget_orphan(capture).await
    }
}

struct ForgettingRefunds {
    of: Arc<dyn Refunds>,
    with: Memories,
}

#[async_trait]
impl Refunds for ForgettingRefunds {
    async fn refund_order(&self, order: OrderId, restock: bool, mover: &Mover<'_>) -> StoreResult<Moved> {
        self.with.change(&[order], self.of.refund_order(order, restock, mover)).await
    }

    async fn due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Refund>> {
        self.of.due(at, limit).await
    }

    async fn advance(&self, step: &RefundStep<'_>) -> StoreResult<bool> {
        let order = match step.key {
            RefundKey::Payment(id) => Some(id.order),
            RefundKey::Orphan(_) => None,
        };
        self.with.change(order.as_slice(), self.of.advance(step)).await
    }

    async fn stuck(&self, at: Instance) -> StoreResult<u64> {
        self.of.stuck(at).await
    }
}
