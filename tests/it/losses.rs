//! Loses Redis in every way, under load, at random moments. The sale goes on, its books are right, and nobody has a
//! unit that somebody else has.
//!
//! A run loses it once in each way. `scripts/losses` repeats that, with more orders, and prints what it has seen.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rand::Rng;
use seckill::app::Role;
use seckill::config::Mode;

use crate::harness::{TestShop, config, eventually, migrated, open, sale_body};
use crate::own_redis::OwnRedis;
use crate::proxy::{Proxy, Weather};

/// Buyers at a time, half of them at each front.
const BUYERS: usize = 8;
/// More than are sold.
const STOCK: u32 = 1_000_000;
/// How soon a sale goes on when its Redis is back. docs/operations.md promises it on a machine that does nothing else;
/// this one runs other tests.
const GOES_ON_WITHIN: Duration = Duration::from_secs(15);

/// Reads a number that only `scripts/losses` sets.
#[expect(clippy::disallowed_methods, reason = "a test's own switch is no configuration of the product")]
fn asked(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a whole number"))
}

fn at_random(ms: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rand::rng().random_range(ms))
}

/// What a buyer was told of an order that was accepted.
struct Told {
    user: String,
    id: String,
    status: String,
}

/// A shop with workers, and a front that reaches Redis through a proxy.
struct Scene {
    way: Proxy,
    shop: TestShop,
    front: TestShop,
    told: Mutex<Vec<Told>>,
}

impl Scene {
    async fn start(redis: &OwnRedis) -> Self {
        let way = Proxy::start(0, redis.address()).await;
        // Some answers do not wait for the order log: those orders are what can be lost.
        let config =
            config(Mode::Distributed, &[("redis.url", &redis.url()), ("admission.append_wait_ms", "2")]);
        migrated(&config).await;
        let shop = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
        let mut behind = config.clone();
        behind.redis.url = format!("redis://{}", way.address);
        let front = TestShop::start_on(behind.clone(), open(&behind).await, Role::Api).await;
        let mut body = sale_body("drop", 1, &[("phone", STOCK)]);
        body["buckets"] = serde_json::json!(4);
        crate::harness::open_sale(shop.admin, body).await;
        let scene = Self { way, shop, front, told: Mutex::default() };
        scene.sell_before(asked("SECKILL_LOSS_ORDERS", 100)).await;
        scene
    }

    /// Sells so many units while nothing is wrong.
    async fn sell_before(&self, orders: usize) {
        let streams = 32;
        join_all((0..streams).map(async |stream| {
            for n in (stream..orders).step_by(streams) {
                self.buy(&self.shop, &format!("before-{n}")).await;
            }
        }))
        .await;
        let written = async || self.shop.stage().orders("awaiting_payment").await;
        let all = i64::try_from(orders).expect("a number");
        eventually("what was sold before is written", async || written().await >= all).await;
        self.told.lock().expect("not poisoned").clear();
    }

    /// Buys one unit, and keeps what was told. Answers whether the order was accepted.
    async fn buy(&self, shop: &TestShop, user: &str) -> bool {
        let answer = shop.buy(user, "drop", "phone", "k").await;
        if answer.status >= 300 {
            // Nobody hears that anything is sold out, or that there is a limit.
            assert!(matches!(answer.status, 503 | 504), "{answer:?}");
            return false;
        }
        let text = |name: &str| answer.json()[name].as_str().expect("a text").to_owned();
        let told = Told { user: user.to_owned(), id: text("id"), status: text("status") };
        self.told.lock().expect("not poisoned").push(told);
        true
    }

    /// Buys until told to stop, always as another user.
    async fn crowd(&self, round: usize, stop: &AtomicBool) {
        join_all((0..BUYERS).map(async |buyer| {
            let shop = if buyer % 2 == 0 { &self.shop } else { &self.front };
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                if !self.buy(shop, &format!("r{round}-b{buyer}-{n}")).await {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }))
        .await;
    }

    /// Buys at a front until all of so many buyers are accepted that every bucket has some.
    async fn goes_on(&self, shop: &TestShop, name: &str) {
        let mut n = 0;
        eventually("everybody buys again", async || {
            n += 1;
            let buyers: Vec<String> = (0..32).map(|buyer| format!("{name}-{n}-{buyer}")).collect();
            join_all(buyers.iter().map(|buyer| self.buy(shop, buyer))).await.iter().all(|accepted| *accepted)
        })
        .await;
    }

    /// Finds out what became of every order that was accepted. Answers how many were lost and how many rejected.
    async fn reckon(&self) -> (usize, usize) {
        let told = std::mem::take(&mut *self.told.lock().expect("not poisoned"));
        let (mut lost, mut rejected) = (Vec::new(), 0);
        for order in told {
            let answer = self.shop.get(&order.user, &format!("/api/v1/orders/{}?wait=5", order.id)).await;
            if answer.status == 404 {
                // Only what the order log is not known to have can be lost, and its buyer hears so.
                assert_eq!(order.status, "reserved", "{answer:?}");
                lost.push(order);
                continue;
            }
            let now = answer.json()["status"].as_str().expect("a status").to_owned();
            assert!(matches!(now.as_str(), "awaiting_payment" | "rejected"), "{answer:?}");
            rejected += usize::from(now == "rejected");
        }
        for order in &lost {
            let again = self.shop.buy(&order.user, "drop", "phone", "k").await;
            assert_eq!(
                (again.status, again.json()["id"].as_str()),
                (202, Some(order.id.as_str())),
                "{again:?}"
            );
        }
        (lost.len(), rejected)
    }
}

/// Loses Redis under load, as often as asked. `lose` comes back when a server answers again. Returns what was seen, a
/// line each time.
async fn survives(kind: &str, lose: impl AsyncFn(&mut OwnRedis, &Proxy)) -> String {
    let mut seen = String::new();
    for round in 0..asked("SECKILL_LOSSES", 1) {
        let mut redis = OwnRedis::start(&[]).await;
        let (scene, stop) = (Scene::start(&redis).await, AtomicBool::new(false));
        let loss = async {
            tokio::time::sleep(at_random(300..2500)).await;
            lose(&mut redis, &scene.way).await;
            let back = Instant::now();
            scene.goes_on(&scene.shop, "probe").await;
            let took = back.elapsed();
            scene.goes_on(&scene.front, "cut-off").await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            stop.store(true, Ordering::Relaxed);
            took
        };
        let (took, ()) = tokio::join!(loss, scene.crowd(round, &stop));
        let accepted = scene.told.lock().expect("not poisoned").len();
        let (lost, rejected) = scene.reckon().await;
        let took_ms = took.as_millis();
        seen += &format!(
            "{kind}: {accepted} accepted, {lost} lost, {rejected} rejected, on after {took_ms} ms
"
        );
        assert!(took <= GOES_ON_WITHIN, "{kind}: {took:?}");
        let Scene { shop, mut front, .. } = scene;
        front.stop().await;
        shop.finish().await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_restart_with_everything() {
    let seen = Box::pin(survives("restarted", async |redis, _| {
        redis.kill();
        redis.start_again().await;
    }));
    println!("{}", seen.await);
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_restart_with_a_file_that_was_cut_off() {
    let seen = Box::pin(survives("cut off", async |redis, _| {
        redis.kill();
        redis.truncate(rand::rng().random_range(1..200_000));
        redis.start_again().await;
    }));
    println!("{}", seen.await);
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_restart_with_nothing() {
    let seen = Box::pin(survives("emptied", async |redis, _| {
        redis.kill();
        redis.lose_data();
        redis.start_again().await;
    }));
    println!("{}", seen.await);
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_restart_with_an_older_copy() {
    let seen = Box::pin(survives("older copy", async |redis, _| {
        redis.keep_copy();
        tokio::time::sleep(at_random(100..2000)).await;
        redis.kill();
        redis.restore_copy();
        redis.start_again().await;
    }));
    println!("{}", seen.await);
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_replica_that_was_behind_takes_over() {
    let seen = Box::pin(survives("replica", async |redis, _| {
        let mut replica = redis.replica().await;
        tokio::time::sleep(at_random(100..1000)).await;
        replica.promote().await;
        tokio::time::sleep(at_random(50..1000)).await;
        redis.kill();
        replica.take_port_of(redis).await;
        *redis = replica;
    }));
    println!("{}", seen.await);
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_server_that_was_frozen() {
    let seen = Box::pin(survives("frozen", async |redis, _| {
        redis.pause();
        tokio::time::sleep(Duration::from_secs(10)).await;
        redis.resume();
    }));
    println!("{}", seen.await);
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_front_that_was_cut_off_meanwhile() {
    let seen = Box::pin(survives("cut-off front", async |redis, way| {
        way.set(Weather::Cut);
        redis.kill();
        redis.lose_data();
        redis.start_again().await;
        tokio::time::sleep(at_random(1000..5000)).await;
        way.set(Weather::Fair);
    }));
    println!("{}", seen.await);
}
