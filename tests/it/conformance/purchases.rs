//! Tests of the path of one purchase, and of every normal answer of the shop.

use seckill::config::Mode;
use serde_json::{Value, json};

use crate::harness::{
    TestShop, assert_rows_kept, config, eventually, migrated, open, open_sale, remove, rfc3339, sale_body,
};
use seckill::app::Role;
use seckill::clock::Clock;
use seckill::domain::{Month, UserId};

use super::poison::{record, users_of};

in_both_modes!(
    a_purchase_becomes_one_row_in_its_shard,
    the_same_key_answers_the_same_order_and_another_body_is_refused,
    a_reference_is_carried_to_the_order_and_its_events,
    a_buyer_cannot_pass_the_limit_of_a_sale,
    sold_out_is_said_and_a_winner_still_gets_the_same_order,
    prefer_wait_answers_the_decided_order,
    outside_its_window_a_sale_sells_nothing,
    orders_behind_many_months_are_found_by_the_cursor,
    orders_are_listed_newest_first_in_pages_and_only_to_their_buyer,
    a_sale_over_several_buckets_sells_all_of_its_stock,
    the_last_units_are_sold_to_anybody_whatever_their_buckets,
    sold_out_is_said_when_nothing_is_left_and_fewer_left_otherwise,
    a_limit_says_what_the_buyer_holds,
    who_was_rejected_holds_nothing_and_may_buy_again,
    who_was_rejected_by_the_limit_may_buy_what_is_left_of_it,
    every_answer_about_an_order_tells_the_same_time,
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
    assert!(order["poll_after_ms"].as_u64().is_some_and(|ms| (500..=33_000).contains(&ms)), "{order}");
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

async fn a_reference_is_carried_to_the_order_and_its_events(mode: Mode) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let mut shop = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    shop.open_sale("drop", 3, &[("phone", 10)]).await;
    let body =
        |reference: &str| json!({ "sku_id": "phone", "quantity": 1, "reference": reference }).to_string();
    let longest = "ö|\"".repeat(21) + "€";
    for spoilt in ["", "a\nb", &(longest.clone() + "x")] {
        let refused = shop.place("alice", "drop", "k1", &body(spoilt), &[]).await;
        assert_eq!(refused.problem(), (400, "validation_failed".to_owned()), "{spoilt:?}");
    }
    let bought = shop.place("alice", "drop", "k1", &body(&longest), &[]).await;
    assert_eq!((bought.status, &bought.json()["reference"]), (202, &json!(longest)), "{bought:?}");
    let again = shop.place("alice", "drop", "k1", &body(&longest), &[]).await;
    assert_eq!((again.header("Idempotent-Replayed"), &again.json()["reference"]), ("true", &json!(longest)));
    for other in [body("cart 8"), r#"{"sku_id":"phone","quantity":1}"#.to_owned()] {
        let reused = shop.place("alice", "drop", "k1", &other, &[]).await;
        assert_eq!(reused.code(), "idempotency_key_reused");
    }
    // The row of one that is given up before the order writer comes is made of its hold.
    let given_up = shop.place("bob", "drop", "k1", &body("cart 8"), &[]).await.json();
    let given_up = given_up["id"].as_str().expect("an id").to_owned();
    assert_eq!(shop.get("bob", &format!("/api/v1/orders/{given_up}")).await.json()["reference"], "cart 8");
    assert_eq!(shop.act("bob", &given_up, "cancel").await.json()["reference"], "cart 8");
    shop.stop().await;

    let shop = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    let id = bought.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(shop.decided("alice", &id).await["reference"], longest);
    assert_eq!(shop.decided("bob", &given_up).await["reference"], "cart 8");
    let none = shop.buy("cid", "drop", "phone", "k1").await.json();
    let none = none["id"].as_str().expect("an id").to_owned();
    assert_eq!(shop.decided("cid", &none).await.get("reference"), None);
    let told = shop.operate("GET", "/events", Value::Null).await.json();
    let events = told["events"].as_array().expect("events");
    let of = |order: &str| events.iter().find(|event| event["subject"] == order).expect("an event");
    assert_eq!(of(&id)["data"]["reference"], longest);
    assert_eq!(of(&given_up)["data"]["reference"], "cart 8");
    assert_eq!(of(&none)["data"].get("reference"), None);
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
    open_sale(shop.admin, early).await;
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

async fn orders_behind_many_months_are_found_by_the_cursor(mode: Mode) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let this = Month::of_ms(Clock::System.now_ms());
    let ahead: Vec<Month> =
        std::iter::successors(Some(this.next()), |month| Some(month.next())).take(14).collect();
    seckill::app::prepare_months(&config, &ahead).await.expect("months");
    let backend = open(&config).await;
    let shop = TestShop::start_on(config, backend, Role::All).await;
    shop.open_sale("drop", 1, &[("phone", 1)]).await;
    for month in ahead {
        let (year, number) = (month.yyyymm() / 100, month.yyyymm() % 100);
        let mut body = sale_body(&format!("later-{}", month.yyyymm()), 1, &[("phone", 1)]);
        body["starts_at"] = format!("{year}-{number:02}-15T00:00:00Z").into();
        body["ends_at"] = format!("{year}-{number:02}-16T00:00:00Z").into();
        open_sale(shop.admin, body).await;
    }
    let id = shop.buy("alice", "drop", "phone", "k1").await.json()["id"].as_str().expect("an id").to_owned();
    shop.decided("alice", &id).await;
    eventually(
        "the later sales are in the catalog, so that there is more than a page of months",
        async || {
            let page = shop.get("alice", "/api/v1/orders").await.json();
            page["orders"] == json!([]) && page["next_cursor"].is_string()
        },
    )
    .await;
    let (mut found, mut path) = (Vec::new(), "/api/v1/orders".to_owned());
    for _ in 0..5 {
        let page = shop.get("alice", &path).await.json();
        found.extend(page["orders"].as_array().expect("a list").iter().map(|order| order["id"].clone()));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/api/v1/orders?cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(found, [json!(id)]);
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
    open_sale(shop.admin, body).await;
    assert_eq!(shop.stock("wide").await["phone"]["available"], 11);
    let mut accepted = 0;
    for n in 0..60 {
        accepted += u32::from(shop.buy(&format!("u{n}"), "wide", "phone", "k").await.status == 202);
    }
    assert_eq!(accepted, 11);
    assert_eq!(shop.stock("wide").await["phone"]["available"], 0);
    shop.finish().await;
}

/// Lists users of one bucket of a sale with eight of them.
fn users_of_bucket(shop: &TestShop, bucket: u16, count: usize) -> Vec<String> {
    let map = shop.config.shard_map().expect("a map");
    let is_there = |user: &UserId| map.bucket_of(map.shard_of(user), 8) == bucket;
    let users = (0..).map(|n| UserId::parse(&format!("u{n}")).expect("a user"));
    users.filter(is_there).take(count).map(|user| user.to_string()).collect()
}

async fn the_last_units_are_sold_to_anybody_whatever_their_buckets(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("shards.shards", "8")]).await;
    for (id, wide) in [("one-by-one", false), ("at-once", true)] {
        let mut body = sale_body(id, 2, &[("phone", 16)]);
        body["buckets"] = 8.into();
        open_sale(shop.admin, body).await;
        // Every bucket has two units, and all buyers are of one.
        let users = users_of_bucket(&shop, 3, 16);
        let buys = users.iter().map(|user| shop.buy(user, id, "phone", "k"));
        let answers = if wide {
            futures::future::join_all(buys).await
        } else {
            let mut answers = Vec::new();
            for buy in buys {
                answers.push(buy.await);
            }
            answers
        };
        for answer in &answers {
            assert_eq!(answer.status, 202, "{id}: {answer:?}");
        }
        for bucket in [3, 5] {
            let late = &users_of_bucket(&shop, bucket, 17)[16];
            assert_eq!(shop.buy(late, id, "phone", "k").await.code(), "sold_out", "{id}");
        }
        assert_eq!(shop.stock(id).await["phone"]["available"], 0);
    }
    shop.finish().await;
}

async fn sold_out_is_said_when_nothing_is_left_and_fewer_left_otherwise(mode: Mode) {
    let shop = TestShop::start_with(mode, &[("shards.shards", "8")]).await;
    let quantity = |units: u32| json!({ "sku_id": "phone", "quantity": units }).to_string();
    for (id, buckets) in [("narrow", 1), ("wide", 8)] {
        let mut body = sale_body(id, 3, &[("phone", 8)]);
        body["buckets"] = buckets.into();
        open_sale(shop.admin, body).await;
        for user in ["ann", "bea"] {
            assert_eq!(shop.place(user, id, "k", &quantity(3), &[]).await.status, 202, "{id}");
        }
        // Two are left.
        let fewer = shop.place("cleo", id, "k", &quantity(3), &[]).await;
        assert_eq!(fewer.problem(), (409, "fewer_left".to_owned()), "{id}");
        assert_eq!(fewer.json()["left"], 2, "{id}");
        assert_eq!(shop.place("cleo", id, "k2", &quantity(2), &[]).await.status, 202, "{id}");
        for units in [1, 3] {
            let over = shop.place("dora", id, "k", &quantity(units), &[]).await;
            assert_eq!(over.problem(), (409, "sold_out".to_owned()), "{id}: {units}");
        }
    }
    shop.finish().await;
}

async fn a_limit_says_what_the_buyer_holds(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    let three = r#"{"sku_id":"phone","quantity":3}"#;
    let refused = async |user: &str, held: u32| {
        let answer = shop.place(user, "drop", &format!("k{held}"), three, &[]).await;
        assert_eq!(answer.problem(), (409, "limit_reached".to_owned()));
        assert_eq!(
            (&answer.json()["held"], &answer.json()["buyer_limit"]),
            (&json!(held), &json!(2)),
            "{user}"
        );
        answer.json()["detail"].as_str().expect("a detail").to_owned()
    };
    let none = refused("carol", 0).await;
    assert_eq!(shop.buy("bob", "drop", "phone", "first").await.status, 202);
    assert_ne!(refused("bob", 1).await, none, "who holds one hears something else");
    shop.finish().await;
}

/// Has a first order of one unit written that no front reserved. The purchase of another user of the same partition
/// behind it wakes the writer.
async fn write_unreserved(shop: &TestShop, user: &UserId, other: &UserId) {
    let month = Month::of_ms(Clock::System.now_ms() - 1000);
    let mut order = record(shop, user, month, "unreserved");
    order.accepted_ms = Clock::System.now_ms();
    let stage = shop.stage();
    stage.append(order.order_id, vec![order.encode()]).await;
    assert_eq!(shop.buy(other.as_str(), "drop", "phone", "k").await.status, 202);
    eventually("both are written", async || stage.orders("awaiting_payment").await == 2).await;
}

async fn who_was_rejected_holds_nothing_and_may_buy_again(mode: Mode) {
    let mut shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 2)]).await;
    let users: Vec<UserId> = users_of(&shop, 0).take(3).collect();
    let [first, unreserved, late] = &users[..] else { panic!("three users") };
    // The last unit of the ledger is taken, and the inventory does not know.
    write_unreserved(&shop, unreserved, first).await;
    let answer = shop.buy(late.as_str(), "drop", "phone", "k").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let decided = shop.decided(late.as_str(), answer.json()["id"].as_str().expect("an id")).await;
    assert_eq!((&decided["status"], &decided["reason"]), (&json!("rejected"), &json!("sold_out")));
    eventually("the limit is not what keeps the buyer out", async || {
        shop.buy(late.as_str(), "drop", "phone", "again").await.problem() == (409, "sold_out".to_owned())
    })
    .await;
    shop.stop().await;
    assert_rows_kept(&shop.config, "drop").await;
    remove(&shop.config).await;
}

async fn who_was_rejected_by_the_limit_may_buy_what_is_left_of_it(mode: Mode) {
    let mut shop = TestShop::start(mode).await;
    shop.open_sale("drop", 2, &[("phone", 10)]).await;
    let users: Vec<UserId> = users_of(&shop, 0).take(2).collect();
    let [buyer, other] = &users[..] else { panic!("two users") };
    // The inventory does not know of one unit that the buyer holds.
    write_unreserved(&shop, buyer, other).await;
    let two = r#"{"sku_id":"phone","quantity":2}"#;
    let answer = shop.place(buyer.as_str(), "drop", "two", two, &[]).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let decided = shop.decided(buyer.as_str(), answer.json()["id"].as_str().expect("an id")).await;
    assert_eq!((&decided["status"], &decided["reason"]), (&json!("rejected"), &json!("limit")));
    let left = async || shop.stock("drop").await["phone"]["available"] == 9;
    eventually("the units are for sale again", left).await;
    eventually("one is bought", async || shop.buy(buyer.as_str(), "drop", "phone", "one").await.status < 300)
        .await;
    let refused = shop.buy(buyer.as_str(), "drop", "phone", "third").await;
    assert_eq!((refused.problem(), &refused.json()["held"]), ((409, "limit_reached".to_owned()), &json!(2)));
    shop.stop().await;
    assert_rows_kept(&shop.config, "drop").await;
    remove(&shop.config).await;
}

async fn every_answer_about_an_order_tells_the_same_time(mode: Mode) {
    let shop = TestShop::start(mode).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let first = shop.buy("alice", "drop", "phone", "k").await.json();
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let again = shop.buy("alice", "drop", "phone", "k").await.json();
    assert_eq!(again["accepted_at"], first["accepted_at"], "a repetition");
    let id = first["id"].as_str().expect("an id");
    let polled = shop.get("alice", &format!("/api/v1/orders/{id}")).await.json();
    assert_eq!(polled["accepted_at"], first["accepted_at"], "a poll");
    let decided = shop.decided("alice", id).await;
    assert_eq!(decided["accepted_at"], first["accepted_at"], "the row");
    let again = shop.buy("alice", "drop", "phone", "k").await.json();
    assert_eq!(again["accepted_at"], first["accepted_at"], "a late repetition");
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
