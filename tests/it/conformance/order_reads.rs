//! Tests of many who read orders: they cost the database little, and nobody reads what is past.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::{Month, Order, OrderCursor, OrderId, UserId};
use seckill::ports::{Orders, StoreResult};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::doors::bearer;
use crate::harness::{TestShop, config, eventually, migrated, open, token};

/// How many reads pass at once.
const GATE: usize = 64;

in_both_modes!(
    many_readers_of_one_order_make_one_read,
    who_changes_an_order_reads_it_changed,
    an_order_is_found_though_nobody_found_it_a_moment_before,
    a_reader_who_has_gone_leaves_no_read_behind,
);

/// Counts the reads of rows, and lets them pass.
struct Counted {
    of: Arc<dyn Orders>,
    reads: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

#[async_trait]
impl Orders for Counted {
    async fn order(&self, order: OrderId) -> StoreResult<Option<Order>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let _passing = self.gate.acquire().await.expect("a gate");
        let row = self.of.order(order).await;
        self.ended.fetch_add(1, Ordering::Relaxed);
        row
    }

    async fn is_dead_letter(&self, order: OrderId) -> StoreResult<bool> {
        self.of.is_dead_letter(order).await
    }

    async fn orders_of(
        &self,
        user: &UserId,
        months: &[Month],
        below: Option<OrderCursor>,
        limit: u32,
    ) -> StoreResult<Vec<Order>> {
        self.of.orders_of(user, months, below, limit).await
    }

    async fn holds_month(&self, month: Month) -> StoreResult<bool> {
        self.of.holds_month(month).await
    }
}

/// Starts a shop that has sold one unit, and counts its reads of rows.
async fn counted(mode: Mode) -> (TestShop, String, Arc<AtomicUsize>) {
    let (shop, order, Counts { reads, .. }) = gated(mode).await;
    (shop, order, reads)
}

/// What is known of reads.
struct Counts {
    reads: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

/// Starts a shop as [`counted`] does, whose reads pass a gate.
async fn gated(mode: Mode) -> (TestShop, String, Counts) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let mut ports = open(&config).await;
    let (reads, ended, gate) = (Arc::default(), Arc::default(), Arc::new(Semaphore::new(GATE)));
    let counts = Counts { reads: Arc::clone(&reads), ended: Arc::clone(&ended), gate: gate.clone() };
    ports.orders = Arc::new(Counted { of: ports.orders, reads, ended, gate });
    let shop = TestShop::start_on(config, ports, Role::All).await;
    shop.open_sale("drop", 9, &[("phone", 50)]).await;
    let order = shop.unpaid("ada", "k").await;
    (shop, order, counts)
}

async fn a_reader_who_has_gone_leaves_no_read_behind(mode: Mode) {
    let (shop, order, counts) = gated(mode).await;
    // Nobody remembers an order that there is not.
    let other = if order.ends_with('0') { "1" } else { "0" };
    let absent = format!("{}{other}", &order[..order.len() - 1]);
    let shut = counts.gate.acquire_many(u32::try_from(GATE).expect("small")).await.expect("a gate");
    let before = counts.reads.load(Ordering::Relaxed);
    let mut reader = TcpStream::connect(shop.shopper).await.expect("connected");
    let head = format!(
        "GET /api/v1/orders/{absent} HTTP/1.1\r\nHost: t\r\nAuthorization: {}\r\n\r\n",
        bearer(&token("ada"))
    );
    reader.write_all(head.as_bytes()).await.expect("sent");
    eventually("it is being read", async || counts.reads.load(Ordering::Relaxed) > before).await;
    drop(reader);
    // Nothing tells when the server has heard of it and given the request up.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(shut);
    let is_even = || counts.reads.load(Ordering::Relaxed) == counts.ended.load(Ordering::Relaxed);
    eventually("every read has come to its end", async || is_even()).await;
    shop.finish().await;
}

async fn many_readers_of_one_order_make_one_read(mode: Mode) {
    let (shop, order, reads) = counted(mode).await;
    let before = reads.load(Ordering::Relaxed);
    for _ in 0..20 {
        let readers = (0..10).map(|_| shop.status("ada", &order));
        for status in futures::future::join_all(readers).await {
            assert_eq!(status, "awaiting_payment");
        }
    }
    let (made, of) = (reads.load(Ordering::Relaxed) - before, 200);
    // What was read is answered for 0.3 s at least, however slow the machine is.
    assert!(made <= of / 10, "{made} reads of the database for {of} answers");
    shop.finish().await;
}

async fn who_changes_an_order_reads_it_changed(mode: Mode) {
    let (shop, _, _) = counted(mode).await;
    for number in 0..10 {
        let (user, key) = (format!("u{number}"), "k");
        let order = shop.unpaid(&user, key).await;
        let path = format!("/api/v1/orders/{order}");
        // Others read it all the time.
        let others = async {
            for _ in 0..20 {
                shop.get(&user, &path).await;
            }
        };
        let changes = async {
            shop.status(&user, &order).await;
            assert_eq!(shop.act(&user, &order, "cancel").await.status, 200);
            assert_eq!(shop.status(&user, &order).await, "cancelled");
        };
        futures::join!(others, changes);
    }
    shop.finish().await;
}

async fn an_order_is_found_though_nobody_found_it_a_moment_before(mode: Mode) {
    let (shop, order, _) = counted(mode).await;
    let bought = shop.buy("bob", "drop", "phone", "a-key-of-bob").await.json();
    let next = bought["id"].as_str().expect("an id").to_owned();
    // The id of an order follows from its key, so it can be asked for before the order is there.
    let other = TestShop::start(mode).await;
    other.open_sale("drop", 9, &[("phone", 50)]).await;
    assert_eq!(other.get("bob", &format!("/api/v1/orders/{next}")).await.status, 404);
    other.buy("bob", "drop", "phone", "a-key-of-bob").await;
    assert_eq!(other.decided("bob", &next).await["status"], "awaiting_payment");
    assert_ne!(order, next);
    other.finish().await;
    shop.finish().await;
}
