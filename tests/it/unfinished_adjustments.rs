//! Tests of adjustments of stock that somebody has left under way: others bring them to their end, and no unit comes or
//! goes twice.

use std::time::Duration;

use redis::AsyncCommands as _;
use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::{Instance, SaleId, UserId};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::harness::{Servers, TestShop, config, eventually, migrated, open, open_sale, sale_body};

/// Starts a front without workers, and opens a sale of ten phones in two buckets.
async fn front() -> TestShop {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let shop = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    let mut body = sale_body("drop", 9, &[("phone", 10)]);
    body["buckets"] = 2.into();
    open_sale(shop.admin, body).await;
    shop
}

/// Notes an adjustment as under way, as a process does that ends then.
async fn begin(shop: &TestShop, id: u8, (from, to): (u32, u32), epochs: [u32; 2]) {
    let servers = Servers::of(&shop.config);
    let text = format!(
        "INSERT INTO {}.stock_adjustments (sale_id, adjustment_id, sku_id, stock_before, stock_after, returned, plan, \
         actor, reason, request_id, phase, under_way, taken_on_ms) VALUES ('drop', ?, 'phone', ?, ?, 0, ?, 'tester', \
         'x', '-', 'begun', TRUE, 0) ON DUPLICATE KEY UPDATE phase = 'begun', under_way = TRUE, taken_on_ms = 0",
        servers.directory()
    );
    sqlx::query(AssertSqlSafe(text))
        .bind([id; 16].as_slice())
        .bind(from)
        .bind(to)
        .bind(json!({ "epochs": epochs, "returned": [] }).to_string())
        .execute(servers.pool(0))
        .await
        .expect("a row");
}

/// Finishes what is under way, as a worker does.
async fn finish(shop: &TestShop) -> usize {
    let finished = open(&shop.config).await.adjustments.finish(Duration::ZERO).await;
    finished.expect("all stores are there")
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_rebuild_counts_on_no_units_that_are_under_way() {
    let mut shop = front().await;
    let servers = Servers::of(&shop.config);
    let table = format!("{}.stock_adjustments", servers.directory());
    // The pools and the directory have six more, and the buckets have none of them yet.
    begin(&shop, 1, (10, 16), [9, 9]).await;
    assert_eq!(finish(&shop).await, 1);
    assert_eq!(phones(&shop).await, [16, 10]);
    let plan = json!({ "epochs": [1, 1], "returned": [] });
    let reopened = format!("UPDATE {table} SET plan = '{plan}', under_way = TRUE, taken_on_ms = 1 << 50");
    servers.execute(0, &reopened).await;
    let client = redis::Client::open(shop.config.redis.url.as_str()).expect("a client");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
    let key = format!("{}{{drop.0}}:stock", shop.config.redis.key_prefix);
    let _: i64 = redis.del(key).await.expect("Redis");
    let worker = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    eventually("it is rebuilt without them", async || {
        shop.stock("drop").await["phone"]["buckets"] == json!([5, 5])
    })
    .await;
    servers.execute(0, &format!("UPDATE {table} SET taken_on_ms = 0")).await;
    eventually("the other bucket has its share", async || {
        shop.stock("drop").await["phone"]["buckets"] == json!([5, 8])
    })
    .await;
    // What is missing is mended by the reconciler.
    eventually("all are there", async || {
        let phone = shop.stock("drop").await["phone"].clone();
        if phone["buckets"] == json!([5, 8]) {
            shop.operate("POST", "/reconcile", json!({ "apply": true, "reason": "x" })).await;
        }
        phone["available"] == 16
    })
    .await;
    shop.stop().await;
    worker.finish().await;
}

async fn is_under_way(shop: &TestShop) -> bool {
    let sale = SaleId::parse("drop").expect("a slug");
    open(&shop.config).await.adjustments.under_way(&sale).await.expect("a directory").is_some()
}

async fn phones(shop: &TestShop) -> [i64; 2] {
    let stock = shop.stock("drop").await["phone"].clone();
    ["configured", "available"].map(|state| stock[state].as_i64().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn what_was_left_under_way_is_done_once_however_often_it_is_begun_again() {
    let shop = front().await;
    for (id, from, to) in [(1, 10, 13), (2, 13, 7)] {
        for _ in 0..3 {
            // Each of its steps stands, and nobody knows that it does.
            begin(&shop, id, (from, to), [1, 1]).await;
            assert_eq!(finish(&shop).await, 1);
            assert_eq!(phones(&shop).await, [i64::from(to); 2], "{from} to {to}");
        }
    }
    assert_eq!(finish(&shop).await, 0);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_shrink_that_was_left_under_way_ends_when_orders_have_the_units() {
    let shop = front().await;
    for n in 0..8 {
        assert_eq!(shop.buy(&format!("u{n}"), "drop", "phone", "k").await.status, 202);
    }
    begin(&shop, 1, (10, 7), [1, 1]).await;
    assert_eq!(finish(&shop).await, 1);
    assert_eq!(phones(&shop).await, [10, 2], "nothing was changed");
    begin(&shop, 2, (10, 8), [1, 1]).await;
    assert_eq!(finish(&shop).await, 1);
    assert_eq!(phones(&shop).await, [8, 0]);
    let worker = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    eventually("all are held", async || shop.stock("drop").await["phone"]["held"] == 8).await;
    end(shop, worker).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_operator_finishes_what_another_left_before_anything_else() {
    let shop = front().await;
    begin(&shop, 1, (10, 12), [1, 1]).await;
    let body = json!({ "sku_id": "phone", "expected_stock": 10, "stock": 11, "reason": "x" });
    let refused = shop.operate("POST", "/sales/drop/stock/adjust", body).await;
    assert_eq!((refused.code().as_str(), &refused.json()["configured"]), ("stock_conflict", &json!(12)));
    assert_eq!(phones(&shop).await, [12, 12]);
    assert_eq!(shop.stage().audit(Some("drop")).await.last().expect("a row")[0], "tester");
    // A sale is not settled meanwhile.
    begin(&shop, 2, (12, 13), [1, 1]).await;
    let reason = json!({ "reason": "x" });
    assert_eq!(shop.operate("POST", "/sales/drop/end", reason.clone()).await.status, 200);
    let open = shop.operate("POST", "/sales/drop/settle", reason).await.json();
    assert!(open["open"].to_string().contains("adjustment"), "{open}");
    assert_eq!(finish(&shop).await, 1);
    assert_eq!(phones(&shop).await, [13, 13]);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_bucket_that_is_rebuilt_meanwhile_never_has_too_many_units() {
    for (from, to) in [(10, 16), (10, 4)] {
        let mut shop = front().await;
        begin(&shop, 1, (from, to), [1, 1]).await;
        let client = redis::Client::open(shop.config.redis.url.as_str()).expect("a client");
        let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
        let key = format!("{}{{drop.0}}:stock", shop.config.redis.key_prefix);
        let _: i64 = redis.del(key).await.expect("Redis");
        let worker = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
        // Whoever comes first: the rebuild, or the end of the adjustment. A shrink that meets a closed bucket ends
        // without a change. What is missing then is mended by the reconciler.
        eventually("it is open, and has what is right", async || {
            // What is not under way any more has come to its end when the stock is read.
            let is_over = !is_under_way(&shop).await;
            let phone = shop.stock("drop").await["phone"].clone();
            let is_open = !phone["buckets"].as_array().expect("buckets").contains(&Value::Null);
            if !is_open || !is_over {
                return false;
            }
            let configured = phone["configured"].as_u64().expect("a number");
            assert!(configured == u64::from(to) || to < from && configured == u64::from(from), "{phone}");
            assert!(phone["available"].as_u64() <= Some(configured), "{phone}");
            if phone["available"] != configured {
                let wish = json!({ "apply": true, "reason": "x" });
                shop.operate("POST", "/reconcile", wish).await;
            }
            phone["available"] == configured
        })
        .await;
        shop.stop().await;
        worker.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn units_that_go_are_had_from_the_instances_that_have_them() {
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let map = shop.config.shard_map().expect("a map");
    let is_first = |user: &UserId| map.instance_of(map.shard_of(user)) == Instance::FIRST;
    let users = (0..).map(|n| UserId::parse(&format!("u{n}")).expect("a user")).filter(is_first);
    // The first instance sells more than its own share, so both pools have given units to it.
    for user in users.take(8) {
        let order = shop.buy(user.as_str(), "drop", "phone", "k").await;
        shop.decided(user.as_str(), order.json()["id"].as_str().expect("an id")).await;
    }
    for (from, to) in [(10, 8), (8, 12), (12, 9)] {
        let body = json!({ "sku_id": "phone", "expected_stock": from, "stock": to, "reason": "x" });
        let adjusted = shop.operate("POST", "/sales/drop/stock/adjust", body).await;
        assert_eq!(adjusted.status, 200, "{from} to {to}: {adjusted:?}");
        let phone = shop.stock("drop").await["phone"].clone();
        assert_eq!((&phone["configured"], &phone["available"]), (&json!(to), &json!(to - 8)), "{phone}");
    }
    // Each pool has its share, and every grant is in the books.
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_shrink_that_one_process_refuses_is_done_by_no_other() {
    let shop = front().await;
    begin(&shop, 1, (10, 4), [1, 1]).await;
    let directory = Servers::of(&shop.config).directory();
    let servers = Servers::of(&shop.config);
    // One took units out of both buckets, decided that they are too few, and ended there.
    for bucket in [0, 1] {
        for round in [0, 1] {
            take(&shop, bucket, &format!("{}|{round}", "01".repeat(16)), -2).await;
        }
    }
    servers.execute(0, &format!("UPDATE {directory}.stock_adjustments SET phase = 'refused'")).await;
    assert_eq!(phones(&shop).await, [10, 2]);
    assert_eq!(finish(&shop).await, 1);
    assert_eq!(phones(&shop).await, [10, 10], "all of it is back");
    // Who comes late takes nothing, in a bucket that was not asked before, either.
    for bucket in [0, 1] {
        take(&shop, bucket, &format!("{}|0", "01".repeat(16)), -2).await;
    }
    assert_eq!(phones(&shop).await, [10, 10]);
    let rows = shop.operate("GET", "/audit?action=adjust_stock", Value::Null).await.json();
    assert_eq!(
        (&rows["rows"][0]["reason"], &rows["rows"][0]["subject"]["refused"]),
        (&json!("x"), &json!(true))
    );
    shop.finish().await;
}

/// Asks a bucket for units, as a process does that makes a stock smaller.
async fn take(shop: &TestShop, bucket: u16, id: &str, units: i64) {
    let client = redis::Client::open(shop.config.redis.url.as_str()).expect("a client");
    let mut redis = client.get_multiplexed_async_connection().await.expect("Redis");
    let script = redis::Script::new(include_str!("../../lua/adjust.lua"));
    let mut call = script.prepare_invoke();
    for part in ["gate", "stock", "received"] {
        call.key(format!("{}{{drop.{bucket}}}:{part}", shop.config.redis.key_prefix));
    }
    call.arg(id).arg("phone").arg(units).arg("");
    let _: Option<i64> = call.invoke_async(&mut redis).await.expect("Redis");
}

async fn end(mut shop: TestShop, worker: TestShop) {
    shop.stop().await;
    worker.finish().await;
}
