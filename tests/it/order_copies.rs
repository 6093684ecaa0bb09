//! Tests of the copies of orders that processes share: how many there are, who makes them, and that nobody reads what
//! is past for more than a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::order_life::OrderEvent;
use seckill::domain::{Mover, Order, OrderId, WholeOrder};
use seckill::ports::{Copied, OrderCopies, Ports};
use tokio::sync::Mutex;

use crate::harness::{TestShop, config, eventually, migrated, open};

/// How many sets of copies there are.
const SETS: u64 = 16_384;
/// How old what anybody reads may be.
const LATE_MAX: Duration = Duration::from_secs(1);

async fn shop_and_ports(flags: &[(&str, &str)]) -> (TestShop, Ports) {
    let config = config(Mode::Distributed, flags);
    migrated(&config).await;
    let shop = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    shop.open_sale("drop", 99, &[("phone", 500)]).await;
    let ports = open(&config).await;
    (shop, ports)
}

fn copies(ports: &Ports) -> Arc<dyn OrderCopies> {
    ports.order_copies.clone().expect("copies")
}

/// Buys a unit, and reads its order as the database has it.
async fn bought(shop: &TestShop, ports: &Ports, key: &str) -> WholeOrder {
    let id = shop.unpaid("ada", key).await;
    let order: Order =
        ports.orders.order(OrderId::parse(&id).expect("an id")).await.expect("read").expect("a row");
    WholeOrder::from(order)
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn one_makes_the_copy_and_whoever_changes_the_order_takes_that_right_away() {
    let (shop, ports) = shop_and_ports(&[]).await;
    let copies = copies(&ports);
    let whole = bought(&shop, &ports, "k").await;
    let id = whole.order.id;
    copies.forget(&[id]).await.expect("forgotten");
    let Copied::Wanted(number) = copies.read(id).await.expect("read") else { panic!("nobody makes it") };
    assert_eq!(copies.read(id).await.expect("read"), Copied::Awaited, "one makes it");
    assert!(!copies.keep(number ^ 1, &whole).await.expect("kept"), "another number");
    assert!(copies.keep(number, &whole).await.expect("kept"));
    assert_eq!(copies.read(id).await.expect("read"), Copied::Found(Box::new(whole.clone())));
    assert!(!copies.keep(number, &whole).await.expect("kept"), "it was made");
    copies.forget(&[id]).await.expect("forgotten");
    let Copied::Wanted(early) = copies.read(id).await.expect("read") else { panic!("nobody makes it") };
    copies.forget(&[id]).await.expect("forgotten");
    assert!(!copies.keep(early, &whole).await.expect("kept"), "it was read before the change");
    assert!(matches!(copies.read(id).await.expect("read"), Copied::Wanted(_)));
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn there_are_at_most_as_many_copies_as_there_may_be() {
    const MAX: usize = 4;
    let (shop, ports) = shop_and_ports(&[]).await;
    let copies = copies(&ports);
    let whole = bought(&shop, &ports, "k").await;
    let mut kept = 0;
    // Orders of one set: the last bytes of their ids say which.
    let other = |number: u64| {
        let mut bytes = *whole.order.id.bytes();
        bytes[8..].copy_from_slice(&(number * SETS + 7).to_be_bytes());
        OrderId::from_bytes(&bytes).expect("an id")
    };
    let found = async || {
        let mut found = 0;
        for number in 0..100 {
            found += usize::from(copies.find(other(number)).await.expect("read").is_some());
        }
        found
    };
    // Four make copies at a time, and all of them are done.
    for first in (0..100).step_by(MAX) {
        let mut making = Vec::new();
        for number in first..first + 4 {
            let order = Order { id: other(number), ..whole.order.clone() };
            let Copied::Wanted(number) = copies.read(order.id).await.expect("read") else {
                panic!("{number}")
            };
            making.push((number, WholeOrder::from(order)));
        }
        assert_eq!(copies.read(other(1_000)).await.expect("read"), Copied::Awaited, "so many make one");
        for (number, whole) in making {
            kept += usize::from(copies.keep(number, &whole).await.expect("kept"));
        }
        assert_eq!(found().await, MAX, "who only asks pushes none out");
    }
    assert_eq!(kept, 100);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_copy_that_nobody_removed_goes_when_the_event_is_read() {
    let (shop, ports) = shop_and_ports(&[]).await;
    let whole = bought(&shop, &ports, "k").await;
    let id = whole.order.id;
    assert_eq!(shop.status("ada", &id.to_string()).await, "awaiting_payment");
    assert!(copies(&ports).find(id).await.expect("read").is_some(), "there is a copy");
    // These ports forget nothing, as a process that dies after its change.
    ports.order_changes.change(id, OrderEvent::Cancel, &Mover::BUYER).await.expect("cancelled");
    eventually("the buyer reads it", async || shop.status("ada", &id.to_string()).await == "cancelled").await;
    shop.finish().await;
}

/// An order that somebody changes, and when that was done.
struct Watched {
    id: String,
    changed: Mutex<Option<Instant>>,
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn nobody_reads_what_is_past_for_more_than_a_second() {
    let (shop, _) = shop_and_ports(&[]).await;
    let front = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::Api).await;
    let mut orders = Vec::new();
    for number in 0..40 {
        orders
            .push(Watched { id: shop.unpaid("ada", &format!("k{number}")).await, changed: Mutex::default() });
    }
    let (is_over, reads, late) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let read = async |of: &TestShop, from: usize| {
        let mut at = from;
        while !is_over.load(Ordering::Relaxed) {
            at = (at + 7) % orders.len();
            let watched = &orders[at];
            let must_know = watched.changed.lock().await.is_some_and(|changed| changed.elapsed() > LATE_MAX);
            let is_past = of.status("ada", &watched.id).await != "cancelled";
            reads.fetch_add(1, Ordering::Relaxed);
            late.fetch_add(usize::from(must_know && is_past), Ordering::Relaxed);
        }
    };
    let change = async {
        for watched in &orders {
            assert_eq!(shop.act("ada", &watched.id, "cancel").await.status, 200);
            *watched.changed.lock().await = Some(Instant::now());
            assert_eq!(shop.status("ada", &watched.id).await, "cancelled", "who changed it reads it changed");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(LATE_MAX * 2).await;
        is_over.store(true, Ordering::Relaxed);
    };
    futures::join!(change, read(&front, 0), read(&front, 11), read(&front, 23), read(&shop, 5));
    let (reads, late) = (reads.into_inner(), late.into_inner());
    assert!(reads > 500, "only {reads} reads");
    assert_eq!(late, 0, "of {reads} reads");
    let mut front = front;
    front.stop().await;
    shop.finish().await;
}
