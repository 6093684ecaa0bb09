//! Has whoever listens told of every change of an order, as soon as it stands.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::order_life::OrderEvent;
use crate::domain::{Capture, Instance, Mover, Order, OrderId, OrderRecord, PaymentId, Refund};
use crate::ports::{
    Captures, Ending, Grace, Moved, OrderChanges, Orphan, Overdue, Ports, RefundStep, Refunds, StoreResult,
    Taken,
};
use crate::worker::announcer::Announcer;

/// Has the changes of all ports told.
pub fn telling(mut ports: Ports, announcer: &Arc<Announcer>) -> Ports {
    let with = announcer.clone();
    ports.order_changes = Arc::new(TellingChanges { of: ports.order_changes, with: with.clone() });
    ports.captures = Arc::new(TellingCaptures { of: ports.captures, with: with.clone() });
    ports.refunds = Arc::new(TellingRefunds { of: ports.refunds, with });
    ports
}

fn tell(announcer: &Announcer, moved: Moved) -> Moved {
    if let Moved::Done { order, .. } = &moved {
        announcer.tell([Box::as_ref(order).clone()]);
    }
    moved
}

struct TellingChanges {
    of: Arc<dyn OrderChanges>,
    with: Arc<Announcer>,
}

#[async_trait]
impl OrderChanges for TellingChanges {
    fn instances(&self) -> Vec<Instance> {
        self.of.instances()
    }

    async fn change(&self, order: OrderId, event: OrderEvent, mover: &Mover<'_>) -> StoreResult<Moved> {
        self.of.change(order, event, mover).await.map(|moved| tell(&self.with, moved))
    }

    async fn end_unwritten(
        &self,
        record: &OrderRecord,
        ending: Ending,
        mover: &Mover<'_>,
    ) -> StoreResult<Moved> {
        self.of.end_unwritten(record, ending, mover).await.map(|moved| tell(&self.with, moved))
    }

    async fn overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>> {
        self.of.overdue(orders, limit).await
    }

    async fn expire(&self, at: Instance, orders: &[OrderId], grace: Grace) -> StoreResult<Vec<Order>> {
        let expired = self.of.expire(at, orders, grace).await?;
        self.with.tell(expired.iter().cloned());
        Ok(expired)
    }
}

struct TellingCaptures {
    of: Arc<dyn Captures>,
    with: Arc<Announcer>,
}

#[async_trait]
impl Captures for TellingCaptures {
    async fn take(&self, event: Option<&str>, payment: PaymentId, capture: &Capture) -> StoreResult<Taken> {
        let taken = self.of.take(event, payment, capture).await?;
        if let Taken::Paid { order, .. } = &taken {
            self.with.tell([Box::as_ref(order).clone()]);
        }
        Ok(taken)
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

struct TellingRefunds {
    of: Arc<dyn Refunds>,
    with: Arc<Announcer>,
}

#[async_trait]
impl Refunds for TellingRefunds {
    async fn refund_order(&self, order: OrderId, restock: bool, mover: &Mover<'_>) -> StoreResult<Moved> {
        self.of.refund_order(order, restock, mover).await.map(|moved| tell(&self.with, moved))
    }

    async fn due(&self, at: Instance, limit: usize) -> StoreResult<Vec<Refund>> {
        self.of.due(at, limit).await
    }

    async fn advance(&self, step: &RefundStep<'_>) -> StoreResult<bool> {
        self.of.advance(step).await
    }

    async fn stuck(&self, at: Instance) -> StoreResult<u64> {
        self.of.stuck(at).await
    }
}
