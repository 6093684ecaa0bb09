//! The operator's side: who may do what, what is checked, what a sale's life allows, and what the audit log keeps.

mod health;
mod lifecycle;
mod patches;
mod stock;

use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::call;
use crate::conformance::http_errors::Findings;
use crate::harness::{API_KEY, READ_ONLY_KEY, SECRET, TestShop, eventually, operate, sale_body, token};

in_both_modes!(
    an_operator_needs_a_key_and_its_scope,
    a_sale_with_a_wrong_value_is_not_created_and_the_value_is_named,
    an_operators_body_that_cannot_be_read_is_refused,
    a_sale_is_created_once_as_a_draft_that_shoppers_cannot_see,
);

const PHONE: &[(&str, u32)] = &[("phone", 10)];

fn reason(text: &str) -> Value {
    json!({ "reason": text })
}

async fn create(shop: &TestShop, body: Value) -> Value {
    let created = shop.operate("POST", "/sales", body).await;
    assert_eq!(created.status, 201, "{created:?}");
    created.json()
}

/// Reads `(actor, action, reason, request id)` of a sale's changes, in order.
async fn audit(shop: &TestShop, sale: &str) -> Vec<[String; 4]> {
    shop.stage().audit(Some(sale)).await
}

async fn audited(shop: &TestShop) -> usize {
    shop.stage().audit(None).await.len()
}

async fn an_operator_needs_a_key_and_its_scope(mode: Mode) {
    let shop = TestShop::start(mode).await;
    create(&shop, sale_body("drop", 1, PHONE)).await;
    let before = audited(&shop).await;
    let mut findings = Findings::default();
    let body = sale_body("other", 1, PHONE).to_string();
    let change = reason("a test").to_string();
    let reads = [("GET", "/sales", ""), ("GET", "/sales/drop", ""), ("GET", "/sales/drop/stock", "")];
    let writes = [
        ("POST", "/sales", body.as_str()),
        ("PATCH", "/sales/drop", change.as_str()),
        ("POST", "/sales/drop/publish", change.as_str()),
        ("POST", "/sales/drop/end", change.as_str()),
    ];
    let longer = format!("{API_KEY}x");
    let credentials = [
        None,
        Some(String::new()),
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some("Bearer sk_".to_owned()),
        Some("Bearer sk_nobody-was-given-this".to_owned()),
        Some(format!("Bearer {longer}")),
        Some(format!("Bearer {}", &API_KEY[..API_KEY.len() - 1])),
        Some(format!("Bearer {}", API_KEY.to_uppercase())),
        Some(format!("Bearer {SECRET}")),
        Some(format!("Basic {API_KEY}")),
        Some(API_KEY.to_owned()),
        Some(format!("Bearer {}", token("alice"))),
        Some(format!("Bearer {}", token("tester"))),
    ];
    for (method, path, body) in reads.iter().chain(&writes) {
        for credential in &credentials {
            let mut headers = vec![("Content-Type", "application/json")];
            headers.extend(credential.as_deref().map(|credential| ("Authorization", credential)));
            let what = format!("{method} {path} with {credential:?}");
            let path = format!("/api/v1/admin{path}");
            let answer = call(shop.admin, method, &path, &headers, (*body).to_owned()).await;
            findings.check(&what, &answer, (401, "unauthenticated"));
        }
    }
    for (method, path, body) in writes {
        let body = serde_json::from_str(body).expect("JSON");
        let answer = operate(shop.admin, READ_ONLY_KEY, method, path, body).await;
        findings.check(&format!("reader: {method} {path}"), &answer, (403, "forbidden"));
        findings.rule(path, answer.text.contains("sales:write"), "does not name the missing scope");
    }
    for (method, path, _) in reads {
        let answer = operate(shop.admin, READ_ONLY_KEY, method, path, Value::Null).await;
        findings.rule(path, answer.status == 200, &format!("a reader may not read: {answer:?}"));
    }
    findings.done();
    assert_eq!(audited(&shop).await, before);
    assert_eq!(shop.operate("GET", "/sales/drop", Value::Null).await.json()["version"], 1);
    shop.finish().await;
}

/// Lists `(pointer, value)`. Each value is set into a good body alone. An entry of `errors` may name a parent.
fn bad_values() -> Vec<(&'static str, Value)> {
    let long = "n".repeat(121);
    let times =
        ["yesterday", "", "2026-13-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00", "20261127T120000Z"];
    let mut values: Vec<(&str, Value)> = times.iter().map(|at| ("/starts_at", json!(at))).collect();
    values.extend([
        ("/starts_at", json!(5)),
        ("/starts_at", Value::Null),
        ("/ends_at", json!("never")),
        ("/ends_at", json!("2020-01-01T00:00:00Z")),
        ("/starts_at", json!("2999-01-01T00:00:00Z")),
        ("/id", json!("")),
        ("/id", json!("Drop")),
        ("/id", json!("a b")),
        ("/id", json!("a".repeat(33))),
        ("/id", json!("{x}")),
        ("/id", json!(7)),
        ("/id", Value::Null),
        ("/name", json!("")),
        ("/name", json!(long)),
        ("/name", json!(1)),
        ("/name", Value::Null),
        ("/buyer_limit", json!(0)),
        ("/buyer_limit", json!(-1)),
        ("/buyer_limit", json!(100)),
        ("/buyer_limit", json!(1.5)),
        ("/buyer_limit", json!("1")),
        ("/buyer_limit", json!(4_294_967_297_u64)),
        ("/buyer_limit", Value::Null),
        ("/payment_window_ms", json!(9_999)),
        ("/payment_window_ms", json!(86_400_001)),
        ("/payment_window_ms", json!(-1)),
        ("/payment_window_ms", json!("1")),
        ("/buckets", json!(0)),
        ("/buckets", json!(3)),
        ("/buckets", json!(8)),
        ("/buckets", json!(128)),
        ("/buckets", json!(-1)),
        ("/items", json!([])),
        ("/items", json!({})),
        ("/items", Value::Null),
        ("/items/0/stock", json!(0)),
        ("/items/0/stock", json!(-1)),
        ("/items/0/stock", json!(100_000_001)),
        ("/items/0/stock", json!(1.5)),
        ("/items/0/stock", json!("10")),
        ("/items/0/sku_id", json!("")),
        ("/items/0/sku_id", json!("A")),
        ("/items/0/sku_id", json!("a".repeat(33))),
        ("/items/0/name", json!("")),
        ("/items/0/name", json!(long)),
        ("/items/0/price", json!(199)),
        ("/items/0/price", Value::Null),
        ("/items/0/price/amount", json!(-1)),
        ("/items/0/price/amount", json!(1.5)),
        ("/items/0/price/amount", json!("199")),
        ("/items/0/price/currency", json!("cny")),
        ("/items/0/price/currency", json!("CNYX")),
        ("/items/0/price/currency", json!("")),
        ("/reason", json!("")),
        ("/reason", json!("   ")),
        ("/reason", json!("r".repeat(201))),
        ("/reason", json!(5)),
    ]);
    values
}

async fn a_sale_with_a_wrong_value_is_not_created_and_the_value_is_named(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut good = sale_body("drop", 1, PHONE);
    for (name, value) in
        [("reason", json!("a test")), ("buckets", json!(1)), ("payment_window_ms", json!(60_000))]
    {
        good[name] = value;
    }
    let mut findings = Findings::default();
    for (pointer, value) in bad_values() {
        let mut body = good.clone();
        let what = format!("{pointer} = {value}");
        *body.pointer_mut(pointer).expect("a member") = value;
        let answer = shop.operate("POST", "/sales", body).await;
        findings.check(&what, &answer, (400, "validation_failed"));
        let named = answer.json()["errors"][0]["pointer"].as_str().unwrap_or("none").to_owned();
        let times = pointer.ends_with("s_at") && named.ends_with("s_at");
        let names = times || (pointer.starts_with(&named) && !named.is_empty());
        findings.rule(&what, names, &format!("points to {named}"));
    }
    for pointer in ["", "/items/0", "/items/0/price"] {
        let mut body = good.clone();
        body.pointer_mut(pointer).expect("an object")["extra"] = json!(1);
        let answer = shop.operate("POST", "/sales", body).await;
        findings.check(&format!("unknown field in {pointer:?}"), &answer, (400, "validation_failed"));
    }
    for name in ["id", "name", "starts_at", "ends_at", "buyer_limit", "items"] {
        let mut body = good.clone();
        body.as_object_mut().expect("an object").remove(name);
        let answer = shop.operate("POST", "/sales", body).await;
        findings.check(&format!("no {name}"), &answer, (400, "validation_failed"));
    }
    let (item, many) =
        (good["items"][0].clone(), (0..101).map(|n| (format!("sku-{n}"), 1)).collect::<Vec<_>>());
    let many: Vec<(&str, u32)> = many.iter().map(|(sku, units)| (sku.as_str(), *units)).collect();
    for (what, items) in [
        ("the same SKU twice", json!([item, item])),
        ("101 items", sale_body("drop", 1, &many)["items"].clone()),
    ] {
        let mut body = good.clone();
        body["items"] = items;
        let answer = shop.operate("POST", "/sales", body).await;
        findings.check(what, &answer, (400, "validation_failed"));
        findings.rule(
            what,
            answer.json()["errors"][0]["pointer"].as_str().is_some_and(|at| at.starts_with("/items")),
            &answer.text,
        );
    }
    findings.done();
    assert_eq!(
        shop.operate("GET", "/sales", Value::Null).await.json(),
        json!({ "sales": [], "next_cursor": null })
    );
    assert_eq!(audited(&shop).await, 0);
    create(&shop, good).await;
    shop.finish().await;
}

async fn an_operators_body_that_cannot_be_read_is_refused(mode: Mode) {
    let shop = TestShop::start(mode).await;
    create(&shop, sale_body("drop", 1, PHONE)).await;
    let before = audited(&shop).await;
    let bearer = format!("Bearer {API_KEY}");
    let (auth, json) = (("Authorization", bearer.as_str()), ("Content-Type", "application/json"));
    let large = format!("{}{}", reason("a test"), " ".repeat(65 * 1024));
    let mut findings = Findings::default();
    for (method, path) in [("POST", "/sales"), ("PATCH", "/sales/drop"), ("POST", "/sales/drop/publish")] {
        let path = format!("/api/v1/admin{path}");
        for (what, kind, body, want) in [
            ("empty", json, "", (400, "malformed_json")),
            ("truncated", json, "{\"reason\":", (400, "malformed_json")),
            ("trailing garbage", json, "{\"reason\":\"a test\"}}", (400, "malformed_json|validation_failed")),
            ("an array", json, "[]", (400, "malformed_json|validation_failed")),
            (
                "key twice",
                json,
                "{\"reason\":\"a\",\"reason\":\"b\"}",
                (400, "malformed_json|validation_failed"),
            ),
            ("too large", json, large.as_str(), (413, "body_too_large")),
            (
                "text",
                ("Content-Type", "text/plain"),
                "{\"reason\":\"a test\"}",
                (415, "unsupported_media_type"),
            ),
        ] {
            let answer = call(shop.admin, method, &path, &[auth, kind], body.to_owned()).await;
            findings.check(&format!("{method} {path}: {what}"), &answer, want);
        }
    }
    findings.done();
    assert_eq!(audited(&shop).await, before);
    shop.finish().await;
}

async fn a_sale_is_created_once_as_a_draft_that_shoppers_cannot_see(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut body = sale_body("drop", 2, PHONE);
    body["starts_at"] = "2031-05-01T20:00:00+08:00".into();
    body["ends_at"] = "2031-05-01T12:30:00.5Z".into();
    let created = shop.operate("POST", "/sales", body.clone()).await;
    assert_eq!((created.status, created.header("ETag")), (201, "\"1\""), "{created:?}");
    assert_eq!(created.header("Location"), "/api/v1/admin/sales/drop");
    let sale = created.json();
    for (name, want) in [
        ("state", json!("draft")),
        ("allowed", json!(["publish"])),
        ("starts_at", json!("2031-05-01T12:00:00.000Z")),
        ("ends_at", json!("2031-05-01T12:30:00.500Z")),
        ("buyer_limit", json!(2)),
        ("payment_window_ms", json!(900_000)),
        ("buckets", json!(1)),
        ("version", json!(1)),
        ("items", body["items"].clone()),
    ] {
        assert_eq!(sale[name], want, "{name}");
    }
    let read = shop.operate("GET", "/sales/drop", Value::Null).await;
    assert_eq!((read.status, read.header("ETag"), read.json()), (200, "\"1\"", sale.clone()));
    assert_eq!(
        shop.operate("GET", "/sales", Value::Null).await.json(),
        json!({ "sales": [sale], "next_cursor": null })
    );

    body["name"] = "another".into();
    let again = shop.operate("POST", "/sales", body).await;
    assert_eq!(again.problem(), (409, "sale_exists".to_owned()));
    assert_eq!(shop.operate("GET", "/sales/drop", Value::Null).await.json(), sale, "the first one stands");
    assert_eq!(audited(&shop).await, 1);
    for id in ["unknown", "DROP", "drop%00", &"a".repeat(33)] {
        for (method, path, body) in [
            ("GET", format!("/sales/{id}"), Value::Null),
            ("GET", format!("/sales/{id}/stock"), Value::Null),
            ("PATCH", format!("/sales/{id}"), reason("a test")),
            ("POST", format!("/sales/{id}/publish"), reason("a test")),
        ] {
            let answer = shop.operate(method, &path, body).await;
            assert_eq!(answer.problem(), (404, "sale_not_found".to_owned()), "{method} {path}");
        }
    }

    let visible = async || shop.get("alice", "/api/v1/sales/drop").await.status == 200;
    assert!(!visible().await, "a draft is not for shoppers");
    assert_eq!(shop.get("alice", "/api/v1/sales").await.json()["sales"], json!([]));
    assert_eq!(shop.operate("POST", "/sales/drop/publish", reason("a test")).await.status, 200);
    eventually("the published sale is visible", visible).await;
    let shown = shop.get("alice", "/api/v1/sales").await.json();
    assert_eq!(
        (&shown["sales"][0]["id"], &shown["sales"][0]["status"]),
        (&json!("drop"), &json!("upcoming"))
    );
    shop.finish().await;
}
