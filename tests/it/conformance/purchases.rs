//! Tests of the path of one purchase, and of every normal answer of the shop.

use seckill::config::Mode;
use serde_json::{Value, json};

use crate::harness::{TestShop, rfc3339, sale_body};
use seckill::clock::Clock;

in_both_modes!(
    a_purchase_becomes_one_row_in_its_shard,
    the_same_key_answers_the_same_order_and_another_body_is_refused,
    a_buyer_cannot_pass_the_limit_of_a_sale,
    sold_out_is_said_and_a_winner_still_gets_the_same_order,
    prefer_wait_answers_the_decided_order,
    outside_its_window_a_sale_sells_nothing,
    orders_are_listed_newest_first_in_pages_and_only_to_their_buyer,
    a_sale_over_several_buckets_sells_all_of_its_stock,
    sale_reads_may_be_cached_and_tell_a_band_and_never_a_number,
);

async fn a_purchase_becomes_one_row_in_its_shard(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    let answer = shop.buy("alice", "drop", "phone", "k1").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let order = answer.json();
    // The first record of a new producer may well take longer than the front waits for it.
    assert!(matches!(order["status"].as_str(), Some("queued" | "reserved")), "{order}");
    assert_eq!(order["final"], false);
    assert_eq!(order["price"], json!({ "amount": 19900, "currency": "CNY" }));
    assert!(order["poll_after_ms"].as_u64().is_some_and(|ms| (100..=33_000).contains(&ms)), "{order}");
    let id = order["id"].as_str().expect("id");
    assert_eq!(answer.header("Location"), format!("/api/v1/orders/{id}"));
    assert_eq!(answer.header("Cache-Control"), "no-store");

    let decided = shop.decided("alice", id).await;
    assert_eq!(decided["status"], "awaiting_payment");
    assert!(decided["expires_at"].is_string());
    assert_eq!(shop.stage().orders("awaiting_payment").await, 1);
    let stock = &shop.stock("drop").await["phone"];
    assert_eq!((&stock["available"], &stock["held"], &stock["sold"]), (&json!(9), &json!(1), &json!(0)));
    shop.finish().await;
}

async fn the_same_key_answers_the_same_order_and_another_body_is_refused(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 3, &[("phone", 10), ("pad", 10)]).await;
    let first = shop.buy("alice", "drop", "phone", "k1").await;
    let again = shop.buy("alice", "drop", "phone", "k1").await;
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!((first.header("Idempotent-Replayed"), again.header("Idempotent-Replayed")), ("", "true"));
    let two = r#"{"sku_id":"phone","quantity":2}"#;
    let reused = (422, "idempotency_key_reused".to_owned());
    assert_eq!(shop.place("alice", "drop", "k1", two, &[]).await.problem(), reused);
    assert_eq!(shop.buy("alice", "drop", "pad", "k1").await.problem(), reused);
    // The key belongs to the buyer: another one may use it.
    assert_ne!(shop.buy("bob", "drop", "phone", "k1").await.json()["id"], first.json()["id"]);
    // When the order is decided, the same click still gets the same order.
    let id = first.json()["id"].as_str().expect("id").to_owned();
    shop.decided("alice", &id).await;
    let decided = shop.buy("alice", "drop", "phone", "k1").await;
    assert_eq!((decided.status, decided.json()["id"].as_str()), (200, Some(id.as_str())));
    assert_eq!(shop.stock("drop").await["phone"]["available"], 8);
    shop.finish().await;
}

async fn a_buyer_cannot_pass_the_limit_of_a_sale(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("phone", 10), ("pad", 10)]).await;
    assert_eq!(shop.buy("alice", "drop", "phone", "k1").await.status, 202);
    let two = r#"{"sku_id":"phone","quantity":2}"#;
    let refused = shop.place("alice", "drop", "k2", two, &[]).await;
    assert_eq!(refused.problem(), (409, "limit_reached".to_owned()));
    assert_eq!((&refused.json()["held"], &refused.json()["buyer_limit"]), (&json!(1), &json!(2)));
    assert_eq!(shop.buy("alice", "drop", "pad", "k3").await.status, 202, "the limit counts all SKUs");
    assert_eq!(shop.buy("alice", "drop", "pad", "k4").await.code(), "limit_reached");
    let three = r#"{"sku_id":"phone","quantity":3}"#;
    assert_eq!(shop.place("bob", "drop", "k1", three, &[]).await.code(), "limit_reached");
    shop.finish().await;
}

async fn sold_out_is_said_and_a_winner_still_gets_the_same_order(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    let won = shop.buy("alice", "drop", "phone", "k1").await;
    assert_eq!(shop.buy("bob", "drop", "phone", "k1").await.status, 202);
    // There are so many clicks that the local flag is set for most of them.
    for n in 0..50 {
        let refused = shop.buy(&format!("late-{n}"), "drop", "phone", "k1").await;
        assert_eq!(refused.problem(), (409, "sold_out".to_owned()));
        let again = shop.buy("alice", "drop", "phone", "k1").await;
        assert_eq!(again.json()["id"], won.json()["id"], "{again:?}");
    }
    shop.finish().await;
}

async fn prefer_wait_answers_the_decided_order(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    let answer = shop.place("alice", "drop", "k1", body, &[("Prefer", "wait=10")]).await;
    assert_eq!((answer.status, answer.header("Preference-Applied")), (201, "wait=10"), "{answer:?}");
    assert_eq!(answer.json()["status"], "awaiting_payment");
    assert_eq!(answer.json().get("poll_after_ms"), None);
    shop.finish().await;
}

async fn outside_its_window_a_sale_sells_nothing(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let now_ms = Clock::System.now_ms();
    let mut early = sale_body("early", 1, &[("phone", 5)]);
    early["starts_at"] = rfc3339(now_ms + 60_000).into();
    crate::harness::open_sale(shop.admin, early).await;
    let refused = shop.buy("alice", "early", "phone", "k1").await;
    assert_eq!(refused.problem(), (409, "sale_not_started".to_owned()));
    assert!(refused.json()["starts_at"].is_string());

    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let step = |action: &'static str| shop.operate("POST", action, json!({ "reason": "a test" }));
    assert_eq!(step("/sales/drop/pause").await.status, 200);
    assert_eq!(shop.buy("alice", "drop", "phone", "k1").await.problem(), (409, "sale_paused".to_owned()));
    assert_eq!(step("/sales/drop/resume").await.status, 200);
    assert_eq!(shop.buy("alice", "drop", "phone", "k1").await.status, 202);
    assert_eq!(step("/sales/drop/end").await.status, 200);
    assert_eq!(shop.buy("bob", "drop", "phone", "k1").await.problem(), (409, "sale_ended".to_owned()));
    // An order that was accepted before the end still stands, and the same click still finds it.
    assert!(shop.buy("alice", "drop", "phone", "k1").await.status < 300);
    assert_eq!(shop.stock("drop").await["phone"]["available"], 4);
    shop.finish().await;
}

async fn orders_are_listed_newest_first_in_pages_and_only_to_their_buyer(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 9, &[("phone", 20)]).await;
    let mut ids: Vec<Value> = Vec::new();
    for n in 0..5 {
        let order = shop.buy("alice", "drop", "phone", &format!("k{n}")).await.json();
        shop.decided("alice", order["id"].as_str().expect("id")).await;
        ids.insert(0, order["id"].clone());
    }
    let mut listed: Vec<Value> = Vec::new();
    let mut path = "/api/v1/orders?limit=2".to_owned();
    for _ in 0..3 {
        let page = shop.get("alice", &path).await.json();
        listed.extend(page["orders"].as_array().expect("orders").iter().map(|order| order["id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        path = format!("/api/v1/orders?limit=2&cursor={cursor}");
    }
    assert_eq!(listed, ids);
    assert_eq!(shop.get("bob", "/api/v1/orders").await.json()["orders"], json!([]));
    let id = ids[0].as_str().expect("id");
    let foreign = shop.get("bob", &format!("/api/v1/orders/{id}")).await;
    assert_eq!(foreign.problem(), (404, "order_not_found".to_owned()));
    shop.finish().await;
}

async fn a_sale_over_several_buckets_sells_all_of_its_stock(mode: Mode) {
    let shop = TestShop::start(mode).await;
    let mut body = sale_body("wide", 9, &[("phone", 11)]);
    body["buckets"] = 4.into();
    crate::harness::open_sale(shop.admin, body).await;
    assert_eq!(shop.stock("wide").await["phone"]["available"], 11);
    let mut accepted = 0;
    for n in 0..60 {
        accepted += u32::from(shop.buy(&format!("u{n}"), "wide", "phone", "k").await.status == 202);
    }
    assert_eq!(accepted, 11);
    assert_eq!(shop.stock("wide").await["phone"]["available"], 0);
    shop.finish().await;
}

async fn sale_reads_may_be_cached_and_tell_a_band_and_never_a_number(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 500)]).await;
    let read = shop.get("alice", "/api/v1/sales/drop").await;
    assert_eq!((read.status, read.header("Cache-Control")), (200, "public, max-age=1"));
    assert_eq!(
        (&read.json()["status"], &read.json()["items"][0]["stock"]),
        (&json!("live"), &json!("plenty"))
    );
    assert!(!read.text.contains("500"));
    let etag = read.header("ETag").to_owned();
    let known = [("If-None-Match", etag.as_str())];
    let again = crate::client::call(shop.shopper, "GET", "/api/v1/sales/drop", &known, "").await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    let listed = shop.get("alice", "/api/v1/sales").await.json();
    assert_eq!(listed["sales"][0]["id"], "drop");
    let time = shop.get("alice", "/api/v1/time").await.json();
    assert!((time["now_ms"].as_i64().expect("ms") - Clock::System.now_ms()).abs() < 5_000);
    shop.finish().await;
}
