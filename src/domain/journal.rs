//! The journal: what each step of an order's life says of itself, as a row of `order_moves` and as an event.
//!
//! The events of one transaction and one partition are one row of `order_events`, whose payload is JSON of
//! [`OrderMove`]s. The events of a partition are numbered without gaps, in the order in which they were committed. A
//! reader that has one event of a partition has had all before it, so a number is a cursor.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::decided::Decided;
use super::ids::{Reference, SaleId, SkuId, UserId};
use super::money::{Money, Quantity};
use super::mover::Mover;
use super::order::{Order, RejectReason};
use super::order_id::OrderId;
use super::order_life::{ARROWS, Arrow, LedgerColumn, OrderState};
use super::record::OrderRecord;

/// One step that an order took. A reader ignores fields that it does not know, and takes words that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderMove<'a> {
    /// The order.
    pub order_id: OrderId,
    /// Its sale.
    pub sale_id: Cow<'a, SaleId>,
    /// What was bought.
    pub sku_id: Cow<'a, SkuId>,
    /// The buyer.
    pub user_id: Cow<'a, UserId>,
    /// How many units were bought.
    pub quantity: Quantity,
    /// The price of one unit.
    pub unit_price: Cow<'a, Money>,
    /// The shop's own name for the order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<Cow<'a, Reference>>,
    /// The word of the step, which an order takes once at most: [`Arrow::move_word`].
    pub kind: Cow<'a, str>,
    /// The word of the state before.
    pub from: Cow<'a, str>,
    /// The word of the state after.
    pub to: Cow<'a, str>,
    /// Why it was rejected; `None` in every other state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// Who moved it, as [`Mover::by`].
    pub by: Cow<'a, str>,
    /// Why, as [`Mover::why`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Cow<'a, str>>,
    /// Whether its units are withheld, and do not go back on sale.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
    /// When the order was accepted, ms since 1970.
    pub accepted_ms: i64,
    /// When the step was taken, ms since 1970, if that is not the time of its row: the time of an imported order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
}

impl<'a> OrderMove<'a> {
    /// Makes the step of an order with a row along an arrow. `order` is as it was before, and `restock` says whether
    /// units that were sold go back on sale.
    pub fn of(order: &'a Order, (arrow, restock): (&Arrow, bool), mover: &Mover<'a>) -> Self {
        Self {
            order_id: order.id,
            sale_id: Cow::Borrowed(&order.sale),
            sku_id: Cow::Borrowed(&order.sku),
            user_id: Cow::Borrowed(&order.user),
            quantity: order.quantity,
            unit_price: Cow::Borrowed(&order.unit_price),
            reference: order.reference.as_ref().map(Cow::Borrowed),
            kind: Cow::Borrowed(arrow.move_word.unwrap_or_default()),
            from: Cow::Borrowed(order.state.as_str()),
            to: Cow::Borrowed(arrow.to.as_str()),
            reason: None,
            by: mover.by.clone(),
            why: mover.why.clone(),
            withheld: order.state.facts().units == Some(LedgerColumn::Sold)
                && !restock
                && arrow.to.holds_nothing(),
            accepted_ms: order.accepted_ms,
            at_ms: None,
        }
    }

    /// Makes the first step of an order that gets its row along an arrow, with the reason of a rejection. The order log
    /// has its record, so it was queued.
    pub fn first(
        record: &'a OrderRecord,
        arrow: &Arrow,
        reason: Option<&'static str>,
        mover: &Mover<'a>,
    ) -> Self {
        Self {
            order_id: record.order_id,
            sale_id: Cow::Borrowed(&record.sale_id),
            sku_id: Cow::Borrowed(&record.sku_id),
            user_id: Cow::Borrowed(&record.user_id),
            quantity: record.quantity,
            unit_price: Cow::Borrowed(&record.unit_price),
            reference: record.reference.as_ref().map(Cow::Borrowed),
            kind: Cow::Borrowed(arrow.move_word.unwrap_or_default()),
            from: Cow::Borrowed(OrderState::Queued.as_str()),
            to: Cow::Borrowed(arrow.to.as_str()),
            reason: reason.map(Cow::Borrowed),
            by: mover.by.clone(),
            why: mover.why.clone(),
            withheld: false,
            accepted_ms: record.accepted_ms,
            at_ms: None,
        }
    }

    /// Makes the steps of an order that came from another backend, with their times. `decided` is its record's.
    pub fn taken(record: &'a OrderRecord, decided: &'a Decided) -> impl Iterator<Item = Self> {
        let mut before = OrderState::Queued;
        decided.steps.iter().zip(decided.arrows()).filter_map(move |(step, arrow)| {
            let arrow = arrow?;
            let from = std::mem::replace(&mut before, arrow.to);
            let by = step.by.as_deref().map_or(Mover::ORDER_WRITER.by, Cow::Borrowed);
            let mover = Mover { by, why: step.why.as_deref().map(Cow::Borrowed) };
            let reason = decided.rejected.filter(|_| arrow.to == OrderState::Rejected);
            let told = Self::first(record, arrow, reason.map(RejectReason::as_str), &mover);
            Some(Self { from: Cow::Borrowed(from.as_str()), at_ms: Some(step.at_ms), ..told })
        })
    }

    /// Makes the steps of an order from before its journal told more than their words. `noted` are those words, each
    /// with its time, in any order. A word that this version does not know is left out.
    pub fn retold(order: &'a Order, noted: &[(String, i64)]) -> Vec<Self> {
        let known = |(word, at_ms): &(String, i64)| {
            let place = ARROWS.iter().position(|arrow| arrow.move_word == Some(word.as_str()))?;
            Some((*at_ms, place))
        };
        let mut steps: Vec<(i64, usize)> = noted.iter().filter_map(known).collect();
        // No arrow leads back, and a server's clock may have been set back.
        steps.sort_unstable_by_key(|(_, place)| *place);
        let mut before = OrderState::Queued;
        let step = |(at_ms, place): (i64, usize)| {
            let arrow = &ARROWS[place];
            let was = std::mem::replace(&mut before, arrow.to);
            let told = Self::of(order, (arrow, true), &Mover::UNKNOWN);
            let reason = order.reason.filter(|_| arrow.to == OrderState::Rejected);
            Self {
                from: Cow::Borrowed(was.as_str()),
                reason: reason.map(|reason| Cow::Borrowed(reason.as_str())),
                at_ms: Some(at_ms),
                ..told
            }
        };
        steps.into_iter().map(step).collect()
    }
}

/// The payload of a row of `order_events`. What all of its steps have in common stands in it once: most orders of a
/// batch are of one sale and SKU, and a row that is a third as long costs the database less.
#[derive(Serialize)]
struct Payload<'a> {
    common: Common<'a>,
    moves: Vec<Own<'a>>,
}

/// The fields of an [`OrderMove`] that many steps may have in common.
#[derive(Serialize)]
struct Common<'a> {
    #[serde(flatten)]
    goods: Option<Goods<'a>>,
    #[serde(flatten)]
    step: Option<Step<'a>>,
}

/// What was bought.
#[derive(PartialEq, Serialize)]
struct Goods<'a> {
    sale_id: &'a SaleId,
    sku_id: &'a SkuId,
    quantity: Quantity,
    unit_price: &'a Money,
}

/// What was done.
#[derive(PartialEq, Serialize)]
struct Step<'a> {
    kind: &'a str,
    from: &'a str,
    to: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    withheld: bool,
}

/// The fields of an [`OrderMove`] that are its own, and those of [`Common`] that not all have in common.
#[derive(Serialize)]
struct Own<'a> {
    order_id: OrderId,
    user_id: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a Reference>,
    accepted_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_ms: Option<i64>,
    #[serde(flatten)]
    other: Common<'a>,
}

impl OrderMove<'_> {
    fn goods(&self) -> Goods<'_> {
        let Self { sale_id, sku_id, quantity, unit_price, .. } = self;
        Goods { sale_id, sku_id, quantity: *quantity, unit_price }
    }

    fn step(&self) -> Step<'_> {
        let Self { kind, from, to, by, .. } = self;
        let (reason, why) = (self.reason.as_deref(), self.why.as_deref());
        Step { kind, from, to, reason, by, why, withheld: self.withheld }
    }
}

/// Encodes the payload of a row of `order_events`.
pub fn encode<'a>(moves: &'a [OrderMove<'a>]) -> Vec<u8> {
    let goods =
        moves.first().map(OrderMove::goods).filter(|goods| moves.iter().all(|own| own.goods() == *goods));
    let step = moves.first().map(OrderMove::step).filter(|step| moves.iter().all(|own| own.step() == *step));
    let own = |own: &'a OrderMove<'_>| Own {
        order_id: own.order_id,
        user_id: &own.user_id,
        reference: own.reference.as_deref(),
        accepted_ms: own.accepted_ms,
        at_ms: own.at_ms,
        other: Common {
            goods: goods.is_none().then(|| own.goods()),
            step: step.is_none().then(|| own.step()),
        },
    };
    let payload = Payload { moves: moves.iter().map(own).collect(), common: Common { goods, step } };
    serde_json::to_vec(&payload).expect("steps of strings and integers always serialise")
}
