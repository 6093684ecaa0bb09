//! Tests of what some shoppers see and others do not, of switches, of limits by device, and of what clients are told of
//! limits.

use seckill::app::Role;
use seckill::config::Mode;
use serde_json::{Value, json};

use crate::client::{Answer, call};
use crate::harness::{SECRET, TestShop, open, sale_body, token, token_of};

in_both_modes!(
    a_grey_sale_is_there_for_its_share_alone_and_nobody_drops_out_when_it_is_raised,
    flags_and_canaries_are_told_in_headers,
    what_is_switched_off_is_refused_and_comes_back,
    a_limit_by_device_counts_the_header_and_the_claim,
    clients_are_told_how_much_of_their_limit_is_left,
);

async fn put(shop: &TestShop, rule: &str, mut body: Value) {
    body["reason"] = json!("a test");
    let answer = shop.operate("PUT", &format!("/rules/{rule}"), body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

async fn cancel(shop: &TestShop, user: &str, order: &str) -> Answer {
    let bearer = format!("Bearer {}", token(user));
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "cancel")];
    call(shop.shopper, "POST", &format!("/api/v1/orders/{order}/cancel"), &headers, "").await
}

fn grey(gives: Value, percent: u32, users: &[&str]) -> Value {
    json!({ "kind": "grey", "value": { "gives": gives, "percent": percent, "users": users } })
}

async fn seen_by(shop: &TestShop, users: &[String]) -> Vec<String> {
    let mut seen = Vec::new();
    for user in users {
        let one = shop.get(user, "/api/v1/sales/early").await;
        let listed = shop.get(user, "/api/v1/sales").await;
        let is_listed =
            listed.json()["sales"].as_array().expect("sales").iter().any(|sale| sale["id"] == "early");
        assert_eq!(one.status == 200, is_listed, "{one:?} {listed:?}");
        assert_eq!(listed.header("Cache-Control"), "private, no-store");
        assert_eq!(listed.header("Vary"), "Authorization, Cookie");
        if is_listed {
            assert_eq!(
                (one.header("Cache-Control"), one.header("Vary")),
                ("private, no-store", "Authorization, Cookie")
            );
            seen.push(user.clone());
        }
    }
    seen
}

async fn a_grey_sale_is_there_for_its_share_alone_and_nobody_drops_out_when_it_is_raised(mode: Mode) {
    let mut shop = TestShop::start(mode).await;
    shop.open_sale("early", 1, &[("phone", 50)]).await;
    shop.open_sale("open", 1, &[("phone", 5)]).await;
    put(&shop, "early-birds", grey(json!({ "sale": "early" }), 5, &["friend"])).await;
    let anonymous = call(shop.shopper, "GET", "/api/v1/sales", &[], "").await;
    let ids: Vec<Value> =
        anonymous.json()["sales"].as_array().expect("sales").iter().map(|sale| sale["id"].clone()).collect();
    assert_eq!(ids, ["open"], "{anonymous:?}");
    assert_eq!(
        anonymous.header("Vary"),
        "Authorization, Cookie",
        "a shared cache keeps it apart from others"
    );
    assert_eq!(anonymous.header("Cache-Control"), "public, max-age=1");
    let hidden = call(shop.shopper, "GET", "/api/v1/sales/early", &[], "").await;
    assert_eq!(hidden.problem(), (404, "sale_not_found".to_owned()), "{hidden:?}");

    let users: Vec<String> = (0..100).map(|n| format!("u{n}")).collect();
    let five = seen_by(&shop, &users).await;
    assert!((1..=12).contains(&five.len()), "{five:?}");
    let outside = users.iter().find(|user| !five.contains(user)).expect("most are outside");
    let refused = shop.buy(outside, "early", "phone", "k").await;
    assert_eq!(refused.problem(), (404, "sale_not_found".to_owned()), "{refused:?}");
    assert_eq!(shop.buy(&five[0], "early", "phone", "k").await.status, 202);
    assert_eq!(shop.buy("friend", "early", "phone", "k").await.status, 202, "a named user");

    shop.stop().await;
    let shop = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    assert_eq!(seen_by(&shop, &users).await, five, "the same after a restart");
    put(&shop, "early-birds", grey(json!({ "sale": "early" }), 50, &["friend"])).await;
    let fifty = seen_by(&shop, &users).await;
    assert!((35..=65).contains(&fifty.len()) && five.iter().all(|user| fifty.contains(user)), "{fifty:?}");
    let removed = shop.operate("DELETE", "/rules/early-birds?reason=all", Value::Null).await;
    assert_eq!(removed.status, 200, "{removed:?}");
    let all = call(shop.shopper, "GET", "/api/v1/sales/early", &[], "").await;
    assert_eq!((all.status, all.header("Vary")), (200, ""), "{all:?}");
    shop.finish().await;
}

async fn flags_and_canaries_are_told_in_headers(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    put(&shop, "a", grey(json!({ "flag": "new-checkout" }), 0, &["ada"])).await;
    put(&shop, "b", grey(json!({ "flag": "big-button" }), 0, &["ada", "bob"])).await;
    put(&shop, "c", grey(json!("canary"), 0, &["ada"])).await;
    let told = |answer: &Answer| {
        (answer.header("x-seckill-canary").to_owned(), answer.header("x-seckill-flags").to_owned())
    };
    let ada = ("true".to_owned(), "new-checkout, big-button".to_owned());
    assert_eq!(told(&shop.get("ada", "/api/v1/orders").await), ada);
    assert_eq!(told(&shop.buy("ada", "drop", "phone", "k").await), ada);
    assert_eq!(told(&shop.get("bob", "/api/v1/orders").await), (String::new(), "big-button".to_owned()));
    assert_eq!(told(&shop.get("carl", "/api/v1/orders").await), (String::new(), String::new()));
    shop.finish().await;
}

async fn what_is_switched_off_is_refused_and_comes_back(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("phone", 5)]).await;
    let order = shop.buy("ada", "drop", "phone", "k").await.json()["id"].as_str().expect("an id").to_owned();
    shop.decided("ada", &order).await;
    let set = async |switch: &str, is_on: bool| {
        let body = json!({ "is_on": is_on, "reason": "a test" });
        let answer = shop.operate("PUT", &format!("/switches/{switch}"), body).await;
        assert_eq!((answer.status, &answer.json()["is_on"]), (200, &json!(is_on)), "{answer:?}");
    };
    let switched_off = |answer: Answer, switch: &str| {
        assert_eq!(answer.problem(), (503, "switched_off".to_owned()), "{answer:?}");
        assert_eq!(answer.json()["switch"], switch);
        assert!(!answer.header("Retry-After").is_empty());
    };
    set("read_only", true).await;
    switched_off(shop.buy("bob", "drop", "phone", "k").await, "read_only");
    let given_up = cancel(&shop, "ada", &order).await;
    switched_off(given_up, "read_only");
    assert_eq!(shop.get("ada", &format!("/api/v1/orders/{order}")).await.status, 200, "reads go on");
    set("read_only", false).await;
    set("read_only", false).await;
    assert_eq!(shop.buy("bob", "drop", "phone", "k").await.status, 202);

    set("no_purchases", true).await;
    switched_off(shop.buy("carl", "drop", "phone", "k").await, "no_purchases");
    assert_eq!(cancel(&shop, "ada", &order).await.status, 200);
    set("no_lists", true).await;
    switched_off(shop.get("ada", "/api/v1/orders").await, "no_lists");
    switched_off(call(shop.shopper, "GET", "/api/v1/sales", &[], "").await, "no_lists");
    assert_eq!(call(shop.shopper, "GET", "/api/v1/sales/drop", &[], "").await.status, 200);
    set("no_new_sales", true).await;
    switched_off(shop.operate("POST", "/sales", sale_body("next", 1, &[("phone", 1)])).await, "no_new_sales");
    set("no_waits", true).await;
    let unknown = shop.operate("PUT", "/switches/no_fun", json!({ "is_on": true, "reason": "r" })).await;
    assert_eq!(unknown.status, 404, "{unknown:?}");

    let listed = shop.operate("GET", "/switches", Value::Null).await.json();
    let on: Vec<&str> = listed["switches"]
        .as_array()
        .expect("switches")
        .iter()
        .filter(|switch| switch["is_on"] == true)
        .map(|switch| switch["switch"].as_str().expect("a word"))
        .collect();
    assert_eq!(on, ["no_purchases", "no_new_sales", "no_lists", "no_waits"], "{listed}");
    for switch in on {
        set(switch, false).await;
    }
    let waited = shop
        .place(
            "dora",
            "drop",
            "k",
            &json!({ "sku_id": "phone", "quantity": 1 }).to_string(),
            &[("Prefer", "wait=5")],
        )
        .await;
    assert_eq!((waited.status, waited.header("Preference-Applied")), (201, "wait=5"), "{waited:?}");
    set("no_waits", true).await;
    let body = json!({ "sku_id": "phone", "quantity": 1 }).to_string();
    let at_once = shop.place("emil", "drop", "k", &body, &[("Prefer", "wait=5")]).await;
    assert_eq!((at_once.status, at_once.header("Preference-Applied")), (202, "wait=0"), "{at_once:?}");
    shop.finish().await;
}

async fn a_limit_by_device_counts_the_header_and_the_claim(mode: Mode) {
    let flags = [("http.device_header", "x-device"), ("auth.device_claim", "device")];
    let shop = TestShop::start_with(mode, &flags).await;
    let value = json!({ "rate": 1, "burst": 3 });
    let lists = json!({ "scope": "device", "match": { "route": "order_list" }, "kind": "token_bucket", "value": value });
    put(&shop, "devices", lists).await;
    let passed = async |user: &str, claim: Option<&str>, header: Option<&str>| {
        let exp = seckill::clock::Clock::System.now_ms() / 1000 + 3600;
        let token = token_of(&json!({ "sub": user, "aud": "seckill", "exp": exp, "device": claim }), SECRET);
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("Authorization", bearer.as_str())];
        headers.extend(header.map(|device| ("X-Device", device)));
        let mut passed = 0;
        while call(shop.shopper, "GET", "/api/v1/orders", &headers, "").await.status == 200 && passed < 20 {
            passed += 1;
        }
        passed
    };
    let about = |count: u32| (3..=4).contains(&count);
    assert!(about(passed("a", Some("d1"), None).await));
    assert!(passed("b", Some("d1"), Some("d2")).await <= 1, "the claim counts, whoever uses the device");
    assert!(about(passed("b", None, Some("d2")).await), "without a claim the header does");
    assert!(about(passed("c", None, None).await), "who names none is counted by the address");
    assert!(passed("d", None, None).await <= 1);
    put(&shop, "stolen", json!({ "kind": "block", "value": { "device": "d9" } })).await;
    assert_eq!(passed("e", Some("d9"), None).await, 0);
    shop.finish().await;
}

async fn clients_are_told_how_much_of_their_limit_is_left(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 9, &[("phone", 50)]).await;
    let bucket = |rate: u32, burst: u32| json!({ "scope": "user", "kind": "token_bucket", "value": { "rate": rate, "burst": burst } });
    put(&shop, "wide", bucket(100, 1000)).await;
    put(&shop, "tight", bucket(1, 3)).await;
    let first = shop.get("ada", "/api/v1/orders").await;
    assert_eq!(first.header("RateLimit-Policy"), "\"tight\";q=3;w=3", "{first:?}");
    assert_eq!(first.header("RateLimit"), "\"tight\";r=2;t=1");
    let bought = shop.buy("ada", "drop", "phone", "k").await;
    assert_eq!((bought.status, bought.header("RateLimit")), (202, "\"tight\";r=1;t=2"), "{bought:?}");
    assert_eq!(shop.get("ada", "/api/v1/orders").await.header("RateLimit"), "\"tight\";r=0;t=3");
    let refused = shop.get("ada", "/api/v1/orders").await;
    assert_eq!((refused.status, refused.header("RateLimit-Policy")), (429, "\"tight\";q=3;w=3"));
    assert!(refused.header("RateLimit").starts_with("\"tight\";r=0;t="), "{refused:?}");
    assert!((1..=2).contains(&refused.header("Retry-After").parse::<u32>().expect("seconds")));
    let unlimited = call(shop.shopper, "GET", "/api/v1/time", &[], "").await;
    assert_eq!(unlimited.header("RateLimit"), "");
    // The audit reads the orders as their buyers.
    let removed = shop.operate("DELETE", "/rules/tight?reason=done", Value::Null).await;
    assert_eq!(removed.status, 200, "{removed:?}");
    shop.finish().await;
}
