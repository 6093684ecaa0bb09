//! Tests of calls for things that do not exist, not yet or no longer, or that are not the caller's.

use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::http::problem::Code;
use serde_json::{Value, json};

use crate::client::call;
use crate::harness::{TestShop, eventually, open_sale, rfc3339, sale_body, token};

use super::{Findings, JSON, KEY, ONE, Stores, UNREADABLE, finish_unchanged, market};

in_both_modes!(
    a_sale_that_does_not_sell_says_why_and_changes_nothing,
    an_order_of_another_or_of_nobody_is_not_found,
    a_page_that_nobody_was_given_is_refused,
    a_wrong_method_or_address_is_a_problem_too,
    a_purchase_is_the_same_however_its_path_is_written,
    every_problem_code_has_a_page,
    a_problem_carries_the_trace_that_the_caller_sent,
);

/// Makes sales in every state that does not sell.
async fn closed_sales(shop: &TestShop) {
    let now_ms = Clock::System.now_ms();
    let phone = [("phone", 5)];
    for id in ["draft", "unheated"] {
        let created = shop.operate("POST", "/sales", sale_body(id, 1, &phone)).await;
        assert_eq!(created.status, 201, "{created:?}");
    }
    let reason = json!({ "reason": "a test" });
    assert_eq!(shop.operate("POST", "/sales/unheated/publish", reason.clone()).await.status, 200);
    let mut early = sale_body("early", 1, &phone);
    early["starts_at"] = rfc3339(now_ms + 600_000).into();
    open_sale(shop.admin, early).await;
    for (id, action) in [("paused", "pause"), ("ended", "end")] {
        shop.open_sale(id, 1, &phone).await;
        let done = shop.operate("POST", &format!("/sales/{id}/{action}"), reason.clone()).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
    let mut over = sale_body("over", 1, &phone);
    over["ends_at"] = rfc3339(Clock::System.now_ms() + 2000).into();
    open_sale(shop.admin, over).await;
    eventually("the window of `over` ends", async || {
        shop.get("alice", "/api/v1/sales/over").await.json()["status"] == "ended"
    })
    .await;
}

async fn a_sale_that_does_not_sell_says_why_and_changes_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    closed_sales(&shop).await;
    let before = Stores::at_rest(&shop.config).await;
    let mut findings = Findings::default();
    let long = "a".repeat(33);
    let not_found = (404, "sale_not_found");
    for sale in [
        "unknown",
        "draft",
        "DROP",
        "drop%00",
        "drop%20",
        "-",
        "%F0%9F%92%A9",
        "%7Bdrop.0%7D",
        "*",
        long.as_str(),
    ] {
        findings.check(sale, &shop.place("alice", sale, "k1", ONE, &[]).await, not_found);
        findings.check(sale, &shop.get("alice", &format!("/api/v1/sales/{sale}")).await, not_found);
    }
    for (sale, code) in [
        ("early", "sale_not_started"),
        ("unheated", "sale_delayed"),
        ("paused", "sale_paused"),
        ("ended", "sale_ended"),
        ("over", "sale_ended"),
    ] {
        // A repetition gets the same answer, with the same key and with another.
        for key in ["k1", "k1", "k2"] {
            let answer = shop.place("alice", sale, key, ONE, &[("Prefer", "wait=1")]).await;
            findings.check(sale, &answer, (409, code));
        }
    }
    let early = shop.buy("alice", "early", "phone", "k1").await.json();
    findings.rule("early", early["starts_at"].as_str().is_some_and(|at| at.ends_with('Z')), "no starts_at");
    let listed = shop.get("alice", "/api/v1/sales").await.text;
    findings.rule("list", !listed.contains("\"draft\""), "shows a draft");
    for sku in ["unknown", "phone-", "-", "0"] {
        findings.check(sku, &shop.buy("alice", "drop", sku, "k1").await, (404, "sku_not_found"));
    }
    finish_unchanged(shop, &before, findings).await;
}

async fn an_order_of_another_or_of_nobody_is_not_found(mode: Mode) {
    let (shop, id, before) = market(mode).await;
    let mut findings = Findings::default();
    let foreign = shop.get("bob", &format!("/api/v1/orders/{id}")).await;
    let digits = id.strip_prefix("ord_").expect("an order id");
    let last = if digits.ends_with('0') { "1" } else { "0" };
    let ids = [
        id.clone(),
        format!("ord_{}{last}", &digits[..25]),
        format!("ord_{}", "0".repeat(26)),
        format!("ord_7{}", "z".repeat(25)),
        format!("ord_{}", "z".repeat(26)),
        format!("ord_{}", "u".repeat(26)),
        format!("ord_{}", &digits[..25]),
        format!("ord_{digits}0"),
        format!("ord_{}", "0".repeat(5000)),
        format!("itm_{digits}"),
        digits.to_owned(),
        "ord_".to_owned(),
        "x".to_owned(),
        "%00".to_owned(),
        "ord_%F0%9F%92%A9".to_owned(),
        "'%20OR%201=1".to_owned(),
    ];
    for id in &ids {
        for query in ["", "?wait=0", "?wait=10"] {
            let what = format!("{}{query}", &id[..id.len().min(40)]);
            let answer = shop.get("bob", &format!("/api/v1/orders/{id}{query}")).await;
            findings.check(&what, &answer, (404, "order_not_found"));
            let same = answer.json()["detail"] == foreign.json()["detail"];
            findings.rule(&what, same, "differs from the answer for another buyer's order");
        }
    }
    let own = format!("/api/v1/orders/{id}");
    for query in ["wait=x", "wait=-1", "wait=1.5", "wait=99999999999999999999"] {
        findings.check(query, &shop.get("alice", &format!("{own}?{query}")).await, (400, UNREADABLE));
    }
    assert_eq!(shop.get("alice", &format!("{own}?wait=99")).await.status, 200, "bounded, not refused");
    finish_unchanged(shop, &before, findings).await;
}

async fn a_page_that_nobody_was_given_is_refused(mode: Mode) {
    let (shop, id, before) = market(mode).await;
    let second = shop.buy("alice", "drop", "phone", "second").await.json();
    shop.decided("alice", second["id"].as_str().expect("id")).await;
    let first_page = shop.get("alice", "/api/v1/orders?limit=1").await.json();
    let cursor = first_page["next_cursor"].as_str().expect("a cursor").to_owned();
    let bought = Stores::at_rest(&shop.config).await;
    assert_ne!(bought, before, "the stores show a purchase");
    let mut findings = Findings::default();
    let long = "A".repeat(5000);
    let cursors = ["x", "AAAA", "%00", "-1", "null", "%F0%9F%92%A9", "=", "ord_", id.as_str(), long.as_str()];
    for cursor in cursors {
        let answer = shop.get("alice", &format!("/api/v1/orders?cursor={cursor}")).await;
        findings.check(&format!("cursor {}", &cursor[..cursor.len().min(40)]), &answer, (400, UNREADABLE));
    }
    for limit in ["0", "101", "1000", "-1", "x", "1.5", "99999999999999999999", ""] {
        let answer = shop.get("alice", &format!("/api/v1/orders?limit={limit}")).await;
        findings.check(&format!("limit {limit:?}"), &answer, (400, UNREADABLE));
    }
    let twice = shop.get("alice", "/api/v1/orders?limit=1&limit=2").await;
    findings.check("limit twice", &twice, (400, UNREADABLE));
    // Another buyer's cursor shows nothing of that buyer, and a damaged cursor never breaks the server.
    let answer = shop.get("bob", &format!("/api/v1/orders?cursor={cursor}")).await;
    let shows = answer.status == 200 && answer.json()["orders"] != json!([]);
    findings.rule("alice's cursor", !shows && answer.status < 500, &format!("{answer:?}"));
    for position in 0..cursor.len() {
        let mut damaged = cursor.clone().into_bytes();
        damaged[position] = if damaged[position] == b'A' { b'B' } else { b'A' };
        let damaged = String::from_utf8(damaged).expect("text");
        let answer = shop.get("alice", &format!("/api/v1/orders?cursor={damaged}")).await;
        findings.rule(&damaged, matches!(answer.status, 200 | 400), &format!("{answer:?}"));
    }
    finish_unchanged(shop, &bought, findings).await;
}

async fn a_wrong_method_or_address_is_a_problem_too(mode: Mode) {
    let (shop, id, before) = market(mode).await;
    let mut findings = Findings::default();
    let order = format!("/api/v1/orders/{id}");
    let bearer = format!("Bearer {}", token("alice"));
    let auth = [("Authorization", bearer.as_str())];
    let reads = "GET, HEAD";
    for (listener, method, path, methods) in [
        (shop.shopper, "DELETE", "/api/v1/sales", reads),
        (shop.shopper, "POST", "/api/v1/sales", reads),
        (shop.shopper, "OPTIONS", "/api/v1/sales", reads),
        (shop.shopper, "POST", "/api/v1/time", reads),
        (shop.shopper, "PATCH", "/api/v1/sales/drop", reads),
        (shop.shopper, "GET", "/api/v1/sales/drop/orders", "POST"),
        (shop.shopper, "DELETE", "/api/v1/sales/drop/orders", "POST"),
        (shop.shopper, "FROB", "/api/v1/sales/drop/orders", "POST"),
        (shop.shopper, "POST", "/api/v1/orders", reads),
        (shop.shopper, "DELETE", &order, reads),
        (shop.shopper, "PUT", &order, reads),
        (shop.shopper, "POST", "/problems/internal", reads),
        (shop.admin, "DELETE", "/api/v1/admin/sales", "GET, HEAD, POST"),
        (shop.admin, "PUT", "/api/v1/admin/sales/drop", "GET, HEAD, PATCH"),
        (shop.admin, "POST", "/api/v1/admin/sales/drop/stock", reads),
        (shop.admin, "GET", "/api/v1/admin/sales/drop/publish", "POST"),
        (shop.admin, "POST", "/metrics", reads),
        (shop.admin, "DELETE", "/readyz", reads),
    ] {
        let what = format!("{method} {path}");
        let answer = call(listener, method, path, &auth, "").await;
        findings.check(&what, &answer, (405, "method_not_allowed"));
        findings.rule(&what, answer.header("Allow") == methods, &format!("not {methods}: {answer:?}"));
    }
    for path in [
        "/index.html",
        "/api",
        "/api/v1",
        "/api/v1/nothing",
        "/api/v2/sales",
        "/api/v1/sales/drop/nothing",
        "/metrics",
        "/readyz",
        "/api/v1/admin/sales",
        "/api/v1/admin/sales/drop",
        "/api/v1/..%2F..%2Fetc/passwd",
        "/%00",
        "//api/v1/sales",
    ] {
        findings.check(path, &call(shop.shopper, "GET", path, &auth, "").await, (404, "not_found"));
    }
    for path in ["/api/v1/sales/drop", "/api/v1/orders", "/api/v1/admin/nothing", "/shop"] {
        let answer = call(shop.admin, "GET", path, &auth, "").await;
        findings.check(&format!("admin listener: {path}"), &answer, (404, "not_found"));
    }
    finish_unchanged(shop, &before, findings).await;
}

async fn a_purchase_is_the_same_however_its_path_is_written(mode: Mode) {
    let (shop, _, _) = market(mode).await;
    shop.open_sale("friday-drop", 1, &[("phone", 5)]).await;
    let bearer = format!("Bearer {}", token("carol"));
    let with = |key: &'static str| [("Authorization", bearer.as_str()), JSON, ("Idempotency-Key", key)];
    // The first one goes around the router, and the others through it.
    let paths =
        ["friday-drop", "friday%2Ddrop", "%66riday-drop"].map(|sale| format!("/api/v1/sales/{sale}/orders"));
    let mut orders = Vec::new();
    for path in &paths {
        let bought = call(shop.shopper, "POST", path, &with("k1"), ONE).await;
        assert!(matches!(bought.status, 200 | 202), "{bought:?}");
        orders.push(bought.json()["id"].clone());
        let what = |case: &str| format!("{path} {case}");
        let mut findings = Findings::default();
        let again = call(shop.shopper, "POST", path, &with("k2"), ONE).await;
        findings.check(&what("again"), &again, (409, "limit_reached"));
        let unknown = call(shop.shopper, "POST", path, &[JSON, KEY], ONE).await;
        findings.check(&what("of nobody"), &unknown, (401, "unauthenticated"));
        let unread = call(shop.shopper, "POST", path, &with("k3"), "[").await;
        findings.check(&what("no JSON"), &unread, (400, UNREADABLE));
        for method in ["GET", "HEAD", "PUT"] {
            let answer = call(shop.shopper, method, path, &with("k4"), "").await;
            findings.rule(&what(method), answer.status == 405 && answer.header("Allow") == "POST", "not 405");
        }
        findings.done();
    }
    orders.dedup();
    assert_eq!(orders.len(), 1, "one key, one order");
    for sale in ["friday-drop%2Fx", "Friday-drop", "friday-drop%00"] {
        let path = format!("/api/v1/sales/{sale}/orders");
        let answer = call(shop.shopper, "POST", &path, &with("k5"), ONE).await;
        assert_eq!((answer.status, &answer.json()["code"]), (404, &"sale_not_found".into()), "{answer:?}");
    }
    shop.finish().await;
}

async fn every_problem_code_has_a_page(mode: Mode) {
    let shop = TestShop::start(mode).await;
    for address in [shop.shopper, shop.admin] {
        for code in Code::ALL {
            let page = call(address, "GET", &format!("/problems/{}", code.as_str()), &[], "").await;
            assert_eq!(page.status, 200, "{page:?}");
            assert!(page.text.contains(code.as_str()) && page.text.contains(code.title()), "{page:?}");
        }
    }
    let refused = shop.buy("alice", "nothing", "phone", "k1").await.json();
    let page = call(shop.shopper, "GET", refused["type"].as_str().expect("a type"), &[], "").await;
    assert_eq!(page.status, 200, "{page:?}");
    let mut findings = Findings::default();
    for code in ["nothing", "Internal", "..", "%00", "sale_not_found%20"] {
        let answer = call(shop.shopper, "GET", &format!("/problems/{code}"), &[], "").await;
        findings.check(code, &answer, (404, "not_found"));
    }
    findings.done();
    shop.finish().await;
}

async fn a_problem_carries_the_trace_that_the_caller_sent(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let answer = call(shop.shopper, "GET", "/api/v1/nothing", &[("traceparent", &parent)], "").await;
    assert_eq!(answer.json()["trace_id"], trace, "{answer:?}");
    let mut ids: Vec<Value> = Vec::new();
    for _ in 0..20 {
        ids.push(shop.get("alice", "/api/v1/nothing").await.json()["request_id"].clone());
    }
    let listed = ids.len();
    ids.sort_by_key(Value::to_string);
    ids.dedup();
    assert_eq!(ids.len(), listed, "each request has an id of its own");
    shop.finish().await;
}
