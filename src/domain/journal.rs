//! The journal: what each step of an order's life says of itself, as a row of `order_moves` and as an event.
//!
//! The events of one transaction and one partition are one row of `order_events`, whose payload is JSON of
//! [`OrderMove`]s. The events of a partition are numbered without gaps, in the order in which they were committed. A
//! reader that has one event of a partition has had all before it, so a number is a cursor.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::calendar::rfc3339;
use super::decided::Decided;
use super::ids::{Reference, SaleId, SkuId, UserId};
use super::money::{Money, Quantity};
use super::mover::Mover;
use super::order::{Order, RejectReason};
use super::order_id::OrderId;
use super::order_life::{ARROWS, Arrow, OrderState};
use super::record::OrderRecord;
use super::shard::Part;

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Cow<'a, Reference>>,
    /// The word of the step, which an order takes once at most: [`Arrow::move_word`].
    pub kind: Cow<'a, str>,
    /// The word of the state before.
    pub from: Cow<'a, str>,
    /// The word of the state after.
    pub to: Cow<'a, str>,
    /// Why it was rejected; `None` in every other state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Cow<'a, str>>,
    /// Who moved it, as [`Mover::by`].
    pub by: Cow<'a, str>,
    /// Why, as [`Mover::why`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<Cow<'a, str>>,
    /// When the order was accepted, ms since 1970.
    pub accepted_ms: i64,
    /// When the step was taken, ms since 1970, if that is not the time of its row: the time of an imported order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_ms: Option<i64>,
}

impl<'a> OrderMove<'a> {
    /// Makes the step of an order with a row along an arrow. `order` is as it was before.
    pub fn of(order: &'a Order, arrow: &Arrow, mover: &Mover<'a>) -> Self {
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
            let told = Self::of(order, arrow, &Mover::UNKNOWN);
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

    /// Answers what the order costs in all, in minor units of its currency.
    pub fn amount(&self) -> i64 {
        self.unit_price.amount().saturating_mul(i64::from(self.quantity.units()))
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
        Step { kind, from, to, reason: self.reason.as_deref(), by, why: self.why.as_deref() }
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

/// The number of the next event that a reader wants of each partition. A partition that is not named begins at
/// [`FIRST_NUMBER`].
pub type EventNumbers = BTreeMap<Part, i64>;

/// The number of the first event of a partition.
pub const FIRST_NUMBER: i64 = 1;

/// One event, as a reader gets it.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// Its partition: that of its order in the order log.
    pub part: Part,
    /// Its number in the partition.
    pub number: i64,
    /// When the step was taken, ms since 1970.
    pub at_ms: i64,
    /// The order.
    pub order: OrderId,
    /// The word of the step.
    pub kind: String,
    /// The step, as it was written: an [`OrderMove`], perhaps of a newer version with more fields.
    pub data: Box<RawValue>,
}

/// What a reader that passes events on needs to know of them.
#[derive(Deserialize)]
struct Head {
    order_id: OrderId,
    kind: String,
    at_ms: Option<i64>,
}

/// An event in the shape of CloudEvents 1.0, structured mode. Source: github.com/cloudevents/spec, "spec.md" and the
/// extensions "sequence" and "partitioning".
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: String,
    subject: OrderId,
    time: String,
    datacontenttype: &'static str,
    partitionkey: OrderId,
    sequence: String,
    data: &'a RawValue,
}

/// Joins two JSON objects without a common member into one.
fn joined(own: &str, common: &str) -> Result<Box<RawValue>, String> {
    let inner = |text: &'_ str| Some(text.strip_prefix('{')?.strip_suffix('}')?.trim().to_owned());
    let (Some(own), Some(common)) = (inner(own), inner(common)) else {
        return Err("a step is no object".to_owned());
    };
    let comma = if own.is_empty() || common.is_empty() { "" } else { "," };
    RawValue::from_string(format!("{{{own}{comma}{common}}}")).map_err(|error| error.to_string())
}

impl StoredEvent {
    /// Reads the events of a row of `order_events`.
    ///
    /// # Errors
    /// Why the payload is not `events` steps.
    pub fn of_row(
        part: Part,
        (first_number, events): (i64, i64),
        at_ms: i64,
        payload: &[u8],
    ) -> Result<Vec<Self>, String> {
        #[derive(Deserialize)]
        struct Stored<'a> {
            #[serde(borrow)]
            common: &'a RawValue,
            #[serde(borrow)]
            moves: Vec<&'a RawValue>,
        }
        let stored: Stored<'_> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        if i64::try_from(stored.moves.len()) != Ok(events) {
            return Err(format!("{} events stand where {events} should", stored.moves.len()));
        }
        let read = |(number, own): (i64, &RawValue)| {
            let data = joined(own.get(), stored.common.get())?;
            let head: Head = serde_json::from_str(data.get()).map_err(|error| error.to_string())?;
            let at_ms = head.at_ms.unwrap_or(at_ms);
            Ok(Self { part, number, at_ms, order: head.order_id, kind: head.kind, data })
        };
        (first_number..).zip(stored.moves).map(read).collect()
    }

    /// Answers the event's id, the same however often the event is passed on: an order takes a step once at most.
    pub fn id(&self) -> String {
        format!("{}.{}", self.order, self.kind)
    }

    /// Reads the step itself.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn order_move(&self) -> Result<OrderMove<'static>, String> {
        serde_json::from_str(self.data.get()).map_err(|error| error.to_string())
    }

    /// Encodes the event for those who are told: CloudEvents 1.0 as JSON. Of one `source`, `sequence` ascends as texts
    /// do.
    pub fn encode(&self) -> Vec<u8> {
        let event = CloudEvent {
            specversion: "1.0",
            id: &self.id(),
            source: format!("/seckill/parts/{}", self.part.number()),
            r#type: format!("seckill.order.{}", self.kind),
            subject: self.order,
            time: rfc3339(self.at_ms),
            datacontenttype: "application/json",
            partitionkey: self.order,
            sequence: format!("{:020}", self.number),
            data: &self.data,
        };
        serde_json::to_vec(&event).expect("an event of strings always serialises")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row() -> Vec<u8> {
        let step = |id: &str, more: Value| {
            let mut step = json!({
                "order_id": id, "sale_id": "drop", "sku_id": "phone", "user_id": "u1", "quantity": 2,
                "unit_price": {"amount": 19900, "currency": "CNY"}, "kind": "persisted", "from": "queued",
                "to": "awaiting_payment", "by": "order_writer", "accepted_ms": 1_700_000_000_000_i64,
            });
            step.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            step
        };
        let id = "ord_00000000000000000000000000";
        let moves = [step(id, json!({})), step(id, json!({"at_ms": 7, "kind": "melted", "heat": 9}))];
        serde_json::to_vec(&json!({ "common": {}, "moves": moves })).expect("JSON")
    }

    #[test]
    fn an_event_is_numbered_by_its_row_and_keeps_what_this_version_does_not_know() {
        let events =
            StoredEvent::of_row(Part::new(3), (41, 2), 1_700_000_000_123, &row()).expect("two steps");
        let told: Vec<Value> =
            events.iter().map(|event| serde_json::from_slice(&event.encode()).expect("JSON")).collect();
        assert_eq!(told[0]["sequence"], "00000000000000000041");
        assert_eq!(told[0]["source"], "/seckill/parts/3");
        assert_eq!(told[0]["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(told[0]["type"], "seckill.order.persisted");
        assert_eq!(told[0]["id"], format!("{}.persisted", events[0].order));
        assert_eq!(told[1]["data"]["heat"], 9);
        assert_eq!((told[1]["time"].as_str(), events[1].number), (Some("1970-01-01T00:00:00.007Z"), 42));
        let step = events[1].order_move().expect("a step");
        assert_eq!((step.kind.as_ref(), step.amount()), ("melted", 39800));
    }

    #[test]
    fn a_row_that_says_another_number_of_events_is_refused() {
        assert!(StoredEvent::of_row(Part::new(3), (41, 3), 0, &row()).is_err());
        assert!(StoredEvent::of_row(Part::new(3), (41, 1), 0, b"{}").is_err());
        assert!(StoredEvent::of_row(Part::new(3), (41, 1), 0, b"[{}]").is_err());
        assert!(StoredEvent::of_row(Part::new(3), (41, 1), 0, br#"{"common":{},"moves":[7]}"#).is_err());
    }

    #[test]
    fn what_was_written_is_what_is_read_whatever_the_steps_have_in_common() {
        let whole = StoredEvent::of_row(Part::new(3), (1, 2), 5, &row()).expect("two steps");
        let (sale, sku) = (SaleId::parse("other").expect("a slug"), SkuId::parse("bag").expect("a slug"));
        let step = whole[0].order_move().expect("a step");
        let rejected = OrderMove {
            reason: Some(Cow::Borrowed("limit")),
            why: Some(Cow::Borrowed("a \"wish\" {}")),
            reference: Some(Cow::Owned(Reference::parse("cart 7 \"ö\"").expect("a reference"))),
            to: Cow::Borrowed("rejected"),
            at_ms: Some(9),
            ..step.clone()
        };
        let another =
            OrderMove { sale_id: Cow::Borrowed(&sale), sku_id: Cow::Borrowed(&sku), ..step.clone() };
        let same = vec![step.clone(); 3];
        for moves in [
            vec![step.clone()],
            same,
            vec![step.clone(), another.clone()],
            vec![rejected.clone(), step, another],
        ] {
            let events = i64::try_from(moves.len()).expect("few");
            let read = StoredEvent::of_row(Part::new(3), (1, events), 5, &encode(&moves)).expect("readable");
            let read: Vec<OrderMove<'_>> =
                read.iter().map(|event| event.order_move().expect("a step")).collect();
            assert_eq!(read, moves);
        }
        let rejected = OrderMove { reference: None, ..rejected };
        assert!(encode(&vec![rejected; 100]).len() < 100 * 110 + 400, "what is common stands there once");
    }
}
