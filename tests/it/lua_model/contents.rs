//! Reads what stands in Redis for one bucket: its keys. They are read raw and decoded by a reader of the test's
//! own, so that a fault of the product's readers hides nothing.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::str::FromStr;

use redis::aio::MultiplexedConnection;
use seckill::domain::inventory_model::{Accepted, Bucket, Gate, GateState, Hold, Terms};
use seckill::domain::reservation::{Fingerprint, OutboxEntryId};
use seckill::domain::{BucketId, OrderId, OrderState, Quantity, Reference, SkuId, UserId};

/// The keys of a bucket. Source: docs/protocol/steps.md, "Redis".
pub struct Keys {
    pub gate: String,
    pub stock: String,
    pub buyers: String,
    pub orders: String,
    pub outbox: String,
    pub outbox_orders: String,
    pub unpaid: String,
    pub references: String,
    pub rebuild: String,
}

impl Keys {
    pub fn of(prefix: &str, bucket: &BucketId) -> Self {
        let key = |part: &str| format!("{prefix}{{{}.{}}}:{part}", bucket.sale, bucket.bucket);
        Self {
            gate: key("gate"),
            stock: key("stock"),
            buyers: key("buyers"),
            orders: key("orders"),
            outbox: key("outbox"),
            outbox_orders: key("outbox_orders"),
            unpaid: key("unpaid"),
            references: key("references"),
            rebuild: key("rebuild"),
        }
    }
}

type Fields = BTreeMap<String, String>;
type Holds = HashMap<Vec<u8>, String>;
type Answer = (Fields, Fields, Fields, Holds, Vec<StreamEntry>, Option<usize>, Fields, Holds);
/// The id and the fields of a stream's entry.
type StreamEntry = (String, HashMap<String, Vec<u8>>);

/// Reads the bucket as Redis has it, with its outbox entries under Redis's names. Redis does not show how many entries
/// the bucket ever made, so that number stays 0.
///
/// # Panics
/// When it finds anything that no script of ours writes.
pub async fn read(connection: &mut MultiplexedConnection, keys: &Keys) -> Bucket {
    let run_id = run_id(connection).await;
    let mut question = redis::pipe();
    question.hgetall(&keys.gate).hgetall(&keys.stock).hgetall(&keys.buyers).hgetall(&keys.orders);
    question.cmd("XRANGE").arg(&keys.outbox).arg("-").arg("+").get(&keys.outbox_orders);
    question.hgetall(&keys.unpaid).hgetall(&keys.references);
    let answer: Answer = question.query_async(connection).await.expect("keys of their types");
    let (gate, stock, buyers, orders, outbox, outbox_orders, unpaid, mut references) = answer;
    let id = |bytes: &[u8]| OrderId::from_bytes(bytes).expect("16 bytes");
    let accepted = |(entry, fields): StreamEntry| {
        assert_eq!(fields.len(), 2, "fields of {entry}");
        let epoch = number(std::str::from_utf8(&fields["epoch"]).expect("a number"));
        let orders: Vec<OrderId> = fields["orders"].chunks(16).map(id).collect();
        assert!(!orders.is_empty(), "{entry}");
        Accepted { entry: OutboxEntryId(entry), epoch, orders }
    };
    let hold = |(order, value): (Vec<u8>, String)| {
        let reference = references.remove(&order);
        (id(&order), decode_hold(&value, reference.as_deref()))
    };
    let bucket = Bucket {
        gate: (!gate.is_empty()).then(|| decode_gate(&gate, &run_id)),
        stock: decode_units(stock, SkuId::parse),
        buyers: decode_units(buyers, UserId::parse),
        unpaid: decode_units(unpaid, UserId::parse),
        orders: orders.into_iter().map(hold).collect(),
        outbox: outbox.into_iter().map(accepted).collect(),
        entries_made: 0,
    };
    assert_eq!(outbox_orders.unwrap_or(0), bucket.outbox_orders(), "orders in the outbox: left as counted");
    bucket
}

fn number<T: FromStr>(text: &str) -> T
where
    T::Err: Display,
{
    text.parse().unwrap_or_else(|error| panic!("{text:?} is no number: {error}"))
}

fn decode_units<I: Ord, E: Display>(fields: Fields, parse: fn(&str) -> Result<I, E>) -> BTreeMap<I, u32> {
    let decode = |(name, units): (String, String)| {
        (parse(&name).unwrap_or_else(|error| panic!("{name:?}: {error}")), number(&units))
    };
    fields.into_iter().map(decode).collect()
}

/// Makes the terms of a gate without a lease.
pub fn terms(opens_ms: i64, closes_ms: i64, buyer_limit: u32, unpaid_max: u32) -> Terms {
    Terms { opens_ms, closes_ms, buyer_limit, unpaid_max, lease_ms: 0 }
}

/// Reads which run of the server this is.
async fn run_id(connection: &mut MultiplexedConnection) -> String {
    let info: redis::InfoDict = redis::cmd("INFO").arg("server").query_async(connection).await.expect("INFO");
    info.get("run_id").expect("a run")
}

fn decode_gate(fields: &Fields, run_id: &str) -> Gate {
    const NAMES: [&str; 13] = [
        "buyer_limit",
        "closes_ms",
        "epoch",
        "given_up",
        "lease_ms",
        "lost",
        "opens_ms",
        "placed",
        "run_id",
        "sold",
        "state",
        "unpaid_max",
        "version",
    ];
    assert!(fields.keys().all(|name| NAMES.contains(&name.as_str())), "{fields:?}");
    let terms = || {
        Some(Terms {
            opens_ms: fields.get("opens_ms")?.parse().ok()?,
            closes_ms: fields.get("closes_ms")?.parse().ok()?,
            buyer_limit: fields.get("buyer_limit")?.parse().ok()?,
            unpaid_max: fields.get("unpaid_max").and_then(|text| text.parse().ok()).unwrap_or(0),
            lease_ms: fields.get("lease_ms")?.parse().ok()?,
        })
    };
    Gate {
        epoch: number(&fields["epoch"]),
        state: match fields["state"].as_str() {
            "placing" => GateState::Placing,
            "open" => GateState::Open,
            "paused" => GateState::Paused,
            "ended" => GateState::Ended,
            _ => GateState::Unknown,
        },
        version: fields.get("version").map(|version| number(version)),
        terms: terms(),
        sold: fields.contains_key("sold"),
        given_up: fields.contains_key("given_up"),
        lost: fields.get("lost").is_some_and(|keys| !keys.is_empty()),
        is_on_its_run: fields["run_id"] == run_id,
    }
}

fn decode_hold(value: &str, reference: Option<&str>) -> Hold {
    let fields: Vec<&str> = value.splitn(6, '|').collect();
    let [state, fingerprint, quantity, reserved_ms, sku, user] = fields[..] else {
        panic!("{value:?} has not six fields");
    };
    let is_released = state.chars().all(char::is_uppercase);
    let state = OrderState::ALL.into_iter().find(|&known| letter(known) == state.to_lowercase());
    let sku = SkuId::parse(sku).expect("a SKU");
    let quantity = Quantity::new(number(quantity)).expect("a quantity");
    let reference = reference.map(|text| Reference::parse(text).expect("a reference"));
    let print = Fingerprint::of(&sku, quantity, reference.as_ref());
    assert_eq!(fingerprint, print.as_str(), "fingerprint of {value:?}");
    Hold {
        state: state.unwrap_or_else(|| panic!("{value:?}: no such state")),
        fingerprint: print,
        quantity,
        reserved_ms: number(reserved_ms),
        sku,
        user: UserId::parse(user).expect("a user"),
        reference,
        is_released,
    }
}

/// Returns the letter of a state in the `orders` hash.
pub fn letter(state: OrderState) -> &'static str {
    match state {
        OrderState::Reserved => "r",
        OrderState::Queued => "q",
        OrderState::AwaitingPayment => "a",
        OrderState::Paid => "p",
        OrderState::Cancelled => "c",
        OrderState::Expired => "e",
        OrderState::Refunded => "f",
        OrderState::Rejected => "x",
    }
}
