//! Redis loses everything in the moment in which a front dies: what only both of them knew is gone, and its buyers hear
//! so.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::binary::{Process, add_key};
use crate::client::try_call;
use crate::harness::{Books, assert_kept, eventually, open_sale, place, sale_body, token};
use crate::proxy::Weather;
use crate::world::World;

/// How long an append takes here, at most: each way through the proxy, and a moment for the broker.
const APPEND: Duration = Duration::from_millis(1000);
const BUYERS: usize = 8;

/// An order that was accepted.
struct Told {
    user: String,
    id: String,
    status: String,
    at: Instant,
}

async fn click(front: &Process, user: &str) -> Option<(u16, serde_json::Value)> {
    let bearer = format!("Bearer {}", token(user));
    let headers =
        [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("Idempotency-Key", "k")];
    let body = r#"{"sku_id":"phone","quantity":1}"#;
    let answer = try_call(front.shopper, "POST", "/api/v1/sales/drop/orders", &headers, body).await?;
    Some((answer.status, answer.json()))
}

/// Buys as one user after the other until the front is gone.
async fn buy(front: &Process, buyer: usize, stop: &AtomicBool, told: &Mutex<Vec<Told>>) {
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let user = format!("u{buyer}-{n}");
        let Some((202, order)) = click(front, &user).await else { continue };
        let text = |name: &str| order[name].as_str().expect("a text").to_owned();
        let order = Told { user, id: text("id"), status: text("status"), at: Instant::now() };
        told.lock().expect("not poisoned").push(order);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_a_dead_front_and_a_lost_redis_knew_alone_are_few_and_their_buyers_hear_it() {
    let world = World::new(&[]).await;
    add_key(&world.config).await;
    let front = Process::start(&world.config, "api").await;
    let _worker = Process::start(&world.config, "worker").await;
    open_sale(front.admin, sale_body("drop", 1, &[("phone", 1_000_000)])).await;
    // Answers do not wait for so slow an order log: they say `reserved`.
    world.kafka.set(Weather::Slow(Duration::from_millis(300)));
    let (told, stop) = (Mutex::new(Vec::<Told>::new()), AtomicBool::new(false));
    let loss = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        front.signal("-KILL");
        let died = Instant::now();
        world.lose_keys().await;
        stop.store(true, Ordering::Relaxed);
        died
    };
    let crowd = join_all((0..BUYERS).map(|buyer| buy(&front, buyer, &stop, &told)));
    let (died, _) = tokio::join!(loss, crowd);
    world.kafka.set(Weather::Fair);
    let front = Process::start(&world.config, "api").await;
    eventually("the sale goes on", async || {
        click(&front, "late").await.is_some_and(|(status, _)| matches!(status, 200 | 202))
    })
    .await;
    let told = told.into_inner().expect("not poisoned");
    let moment = told.iter().filter(|order| died.saturating_duration_since(order.at) <= APPEND).count();
    let mut lost = Vec::new();
    for order in &told {
        let bearer = format!("Bearer {}", token(&order.user));
        let path = format!("/api/v1/orders/{}?wait=5", order.id);
        let answer = try_call(front.shopper, "GET", &path, &[("Authorization", &bearer)], "").await;
        let answer = answer.expect("an answer");
        if answer.status == 404 {
            assert_eq!(order.status, "reserved", "{answer:?}");
            assert!(died.saturating_duration_since(order.at) <= APPEND, "it was known for long: {answer:?}");
            lost.push(order);
        } else {
            assert_eq!(answer.json()["status"], "awaiting_payment", "{answer:?}");
        }
    }
    println!("{} accepted, {moment} within {APPEND:?} before the loss, {} lost", told.len(), lost.len());
    assert!(!lost.is_empty() && lost.len() <= moment, "the test loses orders, and no more than these");
    for order in &lost {
        let body = r#"{"sku_id":"phone","quantity":1}"#;
        let again = place(front.shopper, &order.user, "drop", ("k", body), &[]).await;
        let id = again.json()["id"].as_str().expect("an id").to_owned();
        assert_eq!((again.status, &id), (202, &order.id), "the same click makes the same order: {again:?}");
    }
    assert_kept(&world.config, None, Books::LeftAlone).await;
    drop(front);
    world.finish().await;
}
