//! Operators look for orders, see what happened to one, and end many at once.

use futures::{StreamExt, stream};

use super::cancel::Cancelled;
use super::pay::Refunding;
use super::{Failure, Shop};
use crate::domain::{Change, Month, NodeMark, Order, OrderFilter, OrderId, OrderState, Shard};
use crate::ports::Archive;

/// How many orders are ended at once: each may have to ask the payment provider.
const AT_ONCE: usize = 8;

/// What an operator wants of many orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkAction {
    /// That they are cancelled.
    Cancel,
    /// That they are paid back.
    Refund {
        /// Whether their units go back on sale.
        restock: bool,
    },
}

/// What came of one of many orders, or would come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkOutcome {
    /// It is as it was wanted, now or before.
    Done(OrderState),
    /// Its state does not allow it: nothing was changed.
    Refused(OrderState),
    /// Nobody knows yet what it holds: nothing was changed. Ask again.
    NotDecided,
    /// There is no such order.
    Unknown,
    /// A component failed. Repeating it finds out what stands.
    Failed,
}

/// One thing that happened to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// When, ms since 1970.
    pub at_ms: i64,
    /// What: `accepted`, the word of a step, or what a payment or a refund did.
    pub what: String,
    /// Who did it, if that is known.
    pub by: Option<String>,
    /// Why, if somebody has said so.
    pub why: Option<String>,
    /// The process that did it, if that is known.
    pub node: Option<NodeMark>,
}

impl Hop {
    fn new(at_ms: i64, what: impl Into<String>) -> Self {
        Self { at_ms, what: what.into(), by: None, why: None, node: None }
    }
}

impl Shop {
    /// Looks for orders of a sale that have a row, ascending by id above `after`, at most `limit`. `month` is that of
    /// the sale.
    ///
    /// # Errors
    /// When a database could not be read.
    pub async fn find_orders(
        &self,
        filter: &OrderFilter,
        month: Month,
        after: Option<OrderId>,
        limit: u32,
    ) -> Result<Vec<Order>, Failure> {
        let of_user = filter.user.as_ref().map(|user| self.map.shard_of(user));
        let first = after.map(|id| id.shard());
        let is_asked = |shard: &Shard| {
            of_user.is_none_or(|of_user| of_user == *shard) && first.is_none_or(|first| first <= *shard)
        };
        let mut found = Vec::new();
        for shard in self.map.all_shards().filter(is_asked) {
            let left = limit.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
            if left == 0 {
                break;
            }
            let after = after.filter(|id| id.shard() == shard);
            let more = self.ports.archive.found(filter, month, shard, after, left).await;
            found.extend(more.map_err(Failure::of_read)?);
        }
        Ok(found)
    }

    /// Tells what happened to an order, ascending by time.
    ///
    /// # Errors
    /// When a database could not be read.
    pub async fn timeline(&self, order: &Order) -> Result<Vec<Hop>, Failure> {
        let mut hops = self.hops_of_row(self.ports.archive.as_ref(), order).await?;
        if hops.is_empty() {
            hops.push(Hop::new(order.accepted_ms, "accepted"));
        }
        hops.sort_by_key(|hop| hop.at_ms);
        Ok(hops)
    }

    /// Reads the hops of an order that has a row.
    async fn hops_of_row(&self, archive: &dyn Archive, order: &Order) -> Result<Vec<Hop>, Failure> {
        let Some(sale) = self.sale(&order.sale).await? else { return Ok(Vec::new()) };
        let shard = order.id.shard();
        let found =
            archive.orders(&sale, shard, Some(order.id.before()), 1).await.map_err(Failure::of_read)?;
        let Some(found) = found.into_iter().find(|found| found.record.order_id == order.id) else {
            return Ok(Vec::new());
        };
        let steps = found.record.decided.map_or_else(Vec::new, |decided| decided.steps);
        let by_writer = || Some("order_writer".to_owned());
        let accepted = Hop::new(order.accepted_ms, "accepted");
        let mut hops = vec![Hop { node: found.nodes.accepted, ..accepted }];
        hops.extend(steps.into_iter().map(|step| Hop {
            by: step.by.or_else(by_writer),
            why: step.why,
            node: step.node,
            ..Hop::new(step.at_ms, step.kind)
        }));
        for payment in found.payments {
            let attempt = payment.request.id.attempt;
            let of_payment = |at_ms: i64, what: &str, node: Option<NodeMark>| Hop {
                node,
                ..Hop::new(at_ms, format!("payment {attempt} {what}"))
            };
            hops.push(of_payment(payment.request.created_ms, "opened", payment.node));
            hops.extend(payment.events.into_iter().map(|event| Hop {
                by: Some("payment_provider".to_owned()),
                why: Some(event.outcome),
                ..of_payment(event.at_ms, "heard of", event.node)
            }));
            hops.extend(payment.refund.map(|refund| Hop {
                why: Some(refund.reason.as_str().to_owned()),
                ..of_payment(refund.created_ms, "refund owed", refund.node)
            }));
        }
        Ok(hops)
    }

    /// Ends many orders, each as if it were the only one, or says what would come of it. Idempotent; what is done to
    /// each is noted in the audit log. Answers in the order of `orders`.
    pub async fn end_orders(
        &self,
        orders: &[OrderId],
        action: BulkAction,
        (change, is_dry): (&Change, bool),
    ) -> Vec<(OrderId, BulkOutcome)> {
        let one = async |id: OrderId| {
            let outcome = match is_dry {
                true => self.would_end(id, action).await,
                false => self.end_order(id, action, change).await,
            };
            (id, outcome.unwrap_or(BulkOutcome::Failed))
        };
        stream::iter(orders.iter().copied()).map(one).buffered(AT_ONCE).collect().await
    }

    async fn would_end(&self, id: OrderId, action: BulkAction) -> Result<BulkOutcome, Failure> {
        use OrderState::{AwaitingPayment, Cancelled, Paid, Queued, Refunded, Reserved};
        let Some(whole) = self.any_order(id).await? else { return Ok(BulkOutcome::Unknown) };
        Ok(match (action, whole.order.state) {
            (BulkAction::Cancel, Reserved | Queued | AwaitingPayment | Cancelled) => {
                BulkOutcome::Done(Cancelled)
            }
            (BulkAction::Refund { .. }, Paid | Refunded) => BulkOutcome::Done(Refunded),
            (_, state) => BulkOutcome::Refused(state),
        })
    }

    async fn end_order(
        &self,
        id: OrderId,
        action: BulkAction,
        change: &Change,
    ) -> Result<BulkOutcome, Failure> {
        Ok(match action {
            BulkAction::Cancel => match self.cancel_as_operator(id, change).await? {
                Cancelled::Done(order) => BulkOutcome::Done(order.state),
                Cancelled::NotCancellable(order) => BulkOutcome::Refused(order.state),
                Cancelled::NotDecided => BulkOutcome::NotDecided,
                Cancelled::Unknown => BulkOutcome::Unknown,
            },
            BulkAction::Refund { restock } => match self.refund_as_operator(id, restock, change).await? {
                Refunding::Done(order) => BulkOutcome::Done(order.state),
                Refunding::NotRefundable(order) => BulkOutcome::Refused(order.state),
                Refunding::Unknown => BulkOutcome::Unknown,
            },
        })
    }
}
