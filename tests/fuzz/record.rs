//! Fuzzes the decoder of order records, and the plan of a batch that holds what was decoded.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use seckill::domain::batch_plan::{Known, LogBatch, LogRecord, plan};
use seckill::domain::record::Poison;
use seckill::domain::{
    IdempotencyKey, Item, LogId, Money, Month, OrderId, OrderRecord, Part, Quantity, Sale, SaleId, SaleState,
    Sales, ShardMap, SkuId, UserId,
};

use crate::engine::{Target, run};
use crate::grammar::{INTEGERS, Node, one_of, slug, text_of};
use crate::json::{self, DEPTH_SAFE, Doc};
use crate::request::{canonical, is_order, is_reference, is_slug, is_visible};

const BYTES_MAX: usize = 4096;
const LIMIT: u32 = 3;
const FIELDS: [&str; 9] =
    ["v", "order_id", "sale_id", "sku_id", "user_id", "quantity", "unit_price", "epoch", "accepted_ms"];
fn brackets(payload: &[u8]) -> usize {
    payload.iter().filter(|byte| b"[{".contains(byte)).count()
}

fn sale() -> Sale {
    let item = |sku: &str| Item {
        sku_id: SkuId::parse(sku).expect("slug"),
        name: sku.to_owned(),
        stock: 1000,
        price: Money::new(100, "CNY").expect("money"),
    };
    Sale {
        id: SaleId::parse("drop").expect("slug"),
        name: "Drop".to_owned(),
        state: SaleState::Preheated,
        starts_ms: 1_700_000_000_000,
        ends_ms: 1_700_000_100_000,
        buyer_limit: LIMIT,
        unpaid_max: 3,
        access: seckill::domain::Access::default(),
        payment_window_ms: 60_000,
        buckets: 1,
        epoch: 1,
        in_place: true,
        version: 1,
        items: vec![item("pad"), item("phone")],
    }
}

fn map() -> ShardMap {
    ShardMap::new(8, 4, 2).expect("valid")
}

fn is_whole(doc: Option<&Doc>, range: std::ops::RangeInclusive<i128>) -> bool {
    doc.and_then(Doc::whole).is_some_and(|number| range.contains(&number))
}

/// Returns whether a field stands there once and within its bounds. The version may be any.
fn is_field(doc: &Doc, name: &str) -> bool {
    let Some(field) = doc.member(name) else { return false };
    let is_text = |is_right: fn(&str) -> bool| field.text().is_some_and(is_right);
    let is_currency = |text: &str| text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase());
    match name {
        "order_id" => is_text(is_order),
        "sale_id" | "sku_id" => is_text(is_slug),
        "user_id" => is_text(is_visible),
        "v" | "epoch" => is_whole(Some(field), 0..=u32::MAX.into()),
        "quantity" => is_whole(Some(field), 1..=99),
        "accepted_ms" => is_whole(Some(field), i64::MIN.into()..=i64::MAX.into()),
        "unit_price" => {
            field.is_object_of(&["amount", "currency"], &[])
                && is_whole(field.member("amount"), 0..=9_007_199_254_740_991)
                && field.member("currency").and_then(Doc::text).is_some_and(is_currency)
        }
        _ => false,
    }
}

fn is_record(doc: &Doc) -> bool {
    FIELDS.iter().all(|name| is_field(doc, name)) && is_reference_or_none(doc)
}

fn is_reference_or_none(doc: &Doc) -> bool {
    let of = |field: &Doc| *field == Doc::Null || field.text().is_some_and(is_reference);
    doc.member("reference").map_or(!doc.has("reference"), of)
}

fn is_version_one(doc: &Doc) -> bool {
    doc.member("v").and_then(Doc::whole) == Some(1)
}

fn check(payload: &[u8]) -> String {
    let decoded = OrderRecord::decode(payload);
    if payload.len() > BYTES_MAX {
        assert_eq!(decoded, Err(Poison::TooLarge), "too large, whatever is in it");
        return planned(payload, decoded);
    }
    let doc = json::parse(payload).filter(|doc| doc.depth() < DEPTH_SAFE);
    match (&decoded, &doc) {
        (Ok(record), Some(doc)) => {
            assert!(is_record(doc) && is_version_one(doc), "what is no record was decoded");
            means_the_same(record, doc);
        }
        (Ok(record), None) => {
            assert!(brackets(payload) >= DEPTH_SAFE, "what is no JSON was decoded");
            within_bounds(record);
        }
        (Err(Poison::Garbage), Some(doc)) => {
            let is_clean = doc.is_plain();
            assert!(!(is_clean && is_record(doc)), "a record was called garbage");
            let version = doc.member("v").filter(|v| is_whole(Some(v), 0..=u32::MAX.into()));
            let is_of_import = version.and_then(Doc::whole) == Some(2);
            let is_known = is_version_one(doc) || is_of_import;
            assert!(!is_clean || version.is_none() || is_known, "the version is not known");
        }
        (Err(Poison::UnknownVersion), Some(doc)) => {
            assert!(is_whole(doc.member("v"), 0..=u32::MAX.into()) && !is_version_one(doc));
        }
        (Err(Poison::Garbage | Poison::UnknownVersion), None) => {}
        (Err(other), _) => panic!("{other:?} is nothing that a decoder can know"),
    }
    if let Ok(record) = &decoded {
        let encoded = record.encode();
        assert!(encoded.len() <= BYTES_MAX, "a record of ours is never too large");
        assert_eq!(OrderRecord::decode(&encoded).as_ref(), Ok(record), "a record survives its own encoding");
    }
    planned(payload, decoded) + " " + &first_fault(doc.as_ref())
}

/// Names the first fault, so that the faults of every field are kept apart.
fn first_fault(doc: Option<&Doc>) -> String {
    let Some(doc) = doc else { return "no JSON".to_owned() };
    let Some(members) = doc.members() else { return "no object".to_owned() };
    let reference = if is_reference_or_none(doc) { "nothing" } else { "reference" };
    let wrong = FIELDS.iter().copied().find(|name| !is_field(doc, name)).unwrap_or(reference);
    let how =
        if doc.has(wrong) { if doc.member(wrong).is_some() { "odd" } else { "twice" } } else { "missing" };
    format!("{wrong} {how} {}", members.len().cmp(&FIELDS.len()).is_gt())
}

fn within_bounds(record: &OrderRecord) {
    assert_eq!(record.v, 1);
    assert!(is_slug(record.sale_id.as_str()) && is_slug(record.sku_id.as_str()));
    assert!(is_visible(record.user_id.as_str()) && is_order(&record.order_id.to_string()));
    assert!((1..=99).contains(&record.quantity.units()));
}

fn means_the_same(record: &OrderRecord, doc: &Doc) {
    within_bounds(record);
    let text = |name: &str| doc.member(name).and_then(Doc::text).unwrap_or("").to_owned();
    let whole = |doc: &Doc, name: &str| doc.member(name).and_then(Doc::whole);
    let price = doc.member("unit_price").expect("a price");
    assert_eq!(Some(record.order_id.to_string()), canonical(&text("order_id")));
    assert_eq!(record.sale_id.as_str(), text("sale_id"));
    assert_eq!(record.sku_id.as_str(), text("sku_id"));
    assert_eq!(record.user_id.as_str(), text("user_id"));
    assert_eq!(Some(i128::from(record.quantity.units())), whole(doc, "quantity"));
    assert_eq!(Some(i128::from(record.unit_price.amount())), whole(price, "amount"));
    assert_eq!(Some(record.unit_price.currency()), price.member("currency").and_then(Doc::text));
    assert_eq!(Some(i128::from(record.epoch)), whole(doc, "epoch"));
    assert_eq!(Some(i128::from(record.accepted_ms)), whole(doc, "accepted_ms"));
}

/// Plans a batch that holds the record twice, and says what the order writer decides.
fn planned(payload: &[u8], decoded: Result<OrderRecord, Poison>) -> String {
    let sales = Sales::from([(sale().id, sale())]);
    let part = decoded.as_ref().map_or(Part::new(0), |record| map().part_of(map().shard_of(&record.user_id)));
    let kept = payload[..payload.len().min(16)].to_vec();
    let record = |offset| LogRecord { offset, payload: kept.clone(), order: decoded.clone() };
    let log = LogId::new([1; 16]).expect("not zeros");
    let batch =
        LogBatch { part, log, start_offset: 7, fences: Arc::default(), records: vec![record(7), record(8)] };
    let plan = plan(&batch, &map(), &sales, &Known::default(), |_| 2);
    assert_eq!(
        plan.orders.len() + plan.skipped + plan.dead_letters.len(),
        2,
        "every record is accounted for"
    );
    match (plan.dead_letters.first(), plan.orders.first()) {
        (Some((_, poison)), _) => {
            assert!(decoded.as_ref().err().is_none_or(|known| known == poison), "poison stays what it is");
            assert_eq!((plan.dead_letters.len(), plan.held.len()), (2, 0), "poison holds nothing");
            poison.as_str().to_owned()
        }
        (None, Some(order)) => {
            assert_eq!(plan.skipped, 1, "an order is decided once");
            assert!(order.record.quantity.units() <= LIMIT);
            match order.reason() {
                None => format!("order {}", order.claims().len()),
                Some(reason) => format!("rejected {}", reason.as_str()),
            }
        }
        (None, None) => panic!("nothing became of it"),
    }
}

fn made(rng: &mut StdRng) -> Vec<u8> {
    let is_usual = rng.random_bool(0.8);
    let text = |usual: &str, rng: &mut StdRng| {
        if rng.random_bool(0.97) {
            usual.to_owned()
        } else if rng.random_bool(0.5) {
            slug(rng)
        } else {
            text_of(rng)
        }
    };
    let user = format!("user-{}", rng.random_range(0..50));
    let user_id = UserId::parse(&user).expect("a user");
    let key = IdempotencyKey::parse(&format!("key-{}", rng.random_range(0..9))).expect("a key");
    let shard = if is_usual { map().shard_of(&user_id) } else { seckill::domain::Shard::new(rng.random()) };
    let month = if is_usual { sale().month() } else { Month::new(rng.random()) };
    let order = OrderId::derive(shard, month, &sale().id, &user_id, &key).to_string();
    let number = |usual: i64, rng: &mut StdRng| {
        Node::raw(if rng.random_bool(0.97) { usual.to_string() } else { one_of(INTEGERS, rng).to_string() })
    };
    let price = [
        ("amount", number(100, rng)),
        ("currency", Node::text(one_of(&["CNY", "CNY", "EUR", "cny", "CN"], rng))),
    ];
    let mut members = vec![
        ("v", number(one_of(&[1, 1, 1, 1, 1, 2], rng), rng)),
        ("order_id", Node::Text(if rng.random_bool(0.97) { order } else { order.to_uppercase() })),
        ("sale_id", Node::Text(text("drop", rng))),
        ("sku_id", Node::Text(text(one_of(&["pad", "phone"], rng), rng))),
        ("user_id", Node::Text(text(&user, rng))),
        ("quantity", number(rng.random_range(1..=4), rng)),
        ("unit_price", Node::object(&price)),
        ("epoch", number(1, rng)),
        ("accepted_ms", number(1_700_000_000_001, rng)),
    ];
    if rng.random_bool(0.3) {
        let long = "ö".repeat(one_of(&[1, 64, 65], rng));
        let text = if rng.random_bool(0.5) { text_of(rng) } else { long };
        members.push(("reference", Node::Text(text)));
    }
    if rng.random_bool(0.2) {
        let note = if rng.random_bool(0.3) { "x".repeat(4000) } else { text_of(rng) };
        members.push(("note", Node::List(vec![Node::Text(note), Node::raw(one_of(INTEGERS, rng))])));
    }
    let mut record = Node::object(&members);
    record.perhaps_corrupt(rng);
    record.write(rng).into_bytes()
}

#[test]
fn a_record_is_decoded_exactly_when_every_field_is_within_its_bounds() {
    let Doc::Object(members) = json::parse(&record_of_ours().encode()).expect("JSON") else {
        panic!("a record is an object");
    };
    let names: Vec<&str> = members.iter().filter_map(|(name, _)| name.as_deref()).collect();
    assert_eq!(names, FIELDS, "a field that this target does not know");
    let seen = run(&Target {
        name: "record",
        check: &check,
        generate: &made,
        bytes_max: 16 * 1024,
        slowest: Duration::from_millis(50),
    });
    for poison in Poison::ALL {
        let is_seen = seen.iter().any(|shown| shown.split(' ').next() == Some(poison.as_str()));
        assert!(is_seen, "nothing was {}", poison.as_str());
    }
}

fn record_of_ours() -> OrderRecord {
    let (sale, user) = (sale(), UserId::parse("alice").expect("a user"));
    let key = IdempotencyKey::parse("k1").expect("a key");
    OrderRecord {
        v: OrderRecord::VERSION,
        order_id: OrderId::derive(map().shard_of(&user), sale.month(), &sale.id, &user, &key),
        sku_id: sale.items[0].sku_id.clone(),
        unit_price: sale.items[0].price.clone(),
        quantity: Quantity::new(1).expect("a quantity"),
        epoch: sale.epoch,
        accepted_ms: sale.starts_ms,
        reference: None,
        awaited: false,
        node: None,
        trace: None,
        decided: None,
        sale_id: sale.id,
        user_id: user,
    }
}
