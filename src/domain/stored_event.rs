//! Events, as their readers get them from rows of `order_events`.
//!
//! Every event is read at least twice, for the topic and for the views. So a row is parsed once: what its events have
//! in common is shared among them, and the text of a step is passed on as it was written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Arguments;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::calendar::rfc3339;
use super::ids::{SaleId, SkuId};
use super::money::{Money, Quantity};
use super::order_id::OrderId;
use super::shard::Part;

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
    pub kind: Arc<str>,
    /// What was done with which goods, shared with other events of the row; `None` when this version cannot read it.
    pub facts: Option<Arc<Facts>>,
    /// The members of the step that are its own, without braces: with [`Self::common`] an [`super::OrderMove`], perhaps
    /// of a newer version with more fields.
    own: Box<str>,
    /// The members of the step that it has in common with all others of its row.
    common: Arc<str>,
}

/// What was done with which goods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The sale.
    pub sale: SaleId,
    /// What was bought.
    pub sku: SkuId,
    /// How many units were bought.
    pub quantity: Quantity,
    /// The price of one unit.
    pub unit_price: Money,
    /// The word of the step, known to this version or not.
    pub kind: String,
    /// The word of the state before.
    pub from: String,
    /// The word of the state after.
    pub to: String,
    /// Why the order was rejected; empty in every other state.
    pub reason: String,
}

/// The payload of a row of `order_events`, as [`super::journal::encode`] makes it.
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    common: &'a RawValue,
    #[serde(borrow)]
    moves: Vec<&'a RawValue>,
}

/// The members of a step that readers look at: of those that one step has of its own, or of those that all of a row
/// have in common.
#[derive(Deserialize)]
struct Members<'a> {
    order_id: Option<OrderId>,
    at_ms: Option<i64>,
    #[serde(borrow)]
    sale_id: Option<&'a RawValue>,
    #[serde(borrow)]
    sku_id: Option<&'a RawValue>,
    #[serde(borrow)]
    quantity: Option<&'a RawValue>,
    #[serde(borrow)]
    unit_price: Option<&'a RawValue>,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    from: Option<&'a RawValue>,
    #[serde(borrow)]
    to: Option<&'a RawValue>,
    #[serde(borrow)]
    reason: Option<&'a RawValue>,
}

impl Facts {
    /// Answers what the order costs in all, in minor units of its currency.
    pub fn amount(&self) -> i64 {
        self.unit_price.amount().saturating_mul(i64::from(self.quantity.units()))
    }
}

impl Members<'_> {
    /// Answers whether any of the [`Facts`] is among these members.
    fn have_facts(&self) -> bool {
        let goods = [self.sale_id, self.sku_id, self.quantity, self.unit_price];
        let step = [self.kind, self.from, self.to, self.reason];
        goods.iter().chain(&step).any(Option::is_some)
    }

    /// Reads the facts of a step with these members of its own; `None` when one is missing or cannot be read.
    fn facts(&self, common: &Self) -> Option<Facts> {
        Some(Facts {
            sale: read(self.sale_id.or(common.sale_id))?,
            sku: read(self.sku_id.or(common.sku_id))?,
            quantity: read(self.quantity.or(common.quantity))?,
            unit_price: read(self.unit_price.or(common.unit_price))?,
            kind: read(self.kind.or(common.kind))?,
            from: read(self.from.or(common.from))?,
            to: read(self.to.or(common.to))?,
            reason: match self.reason.or(common.reason) {
                None => String::new(),
                reason => read(reason)?,
            },
        })
    }
}

fn read<T: DeserializeOwned>(value: Option<&RawValue>) -> Option<T> {
    serde_json::from_str(value?.get()).ok()
}

/// Takes the members out of the text of a JSON object.
fn inner(object: &str) -> Result<&str, String> {
    let inner = object.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
    inner.map(str::trim).ok_or_else(|| "a step is no object".to_owned())
}

/// What the events of one row have in common.
struct Shared<'a> {
    part: Part,
    at_ms: i64,
    members: Members<'a>,
    text: Arc<str>,
    kind: Option<Arc<str>>,
    facts: Option<Arc<Facts>>,
}

impl Shared<'_> {
    fn event(&self, number: i64, own: &RawValue) -> Result<StoredEvent, String> {
        let text = inner(own.get())?;
        let own: Members<'_> = serde_json::from_str(own.get()).map_err(|error| error.to_string())?;
        let (kind, facts) = if own.have_facts() {
            let kind = own.kind.map_or_else(|| self.kind.clone(), |kind| word(Some(kind)));
            (kind, own.facts(&self.members).map(Arc::new))
        } else {
            (self.kind.clone(), self.facts.clone())
        };
        Ok(StoredEvent {
            part: self.part,
            number,
            at_ms: own.at_ms.unwrap_or(self.at_ms),
            order: own.order_id.ok_or("a step names no order")?,
            kind: kind.ok_or("a step has no word")?,
            facts,
            own: text.into(),
            common: self.text.clone(),
        })
    }
}

fn word(value: Option<&RawValue>) -> Option<Arc<str>> {
    read::<String>(value).map(Arc::from)
}

/// The head of an event in the shape of CloudEvents 1.0, structured mode. Source: github.com/cloudevents/spec,
/// "spec.md" and the extensions "sequence" and "partitioning".
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: Arguments<'a>,
    source: Arguments<'a>,
    r#type: Arguments<'a>,
    subject: OrderId,
    time: Cow<'a, str>,
    datacontenttype: &'static str,
    partitionkey: OrderId,
    sequence: Arguments<'a>,
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
        let row: Row<'_> = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        if i64::try_from(row.moves.len()) != Ok(events) {
            return Err(format!("{} events stand where {events} should", row.moves.len()));
        }
        let text = inner(row.common.get())?.into();
        let members: Members<'_> =
            serde_json::from_str(row.common.get()).map_err(|error| error.to_string())?;
        let (kind, facts) = (word(members.kind), members.facts(&members).map(Arc::new));
        let shared = Shared { part, at_ms, members, text, kind, facts };
        (first_number..).zip(row.moves).map(|(number, own)| shared.event(number, own)).collect()
    }

    /// Answers the event's id, the same however often the event is passed on: an order takes a step once at most.
    pub fn id(&self) -> String {
        format!("{}.{}", self.order, self.kind)
    }

    /// Encodes the event for those who are told: CloudEvents 1.0 as JSON. Of one `source`, `sequence` ascends as texts
    /// do.
    pub fn encode(&self) -> Vec<u8> {
        let Self { part, number, order, kind, own, common, .. } = self;
        let mut text = Vec::with_capacity(512 + own.len() + common.len());
        let head = serde_json::to_writer(
            &mut text,
            &CloudEvent {
                specversion: "1.0",
                id: format_args!("{order}.{kind}"),
                source: format_args!("/seckill/parts/{}", part.number()),
                r#type: format_args!("seckill.order.{kind}"),
                subject: *order,
                time: rfc3339(self.at_ms).into(),
                datacontenttype: "application/json",
                partitionkey: *order,
                sequence: format_args!("{number:020}"),
            },
        );
        head.expect("a head of texts always serialises");
        // The step was JSON when its row was read, and it is the last member of the head.
        text.pop();
        let comma = if own.is_empty() || common.is_empty() { "" } else { "," };
        for piece in [",\"data\":{", own, comma, common, "}}"] {
            text.extend_from_slice(piece.as_bytes());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::ids::{Reference, UserId};
    use super::super::journal::{OrderMove, encode};
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

    fn told(event: &StoredEvent) -> Value {
        serde_json::from_slice(&event.encode()).expect("JSON")
    }

    #[test]
    fn an_event_is_numbered_by_its_row_and_keeps_what_this_version_does_not_know() {
        let events =
            StoredEvent::of_row(Part::new(3), (41, 2), 1_700_000_000_123, &row()).expect("two steps");
        let told: Vec<Value> = events.iter().map(told).collect();
        assert_eq!(told[0]["sequence"], "00000000000000000041");
        assert_eq!(told[0]["source"], "/seckill/parts/3");
        assert_eq!(told[0]["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(told[0]["type"], "seckill.order.persisted");
        assert_eq!(told[0]["id"], events[0].id());
        assert_eq!(told[0]["subject"], "ord_00000000000000000000000000");
        assert_eq!(told[0]["partitionkey"], "ord_00000000000000000000000000");
        assert_eq!(told[1]["data"]["heat"], 9);
        assert_eq!((told[1]["time"].as_str(), events[1].number), (Some("1970-01-01T00:00:00.007Z"), 42));
        let facts = events[1].facts.as_ref().expect("readable");
        assert_eq!(
            (events[1].kind.as_ref(), facts.kind.as_str(), facts.amount()),
            ("melted", "melted", 39800)
        );
    }

    #[test]
    fn a_row_that_is_not_what_it_says_is_refused() {
        let read = |events, payload: &[u8]| StoredEvent::of_row(Part::new(3), (41, events), 0, payload);
        assert!(read(3, &row()).is_err(), "another number of events");
        assert!(read(1, b"{}").is_err());
        assert!(read(1, b"[{}]").is_err());
        for own in ["7", "[]", "{}", r#"{"order_id":7}"#, r#"{"order_id":"ord_00000000000000000000000000"}"#]
        {
            assert!(read(1, format!(r#"{{"common":{{}},"moves":[{own}]}}"#).as_bytes()).is_err(), "{own}");
        }
    }

    #[test]
    fn what_a_newer_version_says_otherwise_is_passed_on_and_has_no_facts() {
        let text = String::from_utf8(row()).expect("JSON").replacen("\"quantity\":2", "\"quantity\":0", 1);
        let events = StoredEvent::of_row(Part::new(3), (41, 2), 0, text.as_bytes()).expect("two steps");
        assert!(events[0].facts.is_none() && events[1].facts.is_some());
        assert_eq!(told(&events[0])["data"]["quantity"], 0);
    }

    #[test]
    fn what_was_written_is_what_is_read_whatever_the_steps_have_in_common() {
        let slugs = |sale, sku| (SaleId::parse(sale).expect("a slug"), SkuId::parse(sku).expect("a slug"));
        let ((sale, sku), (other_sale, other_sku)) = (slugs("drop", "phone"), slugs("other", "bag"));
        let (user, price) = (UserId::parse("u\"1").expect("an id"), Money::new(100, "CNY").expect("a price"));
        let step = OrderMove {
            order_id: OrderId::from_bytes(&[7; 16]).expect("an id"),
            sale_id: Cow::Borrowed(&sale),
            sku_id: Cow::Borrowed(&sku),
            user_id: Cow::Borrowed(&user),
            quantity: Quantity::new(2).expect("a quantity"),
            unit_price: Cow::Borrowed(&price),
            reference: None,
            kind: Cow::Borrowed("persisted"),
            from: Cow::Borrowed("queued"),
            to: Cow::Borrowed("awaiting_payment"),
            reason: None,
            by: Cow::Borrowed("order_writer"),
            why: None,
            withheld: false,
            accepted_ms: 5,
            at_ms: None,
        };
        let rejected = OrderMove {
            reason: Some(Cow::Borrowed("limit")),
            why: Some(Cow::Borrowed("a \"wish\" {}")),
            reference: Some(Cow::Owned(Reference::parse("cart 7 \"ö\"").expect("a reference"))),
            to: Cow::Borrowed("rejected"),
            withheld: true,
            at_ms: Some(9),
            ..step.clone()
        };
        let another = OrderMove {
            sale_id: Cow::Borrowed(&other_sale),
            sku_id: Cow::Borrowed(&other_sku),
            ..step.clone()
        };
        for moves in [
            vec![step.clone()],
            vec![step.clone(); 3],
            vec![step.clone(), another.clone()],
            vec![step.clone(), rejected.clone()],
            vec![rejected.clone(), step, another],
        ] {
            let events = i64::try_from(moves.len()).expect("few");
            let read = StoredEvent::of_row(Part::new(3), (1, events), 5, &encode(&moves)).expect("readable");
            assert_eq!(read.len(), moves.len());
            for (event, step) in read.iter().zip(&moves) {
                assert_eq!(told(event)["data"], serde_json::to_value(step).expect("JSON"));
                let facts = Facts {
                    sale: step.sale_id.clone().into_owned(),
                    sku: step.sku_id.clone().into_owned(),
                    quantity: step.quantity,
                    unit_price: price.clone(),
                    kind: step.kind.to_string(),
                    from: step.from.to_string(),
                    to: step.to.to_string(),
                    reason: step.reason.as_deref().unwrap_or_default().to_owned(),
                };
                assert_eq!(event.facts.as_deref(), Some(&facts));
                assert_eq!((event.order, event.at_ms), (step.order_id, step.at_ms.unwrap_or(5)));
            }
        }
        let rejected = OrderMove { reference: None, ..rejected };
        assert!(encode(&vec![rejected; 100]).len() < 100 * 110 + 400, "what is common stands there once");
    }
}
