//! Compares bodies with an independent reading of the same JSON.

use actix_web::HttpRequest;
use seckill::domain::{Item, Reference, Sale};
use seckill::http::admin::changes::ReasonBody;
use seckill::http::admin::sale_bodies::{CreateBody, PatchBody};
use seckill::http::extract;
use seckill::http::extract::{ADMIN_BODY_BYTES_MAX, SHOPPER_BODY_BYTES_MAX};
use seckill::http::problem::Problem;
use seckill::http::shopper::orders::PlaceBody;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::calendar::{instant, utc};
use super::head::{is_reference, is_slug};
use super::{Input, answer, leads_somewhere};
use crate::json::{self, Doc};

fn is_json_type(input: &Input) -> bool {
    let (types, codings) = (input.values("Content-Type"), input.values("Content-Encoding"));
    let is_plain = codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"identity"));
    if !is_plain || types.iter().any(|other| *other != types[0]) {
        return false;
    }
    let essence = input.text("Content-Type").unwrap_or("").split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// Reads a body, and compares the verdict with `is_right`. `Err` says what was refused.
fn read<T: DeserializeOwned>(
    input: &Input,
    request: &HttpRequest,
    is_right: impl Fn(&Doc) -> bool,
) -> Result<(T, Doc), String> {
    let doc = json::parse(input.body).filter(Doc::is_plain);
    match extract::json::<T>(request, input.body) {
        Ok(body) => {
            assert!(is_json_type(input), "a body of another type was read");
            let doc = doc.expect("what was read is JSON");
            assert!(is_right(&doc), "a body out of bounds was accepted");
            Ok((body, doc))
        }
        Err(problem) => {
            let (code, pointer) = answer(&problem);
            if code == "unsupported_media_type" {
                assert!(!is_json_type(input), "application/json was refused");
                return Err(code);
            }
            assert!(is_json_type(input), "the type is looked at first");
            assert!(["malformed_json", "validation_failed"].contains(&code.as_str()), "{code}");
            if let Some(doc) = doc {
                assert_eq!(code, "validation_failed", "JSON was called malformed");
                assert!(!is_right(&doc), "a good body was refused at {pointer:?}");
                leads_somewhere(&pointer, &doc);
            }
            Err(format!("{code} {}", without_index(&pointer)))
        }
    }
}

const FIELDS: &str = "sku_id quantity id name starts_at ends_at buyer_limit payment_window_ms buckets items reason \
    stock price amount currency";

/// Removes indexes and unknown names from a pointer. So the third item is the same finding as the first, and one
/// unknown field the same as another.
fn without_index(pointer: &str) -> String {
    let word = |word: &str| {
        let is_index = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        let is_known = word.is_empty() || FIELDS.split(' ').any(|field| field == word);
        if is_index { "n".to_owned() } else { if is_known { word } else { "?" }.to_owned() }
    };
    pointer.split('/').map(word).collect::<Vec<_>>().join("/")
}

/// Reads a body that was written from an accepted one. It must be accepted again.
fn again<T: DeserializeOwned>(request: &HttpRequest, body: &Value) -> T {
    let body = body.to_string();
    extract::json(request, body.as_bytes()).unwrap_or_else(|problem: Problem| panic!("{problem}: {body}"))
}

fn is_whole(doc: Option<&Doc>, range: std::ops::RangeInclusive<i128>) -> bool {
    doc.and_then(Doc::whole).is_some_and(|number| range.contains(&number))
}

fn is_text(doc: Option<&Doc>) -> bool {
    doc.is_some_and(|doc| doc.text().is_some())
}

/// Returns whether a member is missing, null, or right.
fn perhaps(doc: &Doc, name: &str, is_right: impl Fn(Option<&Doc>) -> bool) -> bool {
    !doc.has(name) || doc.member(name) == Some(&Doc::Null) || is_right(doc.member(name))
}

pub fn place(input: &Input, request: &HttpRequest) -> String {
    if input.body.len() > SHOPPER_BODY_BYTES_MAX {
        return "too large".to_owned();
    }
    let is_right = |doc: &Doc| {
        doc.is_object_of(&["sku_id", "quantity"], &["reference"])
            && perhaps(doc, "reference", |text| text.and_then(Doc::text).is_some_and(is_reference))
            && doc.member("sku_id").and_then(Doc::text).is_some_and(is_slug)
            && is_whole(doc.member("quantity"), 1..=99)
    };
    let (body, doc) = match read::<PlaceBody>(input, request, is_right) {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let units = i128::from(body.quantity.units());
    assert_eq!(doc.member("quantity").and_then(Doc::whole), Some(units));
    assert_eq!(doc.member("sku_id").and_then(Doc::text), Some(body.sku_id.as_str()));
    assert_eq!(doc.member("reference").and_then(Doc::text), body.reference.as_ref().map(Reference::as_str));
    let text = json!({ "quantity": body.quantity, "reference": body.reference, "sku_id": body.sku_id });
    assert_eq!(again::<PlaceBody>(request, &text), body);
    "purchase".to_owned()
}

fn is_item(doc: &Doc) -> bool {
    let is_price = |price: &Doc| {
        price.is_object_of(&["amount", "currency"], &[])
            && is_whole(price.member("amount"), 0..=9_007_199_254_740_991)
            && price.member("currency").and_then(Doc::text).is_some_and(|text| {
                text.chars().count() == 3 && text.chars().all(|letter| letter.is_ascii_uppercase())
            })
    };
    doc.is_object_of(&["sku_id", "name", "stock", "price"], &[])
        && doc.member("sku_id").and_then(Doc::text).is_some_and(is_slug)
        && is_text(doc.member("name"))
        && is_whole(doc.member("stock"), 0..=u32::MAX.into())
        && doc.member("price").is_some_and(is_price)
}

fn are_items(doc: Option<&Doc>) -> bool {
    doc.and_then(Doc::list).is_some_and(|items| items.iter().all(is_item))
}

pub fn create(input: &Input, request: &HttpRequest) -> String {
    if input.body.len() > ADMIN_BODY_BYTES_MAX {
        return "too large".to_owned();
    }
    let is_right = |doc: &Doc| {
        let required = ["id", "name", "starts_at", "ends_at", "buyer_limit", "items"];
        doc.is_object_of(&required, &["payment_window_ms", "buckets", "reason"])
            && doc.member("id").and_then(Doc::text).is_some_and(is_slug)
            && ["name", "starts_at", "ends_at"].iter().all(|name| is_text(doc.member(name)))
            && is_whole(doc.member("buyer_limit"), 0..=u32::MAX.into())
            && perhaps(doc, "payment_window_ms", |doc| is_whole(doc, i64::MIN.into()..=i64::MAX.into()))
            && perhaps(doc, "buckets", |doc| is_whole(doc, 0..=u16::MAX.into()))
            && perhaps(doc, "reason", is_text)
            && are_items(doc.member("items"))
    };
    let (body, doc) = match read::<CreateBody>(input, request, is_right) {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    let (sale, reason) = match body.sale() {
        Ok(sale) => sale,
        Err(problem) => return late_fault(&problem, &doc),
    };
    is_reason(&reason);
    is_instant(&doc, "starts_at", Some(sale.starts_ms));
    is_instant(&doc, "ends_at", Some(sale.ends_ms));
    assert_eq!(rewritten(&sale, request), sale, "a sale means what it meant");
    match sale.validate(8) {
        Ok(()) => {
            is_within_bounds(&sale);
            "sale".to_owned()
        }
        Err(invalid) => {
            leads_somewhere(&invalid.pointer, &doc);
            format!("invalid {}", without_index(&invalid.pointer))
        }
    }
}

/// Asserts that a fault which the types do not check is refused with the pointer of its field.
fn late_fault(problem: &Problem, doc: &Doc) -> String {
    let (code, pointer) = answer(problem);
    assert_eq!(code, "validation_failed");
    assert!(["/starts_at", "/ends_at", "/reason"].contains(&pointer.as_str()), "{pointer}");
    leads_somewhere(&pointer, doc);
    is_instant(doc, &pointer[1..], None);
    format!("late {pointer}")
}

fn is_reason(reason: &str) {
    let length = reason.chars().count();
    assert!((1..=200).contains(&length) && reason.trim() == reason, "a reason of {length}: {reason:?}");
}

/// Writes a sale as a new body, and reads the same sale out of it.
fn rewritten(sale: &Sale, request: &HttpRequest) -> Sale {
    let item = |item: &Item| {
        let price = json!({ "currency": item.price.currency(), "amount": item.price.amount() });
        json!({ "stock": item.stock, "price": price, "name": item.name, "sku_id": item.sku_id })
    };
    let items: Vec<Value> = sale.items.iter().map(item).collect();
    let text = json!({
        "id": sale.id, "name": sale.name, "starts_at": utc(sale.starts_ms), "ends_at": utc(sale.ends_ms),
        "buyer_limit": sale.buyer_limit, "payment_window_ms": sale.payment_window_ms,
        "buckets": sale.buckets, "items": items, "reason": "again",
    });
    let (sale, reason) = again::<CreateBody>(request, &text).sale().expect("a sale");
    assert_eq!(reason, "again");
    sale
}

/// Asserts that a text which surely is a time was read as that time. `None` says that the text was refused.
fn is_instant(doc: &Doc, name: &str, at_ms: Option<i64>) {
    if let Some(instant) = doc.member(name).and_then(Doc::text).and_then(instant) {
        assert_eq!(at_ms, Some(instant), "{name}");
    }
}

fn is_within_bounds(sale: &Sale) {
    let is_name = |name: &str| (1..=120).contains(&name.chars().count());
    assert!(is_name(&sale.name));
    assert!(0 < sale.starts_ms && sale.starts_ms < sale.ends_ms);
    assert!((1..=99).contains(&sale.buyer_limit));
    assert!((10_000..=86_400_000).contains(&sale.payment_window_ms));
    assert!([1, 2, 4, 8].contains(&sale.buckets), "{} buckets of 8 shards", sale.buckets);
    assert!((1..=100).contains(&sale.items.len()));
    for item in &sale.items {
        assert!(is_name(&item.name) && (1..=100_000_000).contains(&item.stock));
        assert_eq!(sale.items.iter().filter(|other| other.sku_id == item.sku_id).count(), 1);
    }
}

pub fn patch(input: &Input, request: &HttpRequest) -> String {
    if input.body.len() > ADMIN_BODY_BYTES_MAX {
        return "too large".to_owned();
    }
    let is_right = |doc: &Doc| {
        let numbers = ["buyer_limit", "payment_window_ms", "buckets"];
        let texts = ["name", "starts_at", "ends_at"];
        doc.is_object_of(&["reason"], &[&texts[..], &numbers[..], &["items"]].concat())
            && is_text(doc.member("reason"))
            && texts.iter().all(|name| perhaps(doc, name, is_text))
            && perhaps(doc, "buyer_limit", |doc| is_whole(doc, 0..=u32::MAX.into()))
            && perhaps(doc, "payment_window_ms", |doc| is_whole(doc, i64::MIN.into()..=i64::MAX.into()))
            && perhaps(doc, "buckets", |doc| is_whole(doc, 0..=u16::MAX.into()))
            && perhaps(doc, "items", are_items)
    };
    let (body, doc) = match read::<PatchBody>(input, request, is_right) {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    match body.patch() {
        Ok((patch, reason)) => {
            is_reason(&reason);
            let is_given = |name: &str| doc.member(name).is_some_and(|doc| *doc != Doc::Null);
            is_instant(&doc, "starts_at", patch.starts_ms);
            is_instant(&doc, "ends_at", patch.ends_ms);
            assert_eq!(patch.name.is_some(), is_given("name"));
            assert_eq!(patch.starts_ms.is_some(), is_given("starts_at"));
            assert_eq!(patch.items.is_some(), is_given("items"));
            format!("patch {} {}", patch.starts_ms.is_some(), patch.items.is_some())
        }
        Err(problem) => late_fault(&problem, &doc),
    }
}

pub fn reason(input: &Input, request: &HttpRequest) -> String {
    if input.body.len() > ADMIN_BODY_BYTES_MAX {
        return "too large".to_owned();
    }
    let is_right = |doc: &Doc| doc.is_object_of(&["reason"], &[]) && is_text(doc.member("reason"));
    let (body, doc) = match read::<ReasonBody>(input, request, is_right) {
        Ok(read) => read,
        Err(refused) => return refused,
    };
    match body.reason() {
        Ok(reason) => {
            is_reason(&reason);
            "reason".to_owned()
        }
        Err(problem) => late_fault(&problem, &doc),
    }
}
