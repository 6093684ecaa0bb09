//! Has whoever listens told of every change of an order, as soon as it stands.

use std::sync::Arc;

use async_trait::async_trait;

use crate::domain::order_life::OrderEvent;
use crate::domain::{
    Capture, DeadLetter, DeadLetterId, Instance, LetterQuery, LetterState, Mover, Order, OrderId,
    OrderRecord, PaymentId, Refund, Sales,
};
use crate::ports::{
    Captures, DeadLetters, Effect, Ending, Grace, Moved, OrderChanges, Orphan, Overdue, Ports, Redecided,
    RefundStep, Refunds, StoreResult, Taken,
};
use crate::worker::announcer::Announcer;

/// Has the changes of all ports told.
pub fn telling(mut ports: Ports, announcer: &Arc<Announcer>) -> Ports {
    let with = announcer.clone();
    ports.order_changes = Arc::new(TellingChanges { of: ports.order_changes, with: with.clone() });
    ports.captures = Arc::new(TellingCaptures { of: ports.captures, with: with.clone() });
    ports.refunds = Arc::new(TellingRefunds { of: ports.refunds, with: with.clone() });
    ports.dead_letters = Arc::new(TellingDeadLetters { of: ports.dead_letters, with });
    ports
}

/// Tells of the orders that a change has changed. Of one that nobody knows whether it was made, that it was missed.
fn told<T>(
    announcer: &Announcer,
    done: StoreResult<T>,
    orders: impl FnOnce(&T) -> Vec<Order>,
) -> StoreResult<T> {
    match &done {
        Ok(done) => announcer.tell(orders(done)),
        Err(error) if error.effect == Effect::Unknown => announcer.miss(),
        Err(_) => {}
    }
    done
}

fn moved(moved: &Moved) -> Vec<Order> {
    if let Moved::Done { order, .. } = moved { vec![Order::clone(order)] } else { Vec::new() }
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
        told(&self.with, self.of.change(order, event, mover).await, moved)
    }

    async fn end_unwritten(
        &self,
        record: &OrderRecord,
        ending: Ending,
        mover: &Mover<'_>,
    ) -> StoreResult<Moved> {
        told(&self.with, self.of.end_unwritten(record, ending, mover).await, moved)
    }

    async fn overdue(&self, orders: Overdue<'_>, limit: usize) -> StoreResult<Vec<OrderId>> {
        self.of.overdue(orders, limit).await
    }

    async fn expire(&self, at: Instance, orders: &[OrderId], grace: Grace) -> StoreResult<Vec<Order>> {
        told(&self.with, self.of.expire(at, orders, grace).await, Vec::clone)
    }
}

struct TellingCaptures {
    of: Arc<dyn Captures>,
    with: Arc<Announcer>,
}

#[async_trait]
impl Captures for TellingCaptures {
    async fn take(&self, event: Option<&str>, payment: PaymentId, capture: &Capture) -> StoreResult<Taken> {
        told(&self.with, self.of.take(event, payment, capture).await, |taken| match taken {
            Taken::Paid { order, .. } => vec![Order::clone(order)],
            _ => Vec::new(),
        })
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
        told(&self.with, self.of.refund_order(order, restock, mover).await, moved)
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

struct TellingDeadLetters {
    of: Arc<dyn DeadLetters>,
    with: Arc<Announcer>,
}

#[async_trait]
impl DeadLetters for TellingDeadLetters {
    async fn list(&self, query: &LetterQuery) -> StoreResult<Vec<DeadLetter>> {
        self.of.list(query).await
    }

    async fn read(&self, id: DeadLetterId) -> StoreResult<Option<DeadLetter>> {
        self.of.read(id).await
    }

    async fn decide(&self, id: DeadLetterId, state: LetterState) -> StoreResult<bool> {
        self.of.decide(id, state).await
    }

    async fn write_apart(&self, record: &OrderRecord, sales: &Sales) -> StoreResult<Redecided> {
        told(&self.with, self.of.write_apart(record, sales).await, |redecided| match redecided {
            Redecided::Written(decision) => vec![record.clone().into_order(decision.state)],
            Redecided::Known | Redecided::Poison(_) => Vec::new(),
        })
    }

    async fn open(&self) -> StoreResult<u64> {
        self.of.open().await
    }
}
