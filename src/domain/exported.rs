//! What travels with an order from one backend to another.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::decided::{Decided, TakenStep};
use super::money::Money;
use super::node::NodeMark;
use super::order::Order;
use super::order_id::OrderId;
use super::payment::{PaymentId, PaymentRequest, PaymentState, RefundReason, RefundState};
use super::record::OrderRecord;

/// An order of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The record that makes the same order in another backend.
    #[serde(flatten)]
    pub record: OrderRecord,
    /// Its payments, ascending by attempt. Each has come to its end at the provider.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub payments: Vec<ExportedPayment>,
    /// The processes that accepted it and wrote its row. They mean nothing elsewhere, so no export has them.
    #[serde(skip)]
    pub nodes: OrderNodes,
}

/// The processes of an order's first steps, as far as they are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OrderNodes {
    /// The one that accepted it.
    pub accepted: Option<NodeMark>,
    /// The one that wrote its row.
    pub written: Option<NodeMark>,
}

impl OrderNodes {
    /// Makes the bytes of a row, four for each process.
    pub fn bytes(self) -> [u8; 8] {
        let of = |node: Option<NodeMark>| u64::from(u32::from_be_bytes(node.map_or([0; 4], NodeMark::bytes)));
        (of(self.accepted) << 32 | of(self.written)).to_be_bytes()
    }

    /// Reads the bytes of a row. Others than eight say nothing.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let (accepted, written) = bytes.split_at(bytes.len().min(4));
        Self { accepted: NodeMark::from_bytes(accepted), written: NodeMark::from_bytes(written) }
    }
}

impl Exported {
    /// Answers the same order as a file of the version of `other` tells it: the first version has no steps, and none
    /// has processes.
    pub fn as_told_by(mut self, other: &Self) -> Self {
        self.nodes = OrderNodes::default();
        let steps = self.record.decided.iter_mut().flat_map(|decided| &mut decided.steps);
        steps.for_each(|step| step.node = None);
        for payment in &mut self.payments {
            payment.node = None;
            payment.refund.iter_mut().for_each(|refund| refund.node = None);
            payment.events.iter_mut().for_each(|event| event.node = None);
        }
        if other.record.v == OrderRecord::VERSION {
            self.record.v = other.record.v;
            if let Some(decided) = &mut self.record.decided {
                decided.steps.clear();
            }
        }
        self
    }
}

impl OrderRecord {
    /// Makes the record that makes the same order in another backend. `steps` are the rows of its moves in any order.
    ///
    /// # Errors
    /// A text that says why, for an order whose steps do not lead to its state.
    pub fn exported(row: ExportRow, mut steps: Vec<TakenStep>) -> Result<Self, String> {
        let ExportRow { order, epoch, created_ms, nodes } = row;
        let (state, rejected) = (order.state, order.reason);
        let expires_ms = order.expires_ms.unwrap_or(created_ms);
        let unnoted = TakenStep::unnoted(state, (created_ms, expires_ms), &steps);
        steps.extend(unnoted.map(|step| TakenStep { node: nodes.written, ..step }));
        TakenStep::sort(&mut steps);
        let decided = Decided { state, rejected, created_ms, expires_ms, steps };
        if !decided.is_possible() {
            let steps: Vec<&str> = decided.steps.iter().map(|step| step.kind.as_str()).collect();
            return Err(format!("{} is {}, and its steps are {steps:?}", order.id, state.as_str()));
        }
        Ok(Self {
            v: Self::VERSION_DECIDED,
            order_id: order.id,
            sale_id: order.sale,
            sku_id: order.sku,
            user_id: order.user,
            quantity: order.quantity,
            unit_price: order.unit_price,
            reference: order.reference,
            epoch,
            accepted_ms: order.accepted_ms,
            awaited: false,
            node: None,
            trace: None,
            decided: Some(Box::new(decided)),
        })
    }
}

/// A payment that has come to its end at the provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedPayment {
    /// Its state, which is final.
    pub state: PaymentState,
    /// What the provider was asked for.
    pub request: PaymentRequest,
    /// The provider's id of its page.
    pub reference: Option<String>,
    /// The address of its page.
    pub url: Option<String>,
    /// The provider's id of its capture.
    pub capture: Option<String>,
    /// What was paid back.
    pub refund: Option<ExportedRefund>,
    /// The provider's events that were taken, ascending by time and id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<ExportedEvent>,
    /// The process that opened it, if it is known. No export has it.
    #[serde(skip)]
    pub node: Option<NodeMark>,
}

/// A refund that has come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedRefund {
    /// The amount.
    pub amount: Money,
    /// The provider's id of the capture.
    pub capture: String,
    /// Why it was paid back.
    pub reason: RefundReason,
    /// Its state, which is final.
    pub state: RefundState,
    /// When it was owed, ms since 1970.
    pub created_ms: i64,
    /// How often the provider was asked.
    pub tries: u32,
    /// The process that owed it, if it is known. No export has it.
    #[serde(skip)]
    pub node: Option<NodeMark>,
}

/// An event of the provider that was taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ExportedEvent {
    /// When it was taken, ms since 1970.
    pub at_ms: i64,
    /// The provider's id of it.
    pub id: String,
    /// What came of it.
    pub outcome: String,
    /// The process that took it, if it is known. No export has it.
    #[serde(skip)]
    pub node: Option<NodeMark>,
}

impl ExportedPayment {
    /// Answers whether the provider has nothing to do with it any more. Of a paid order it keeps the money.
    pub fn is_over(&self) -> bool {
        let ends = [RefundState::Done, RefundState::Settled];
        self.state.is_final() && self.refund.as_ref().is_none_or(|refund| ends.contains(&refund.state))
    }

    /// Answers whether the shop has its money.
    pub fn keeps_money(&self) -> bool {
        self.state == PaymentState::Captured && self.refund.is_none()
    }
}

/// An order with what only an export reads of its row.
#[derive(Debug)]
pub struct ExportRow {
    /// The order.
    pub order: Order,
    /// Its epoch.
    pub epoch: u32,
    /// When the row was made, ms since 1970.
    pub created_ms: i64,
    /// The processes that accepted it and wrote the row.
    pub nodes: OrderNodes,
}

/// What a backend has read of a page of orders.
#[derive(Debug, Default)]
pub struct ExportPage {
    /// The orders, ascending by id.
    pub orders: Vec<ExportRow>,
    /// Their steps, in any order.
    pub steps: HashMap<OrderId, Vec<TakenStep>>,
    /// Their payments without refunds and events, ascending by attempt.
    pub payments: Vec<ExportedPayment>,
    /// Refunds of those payments.
    pub refunds: HashMap<PaymentId, ExportedRefund>,
    /// Events of those payments, each with its payment, ascending by time and id.
    pub events: Vec<(PaymentId, ExportedEvent)>,
}

impl ExportPage {
    /// Puts together what belongs together.
    ///
    /// # Errors
    /// As [`OrderRecord::exported`].
    pub fn exported(self) -> Result<Vec<Exported>, String> {
        let Self { orders, mut steps, payments, mut refunds, events } = self;
        let mut events_of: HashMap<PaymentId, Vec<ExportedEvent>> = HashMap::new();
        for (payment, event) in events {
            events_of.entry(payment).or_default().push(event);
        }
        let mut payments_of: HashMap<OrderId, Vec<ExportedPayment>> = HashMap::new();
        for mut payment in payments {
            let id = payment.request.id;
            payment.refund = refunds.remove(&id);
            payment.events = events_of.remove(&id).unwrap_or_default();
            payments_of.entry(id.order).or_default().push(payment);
        }
        let exported = |row: ExportRow| {
            let (id, nodes) = (row.order.id, row.nodes);
            let taken = steps.remove(&id).unwrap_or_default();
            let record = OrderRecord::exported(row, taken)?;
            Ok(Exported { record, payments: payments_of.remove(&id).unwrap_or_default(), nodes })
        };
        orders.into_iter().map(exported).collect()
    }
}
