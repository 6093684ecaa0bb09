//! Streams of a shop of several processes: what one of them does, the streams of the others tell.

use seckill::app::Role;
use seckill::config::Mode;
use serde_json::json;

use crate::client::call;
use crate::harness::process::Process;
use crate::harness::{TestShop, config, eventually, migrated, open, remove, token};
use crate::own_redis::OwnRedis;
use crate::stream_client::{EventStream, own};

const PHONE: &[(&str, u32)] = &[("phone", 10)];

/// Starts a process that writes orders, and a front beside it.
async fn two_processes(flags: &[(&str, &str)]) -> (seckill::config::Config, TestShop, TestShop) {
    let config = config(Mode::Distributed, flags);
    migrated(&config).await;
    let writer = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    let front = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    writer.open_sale("drop", 2, PHONE).await;
    eventually("the front sells, too", async || {
        front.get("ada", "/api/v1/sales/drop").await.text.contains("\"live\"")
    })
    .await;
    (config, writer, front)
}

async fn bought(shop: &TestShop, user: &str, key: &str) -> String {
    let bought = shop.buy(user, "drop", "phone", key).await;
    assert_eq!(bought.status, 202, "{bought:?}");
    bought.json()["id"].as_str().expect("an id").to_owned()
}

async fn cancel(shop: &TestShop, user: &str, order: &str) {
    let bearer = format!("Bearer {}", token(user));
    let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "cancel")];
    let path = format!("/api/v1/orders/{order}/cancel");
    eventually("it can be cancelled", async || {
        call(shop.shopper, "POST", &path, &headers, "").await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_buyer_hears_of_what_another_process_does() {
    let (config, writer, mut front) = two_processes(&[]).await;
    let mut stream = own(&front, "ada", "&sale=drop").await;
    let first = bought(&front, "ada", "k1").await;
    // The writer of the other process has written it.
    stream.order(&first, "awaiting_payment").await;
    let second = bought(&writer, "ada", "k2").await;
    stream.order(&second, "awaiting_payment").await;
    cancel(&writer, "ada", &first).await;
    let event = stream.order(&first, "cancelled").await;
    assert_eq!(front.decided("ada", &first).await["status"], event.data["status"], "a read says the same");
    let paused = writer.operate("POST", "/sales/drop/pause", json!({ "reason": "x" })).await;
    assert_eq!(paused.status, 200);
    loop {
        let event = stream.next().await.expect("it is open");
        if event.name == "sale" && event.data["status"] == "paused" {
            break;
        }
    }
    drop(stream);
    front.stop().await;
    writer.finish().await;
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_process_that_may_have_missed_something_says_so_and_who_comes_again_loses_nothing() {
    let redis = OwnRedis::start(&[]).await;
    let url = redis.url();
    let (config, writer, mut front) = two_processes(&[("redis.url", &url)]).await;
    let order = bought(&front, "ada", "k").await;
    let mut stream = own(&front, "ada", "&sale=drop").await;
    let mut public = EventStream::open(front.shopper, "sale=drop", &[]).await.expect("a stream");
    let seen = stream.order(&order, "awaiting_payment").await.id;
    let mut kill = redis::cmd("CLIENT");
    let kill = kill.arg("KILL").arg("TYPE").arg("pubsub");
    let killed: i64 = kill.query_async(&mut redis.connection().await).await.expect("killed");
    assert!(killed >= 2, "{killed} processes heard");
    assert_eq!(stream.end().await, "missed");
    cancel(&writer, "ada", &order).await;
    let mut stream = None;
    eventually("the front hears again", async || {
        let ticket = crate::stream_client::ticket(&front, "ada").await;
        let query = format!("ticket={ticket}&last_event_id={seen}");
        stream = EventStream::open(front.shopper, &query, &[]).await.ok();
        stream.is_some()
    })
    .await;
    stream.expect("a stream").order(&order, "cancelled").await;
    // Of a sale everybody hears on: that is no announcement.
    let paused = writer.operate("POST", "/sales/drop/pause", json!({ "reason": "x" })).await;
    assert_eq!(paused.status, 200);
    loop {
        let event = public.next().await.expect("it is open");
        assert_ne!(event.name, "bye");
        if event.name == "sale" && event.data["status"] == "paused" {
            break;
        }
    }
    drop(public);
    front.stop().await;
    writer.finish().await;
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn while_redis_is_down_no_stream_of_orders_is_promised_and_orders_are_read_all_the_same() {
    let mut redis = OwnRedis::start(&[]).await;
    let url = redis.url();
    let (config, writer, mut front) = two_processes(&[("redis.url", &url)]).await;
    let order = bought(&front, "ada", "k").await;
    front.decided("ada", &order).await;
    let mut stream = own(&front, "ada", "").await;
    stream.order(&order, "awaiting_payment").await;
    redis.kill();
    assert_eq!(stream.end().await, "missed");
    let bearer = format!("Bearer {}", token("ada"));
    let refused =
        call(front.shopper, "POST", "/api/v1/stream-tickets", &[("Authorization", &bearer)], "").await;
    assert_eq!(refused.problem(), (503, "dependency_unavailable".to_owned()));
    let read = front.get("ada", &format!("/api/v1/orders/{order}")).await;
    assert_eq!((read.status, &read.json()["status"]), (200, &json!("awaiting_payment")), "{read:?}");
    redis.start_again().await;
    let mut stream = None;
    eventually("streams are promised again", async || {
        let headers = [("Authorization", bearer.as_str())];
        let given = call(front.shopper, "POST", "/api/v1/stream-tickets", &headers, "").await;
        if given.status != 201 {
            return false;
        }
        let query = format!("ticket={}", given.json()["ticket"].as_str().expect("a ticket"));
        stream = EventStream::open(front.shopper, &query, &[]).await.ok();
        stream.is_some()
    })
    .await;
    stream.expect("a stream").order(&order, "awaiting_payment").await;
    front.stop().await;
    writer.finish().await;
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn whoever_waits_for_an_order_is_told_when_a_process_has_died() {
    let (config, writer, mut front) = two_processes(&[]).await;
    let mut worker = Process::worker(&config).await;
    let order = bought(&front, "ada", "k").await;
    let mut stream = own(&front, "ada", "&sale=drop").await;
    let seen = stream.order(&order, "awaiting_payment").await.id;
    worker.kill();
    // It may have changed an order and told nobody.
    assert_eq!(stream.end().await, "missed");
    let ticket = crate::stream_client::ticket(&front, "ada").await;
    let query = format!("ticket={ticket}&last_event_id={seen}");
    let mut stream = EventStream::open(front.shopper, &query, &[]).await.expect("a stream");
    cancel(&writer, "ada", &order).await;
    stream.order(&order, "cancelled").await;
    drop(stream);
    front.stop().await;
    writer.finish().await;
    remove(&config).await;
}
