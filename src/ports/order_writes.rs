//! Orders as the order writers write them.

use std::sync::Arc;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::batch_plan::{LogBatch, Plan, PlannedOrder};
use crate::domain::sale::Sales;
use crate::domain::{Decision, Fences, Order, OrderRecord, Part, Position, RejectReason};

/// What became of one batch.
#[derive(Debug)]
pub enum BatchOutcome {
    /// Position, ledger, claims and orders of the batch are committed.
    Written(Written),
    /// The position is not the batch's any more, because another writer or an operator moved it, it was halted, or a
    /// fence was set. Nothing was written. The caller drops what it has read ahead.
    PositionMoved {
        /// The position as it is now.
        stored: Position,
    },
}

/// A partition that was taken over.
#[derive(Debug, Clone)]
pub struct TakenOver {
    /// The stored position.
    pub position: Position,
    /// The fences of the partition, which are not older than the position.
    pub fences: Arc<Fences>,
}

/// What a committed batch left behind.
#[derive(Debug, Default)]
pub struct Written {
    /// The stored position: the offset after the batch's last record.
    pub next_offset: i64,
    /// The orders that the batch inserted, in offset order.
    pub orders: Vec<WrittenOrder>,
    /// The number of records whose order was there already.
    pub skipped: usize,
    /// The reasons of the batch's dead letters, in offset order.
    pub dead_letters: Vec<&'static str>,
}

/// An order that got its row, and what was decided of it.
#[derive(Debug)]
pub struct WrittenOrder {
    /// Its record.
    pub record: OrderRecord,
    /// What was decided.
    pub decision: Decision,
    /// Why it was rejected, if it was.
    pub reason: Option<RejectReason>,
}

impl WrittenOrder {
    /// Makes the order as its buyer sees it. When its payment is due says only its row.
    pub fn order(&self) -> Order {
        Order { reason: self.reason, ..self.record.clone().into_order(self.decision.state) }
    }
}

impl Written {
    /// Makes the report of a batch that was written as planned.
    pub fn of(batch: &LogBatch, plan: Plan) -> Self {
        let order = |order: PlannedOrder| {
            let (decision, reason) = (order.decision(), order.reason());
            WrittenOrder { record: order.record, decision, reason }
        };
        Self {
            next_offset: batch.next_offset(),
            skipped: plan.skipped,
            dead_letters: plan.dead_letters.iter().map(|(_, poison)| poison.as_str()).collect(),
            orders: plan.orders.into_iter().map(order).collect(),
        }
    }
}

/// Orders in their shards. Only order writers write them.
#[async_trait]
pub trait OrderWrites: Send + Sync {
    /// Writes one batch in one transaction (steps 8 to 12 of docs/protocol/steps.md). `sales` holds every sale that the
    /// batch names and the directory has.
    ///
    /// # Errors
    /// After any error the caller takes the batch again from its start. The position decides whether it was applied.
    async fn write(&self, batch: &LogBatch, sales: &Sales) -> StoreResult<BatchOutcome>;

    /// Takes a partition over after it was assigned or a batch of it failed: applies the grants that were given and not
    /// applied, and answers the stored position and the fences. Idempotent.
    async fn take_over(&self, part: Part) -> StoreResult<TakenOver>;
}
