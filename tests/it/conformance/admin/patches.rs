//! Tests of patches: changes of a sale before it is preheated, and changes of two operators at once.

use futures::future::join_all;
use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::conformance::http_errors::Findings;
use crate::harness::{API_KEY, TestShop, sale_body};

use super::{PHONE, audit, audited, create, reason};

in_both_modes!(
    a_patch_changes_what_it_names_and_nothing_else,
    a_patch_of_another_version_or_with_wrong_values_changes_nothing,
    of_two_patches_of_one_version_one_wins,
    once_preheated_a_sale_cannot_be_patched,
);

async fn patch(shop: &TestShop, if_match: Option<&str>, body: Value) -> Answer {
    let bearer = format!("Bearer {API_KEY}");
    let mut headers = vec![("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    headers.extend(if_match.map(|tag| ("If-Match", tag)));
    call(shop.admin, "PATCH", "/api/v1/admin/sales/drop", &headers, body.to_string()).await
}

async fn a_patch_changes_what_it_names_and_nothing_else(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut expected = create(&shop, sale_body("drop", 1, PHONE)).await;
    let price = json!({ "amount": 5, "currency": "EUR" });
    let items = json!([{ "sku_id": "pad", "name": "Pad", "stock": 3, "price": price }]);
    let changes = [
        ("name", json!("Another name")),
        ("buyer_limit", json!(99)),
        ("payment_window_ms", json!(10_000)),
        ("buckets", json!(4)),
        ("starts_at", json!("2031-05-01T12:00:00.000Z")),
        ("items", items),
    ];
    let mut version = 1;
    // The end is changed first, because a sale never ends before it starts.
    let end = [("ends_at", json!("2031-05-01T13:00:00.000Z"))];
    for (name, value) in end.into_iter().chain(changes) {
        let mut body = reason("a test");
        body[name] = value.clone();
        let answer = patch(&shop, Some(&format!("\"{version}\"")), body).await;
        version += 1;
        expected[name] = value;
        expected["version"] = json!(version);
        assert_eq!((answer.status, answer.json()), (200, expected.clone()), "{name}");
        assert_eq!(answer.header("ETag"), format!("\"{version}\""));
        assert_eq!(shop.operate("GET", "/sales/drop", Value::Null).await.json(), expected);
    }
    assert_eq!(audit(&shop, "drop").await.len(), 1 + 7, "one row per change");
    shop.finish().await;
}

async fn a_patch_of_another_version_or_with_wrong_values_changes_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    create(&shop, sale_body("drop", 1, PHONE)).await;
    let renamed = |name: &str| json!({ "name": name, "reason": "a test" });
    assert_eq!(patch(&shop, Some("\"1\""), renamed("one")).await.status, 200);
    assert_eq!(patch(&shop, Some("*"), renamed("two")).await.status, 200);
    assert_eq!(patch(&shop, None, renamed("three")).await.status, 200);
    let before = (shop.operate("GET", "/sales/drop", Value::Null).await.json(), audited(&shop).await);
    assert_eq!((&before.0["version"], &before.0["name"]), (&json!(4), &json!("three")));
    let mut findings = Findings::default();
    for tag in
        ["\"1\"", "\"3\"", "\"5\"", "\"0\"", "\"-4\"", "\"\"", "\"x\"", "W/\"4\"", "\"99999999999999999999\""]
    {
        findings.check(tag, &patch(&shop, Some(tag), renamed("four")).await, (412, "etag_mismatch"));
    }
    for (name, value) in [
        ("name", json!("")),
        ("name", json!(7)),
        ("buyer_limit", json!(0)),
        ("buyer_limit", json!(100)),
        ("payment_window_ms", json!(1)),
        ("buckets", json!(3)),
        ("buckets", json!(8)),
        ("items", json!([])),
        ("items", json!([{ "sku_id": "a" }])),
        ("starts_at", json!("soon")),
        ("starts_at", json!("2999-01-01T00:00:00Z")),
        ("ends_at", json!("2020-01-01T00:00:00Z")),
        ("reason", json!("")),
        ("reason", json!("r".repeat(201))),
    ] {
        let mut body = renamed("four");
        body[name] = value.clone();
        let answer = patch(&shop, None, body).await;
        findings.check(&format!("{name} = {value}"), &answer, (400, "validation_failed"));
    }
    for (name, value) in
        [("id", json!("other")), ("state", json!("ended")), ("version", json!(9)), ("extra", json!(1))]
    {
        let mut body = renamed("four");
        body[name] = value;
        findings.check(name, &patch(&shop, None, body).await, (400, "validation_failed"));
    }
    let silent = patch(&shop, None, json!({ "name": "four" })).await;
    findings.check("no reason", &silent, (400, "validation_failed"));
    findings.done();
    let after = (shop.operate("GET", "/sales/drop", Value::Null).await.json(), audited(&shop).await);
    assert_eq!(after, before);
    shop.finish().await;
}

async fn of_two_patches_of_one_version_one_wins(mode: Mode) {
    let shop = TestShop::start(mode).await;
    create(&shop, sale_body("drop", 1, PHONE)).await;
    for version in 1..=15 {
        let tag = format!("\"{version}\"");
        let patches = (0..3).map(|n| {
            let body = json!({ "name": format!("{version}.{n}"), "reason": format!("{version}.{n}") });
            patch(&shop, Some(&tag), body)
        });
        let answers = join_all(patches).await;
        let won: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
        let lost = answers.iter().filter(|answer| answer.problem() == (412, "etag_mismatch".to_owned()));
        assert_eq!((won.len(), lost.count()), (1, 2), "{answers:?}");
        let sale = shop.operate("GET", "/sales/drop", Value::Null).await.json();
        assert_eq!((&sale["version"], &sale["name"]), (&json!(version + 1), &won[0].json()["name"]));
        let rows = audit(&shop, "drop").await;
        assert_eq!(rows.len(), version + 1, "one row per version");
        assert_eq!(json!(rows[version][2]), sale["name"], "the row is the winner's");
    }
    shop.finish().await;
}

async fn once_preheated_a_sale_cannot_be_patched(mode: Mode) {
    let shop = TestShop::start(mode).await;
    create(&shop, sale_body("drop", 1, PHONE)).await;
    let body = json!({ "buyer_limit": 2, "reason": "a test" });
    assert_eq!(shop.operate("POST", "/sales/drop/publish", reason("a test")).await.status, 200);
    assert_eq!(
        patch(&shop, None, body.clone()).await.json()["buyer_limit"],
        2,
        "published is still open to change"
    );
    let mut findings = Findings::default();
    for (action, state, allowed) in [
        ("preheat", "preheated", json!(["preheat", "pause", "resume", "end"])),
        ("pause", "paused", json!(["pause", "resume", "end"])),
        ("resume", "preheated", json!(["preheat", "pause", "resume", "end"])),
        ("end", "ended", json!(["end", "settle"])),
        ("settle", "settled", json!(["settle"])),
    ] {
        let advanced = shop.operate("POST", &format!("/sales/drop/{action}"), reason("a test")).await;
        assert_eq!(advanced.status, 200, "{advanced:?}");
        let rows = audited(&shop).await;
        let refused = patch(&shop, None, body.clone()).await;
        findings.check(state, &refused, (409, "state_conflict"));
        let told = (refused.json()["state"].clone(), refused.json()["allowed"].clone());
        findings.rule(state, told == (json!(state), allowed), &format!("{refused:?}"));
        findings.rule(state, audited(&shop).await == rows, "a refusal was audited");
    }
    findings.done();
    shop.finish().await;
}
