//! One port is broken at a time, before or after its effect. The tests check what shoppers are told, and that nothing
//! is lost.

use seckill::config::Mode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
#[cfg(feature = "distributed")]
use futures::future::join_all;
use seckill::app::Role;
use seckill::domain::reservation::{ReleaseRequest, Released, Reservation, ReserveRequest, Verdict};
use seckill::domain::{BucketId, Decision, OrderId, OrderRecord, Part, SaleId, UserId};
use seckill::ports::{
    Effect, ErrorKind, Inventory, LogIdentity, Offsets, OrderLog, OrderLogReader, Outbox, StoreError,
    StoreResult, Wake,
};
use serde_json::json;
use tokio::sync::Notify;

#[cfg(feature = "distributed")]
use crate::client::Answer;
use crate::client::call;
#[cfg(feature = "distributed")]
use crate::harness::remove;
use crate::harness::{TestShop, config, eventually, migrated, open};

in_both_modes!(
    an_accepted_order_whose_produce_was_lost_still_arrives,
    a_produce_that_arrived_without_its_answer_is_one_order,
    a_reservation_without_an_answer_is_asked_again_and_taken_once,
    an_unknown_outcome_says_so_and_the_same_key_finds_the_order,
    while_purchases_find_no_room_lists_and_waits_are_left_out,
);

fn fault(effect: Effect) -> StoreError {
    StoreError { kind: ErrorKind::Unavailable, effect, context: "a test's fault", source: "injected".into() }
}

/// An order log whose appends fail while `failing` is set, with or without their effect. All of them fail, or those of
/// half the orders.
struct FaultyLog {
    inner: Arc<dyn OrderLog>,
    failing: AtomicBool,
    spares_half: bool,
    after_effect: bool,
    /// Appends wait here.
    held: Option<Arc<Held>>,
}

/// Where appends wait until they are let go, one after the other.
#[derive(Default)]
struct Held {
    has_come: AtomicBool,
    go: Notify,
}

impl FaultyLog {
    /// A log that is well, but for appends that wait.
    fn held(inner: Arc<dyn OrderLog>) -> (Arc<Self>, Arc<Held>) {
        let held = Arc::new(Held::default());
        let failing = AtomicBool::new(false);
        let log = Self { inner, failing, spares_half: false, after_effect: false, held: Some(held.clone()) };
        (Arc::new(log), held)
    }
}

/// Returns whether an order is of the half whose appends fail.
fn is_unlucky(order: OrderId) -> bool {
    order.bytes()[15].is_multiple_of(2)
}

#[async_trait]
impl OrderLog for FaultyLog {
    async fn append(&self, order: OrderId, payload: Vec<u8>) -> StoreResult<()> {
        if let Some(held) = &self.held {
            held.has_come.store(true, Ordering::SeqCst);
            held.go.notified().await;
        }
        if !self.failing.load(Ordering::SeqCst) || self.spares_half && !is_unlucky(order) {
            return self.inner.append(order, payload).await;
        }
        if self.after_effect {
            self.inner.append(order, payload).await?;
        }
        Err(fault(Effect::Unknown))
    }

    async fn append_imported(&self, records: &[OrderRecord]) -> StoreResult<()> {
        self.inner.append_imported(records).await
    }

    async fn identity(&self) -> StoreResult<LogIdentity> {
        self.inner.identity().await
    }

    async fn offsets_in_reach(&self, parts: &[Part]) -> StoreResult<Offsets> {
        self.inner.offsets_in_reach(parts).await
    }

    async fn flush(&self, timeout: Duration) -> StoreResult<()> {
        self.inner.flush(timeout).await
    }

    fn reader(&self, wake: Wake) -> StoreResult<Box<dyn OrderLogReader>> {
        self.inner.reader(wake)
    }
}

/// An inventory whose reservations take effect and lose their first answers.
struct ForgetfulInventory {
    inner: Arc<dyn Inventory>,
    forget: AtomicBool,
    for_good: bool,
}

#[async_trait]
impl Inventory for ForgetfulInventory {
    async fn reserve(&self, bucket: &BucketId, batch: Arc<[ReserveRequest]>) -> StoreResult<Vec<Verdict>> {
        let verdicts = self.inner.reserve(bucket, batch).await?;
        let forget = if self.for_good {
            self.forget.load(Ordering::SeqCst)
        } else {
            self.forget.swap(false, Ordering::SeqCst)
        };
        if forget { Err(fault(Effect::Unknown)) } else { Ok(verdicts) }
    }

    async fn reservation(&self, buckets: &[BucketId], order: OrderId) -> StoreResult<Option<Reservation>> {
        self.inner.reservation(buckets, order).await
    }

    async fn winners(&self, bucket: &BucketId) -> StoreResult<Vec<UserId>> {
        self.inner.winners(bucket).await
    }

    async fn mark_decided(&self, bucket: &BucketId, decided: &[Decision]) -> StoreResult<()> {
        self.inner.mark_decided(bucket, decided).await
    }

    async fn release(&self, bucket: &BucketId, orders: &[ReleaseRequest]) -> StoreResult<Released> {
        self.inner.release(bucket, orders).await
    }
}

async fn shop_with_log(
    mode: Mode,
    after_effect: bool,
    spares_half: bool,
) -> (TestShop, Arc<FaultyLog>, Arc<dyn Outbox>) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let mut backend = open(&config).await;
    let log = Arc::new(FaultyLog {
        inner: backend.order_log.clone(),
        failing: AtomicBool::new(true),
        spares_half,
        after_effect,
        held: None,
    });
    backend.order_log = log.clone();
    let outbox = backend.outbox.clone();
    (TestShop::start_on(config, backend, Role::All).await, log, outbox)
}

async fn an_accepted_order_whose_produce_was_lost_still_arrives(mode: Mode) {
    let (shop, log, _) = shop_with_log(mode, false, false).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let answer = shop.buy("alice", "drop", "phone", "k").await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (202, Some("reserved")));
    assert_eq!(shop.stock("drop").await["phone"]["available"], 4, "the front never gives stock back");
    log.failing.store(false, Ordering::SeqCst);
    let id = answer.json()["id"].as_str().expect("id").to_owned();
    assert_eq!(shop.decided("alice", &id).await["status"], "awaiting_payment");
    assert_eq!(shop.stage().orders("awaiting_payment").await, 1);
    shop.finish().await;
}

async fn a_produce_that_arrived_without_its_answer_is_one_order(mode: Mode) {
    let (shop, log, outbox) = shop_with_log(mode, true, false).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let answer = shop.buy("alice", "drop", "phone", "k").await;
    assert_eq!(answer.json()["status"], "reserved");
    let id = answer.json()["id"].as_str().expect("id").to_owned();
    assert_eq!(shop.decided("alice", &id).await["status"], "awaiting_payment");
    // The relay delivers it again and again until it is acknowledged.
    log.failing.store(false, Ordering::SeqCst);
    let sale = SaleId::parse("drop").expect("slug");
    let bucket = BucketId { sale, bucket: 0 };
    eventually("the outbox is empty", async || outbox.len(&bucket).await.expect("a length") == 0).await;
    assert_eq!(shop.stage().orders("awaiting_payment").await, 1);
    assert_eq!(shop.stock("drop").await["phone"]["held"], 1);
    shop.finish().await;
}

#[cfg(feature = "distributed")]
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_purchase_whose_client_has_gone_is_finished_before_the_process_ends() {
    let config = config(Mode::Distributed, &[("admission.append_wait_ms", "1")]);
    migrated(&config).await;
    let mut backend = open(&config).await;
    let (log, held) = FaultyLog::held(backend.order_log);
    backend.order_log = log;
    let outbox = backend.outbox.clone();
    // A front alone: nobody else delivers what it leaves.
    let mut shop = TestShop::start_on(config.clone(), backend, Role::Api).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let answer = shop.buy("alice", "drop", "phone", "k").await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (202, Some("reserved")));
    let shopper = shop.shopper;
    let append_at_the_end = async {
        let is_closed = async || tokio::net::TcpStream::connect(shopper).await.is_err();
        eventually("nobody is let in any more", is_closed).await;
        held.go.notify_one();
    };
    tokio::join!(shop.stop(), append_at_the_end);
    let bucket = BucketId { sale: SaleId::parse("drop").expect("slug"), bucket: 0 };
    assert_eq!(outbox.len(&bucket).await.expect("a length"), 0, "it is in the log, and acknowledged");
    remove(&config).await;
}

/// Orders of one reserve call share an outbox entry: it must stay until the last of them is in the log.
#[cfg(feature = "distributed")]
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_order_whose_neighbours_in_the_outbox_are_delivered_still_arrives() {
    const BUYERS: usize = 200;
    let (shop, log, outbox) = shop_with_log(Mode::Distributed, false, true).await;
    shop.open_sale("drop", 1, &[("phone", 200)]).await;
    let users: Vec<String> = (0..BUYERS).map(|n| format!("u{n}")).collect();
    let answers = join_all(users.iter().map(|user| shop.buy(user, "drop", "phone", "k"))).await;
    assert!(answers.iter().all(|answer| answer.status == 202), "{answers:?}");
    let id =
        |answer: &Answer| answer.json()["id"].as_str().and_then(|id| OrderId::parse(id).ok()).expect("an id");
    let unlucky = answers.iter().filter(|answer| is_unlucky(id(answer))).count();
    assert!((1..BUYERS).contains(&unlucky), "{unlucky} of {BUYERS}");

    let bucket = BucketId { sale: SaleId::parse("drop").expect("slug"), bucket: 0 };
    let pending = async || outbox.pending(&bucket, Duration::ZERO, BUYERS).await.expect("Redis");
    let waiting = async || pending().await.iter().map(|entry| entry.waiting.len()).sum::<usize>();
    eventually("only the unlucky wait", async || waiting().await == unlucky).await;
    let entries = pending().await;
    assert!(entries.len() < unlucky, "no two of {unlucky} shared one of {} entries", entries.len());
    assert!(entries.iter().flat_map(|entry| &entry.waiting).all(|held| is_unlucky(held.id)), "{entries:?}");
    assert!(outbox.len(&bucket).await.expect("Redis") > 0);

    log.failing.store(false, Ordering::SeqCst);
    let database = shop.stage();
    eventually("all are written", async || database.orders("awaiting_payment").await == 200).await;
    eventually("the outbox is empty", async || outbox.len(&bucket).await.expect("Redis") == 0).await;
    assert!(pending().await.is_empty());
    shop.finish().await;
}

async fn shop_with_inventory(mode: Mode, for_good: bool) -> (TestShop, Arc<ForgetfulInventory>) {
    let config = config(mode, &[]);
    migrated(&config).await;
    let mut backend = open(&config).await;
    let inventory = Arc::new(ForgetfulInventory {
        inner: backend.inventory.clone(),
        forget: AtomicBool::new(true),
        for_good,
    });
    backend.inventory = inventory.clone();
    (TestShop::start_on(config, backend, Role::All).await, inventory)
}

async fn a_reservation_without_an_answer_is_asked_again_and_taken_once(mode: Mode) {
    let (shop, _) = shop_with_inventory(mode, false).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let answer = shop.buy("alice", "drop", "phone", "k").await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(shop.stock("drop").await["phone"]["available"], 4);
    let id = answer.json()["id"].as_str().expect("id").to_owned();
    assert_eq!(shop.decided("alice", &id).await["status"], "awaiting_payment");
    shop.finish().await;
}

async fn an_unknown_outcome_says_so_and_the_same_key_finds_the_order(mode: Mode) {
    let (shop, inventory) = shop_with_inventory(mode, true).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let answer = shop.buy("alice", "drop", "phone", "k").await;
    assert_eq!(answer.problem(), (504, "outcome_unknown".to_owned()));
    assert_eq!(answer.json()["retryable"], true);
    inventory.forget.store(false, Ordering::SeqCst);
    let again = shop.buy("alice", "drop", "phone", "k").await;
    assert!(again.status < 300, "{again:?}");
    let id = again.json()["id"].as_str().expect("id").to_owned();
    assert_eq!(shop.decided("alice", &id).await["status"], "awaiting_payment");
    assert_eq!(shop.stock("drop").await["phone"]["available"], 4);
    shop.finish().await;
}

async fn while_purchases_find_no_room_lists_and_waits_are_left_out(mode: Mode) {
    let config = config(mode, &[("admission.in_flight_max", "1"), ("admission.append_wait_ms", "10000")]);
    migrated(&config).await;
    let mut backend = open(&config).await;
    let (log, held) = FaultyLog::held(backend.order_log);
    backend.order_log = log;
    let shop = TestShop::start_on(config, backend, Role::All).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    let degraded =
        async || call(shop.admin, "GET", "/readyz?verbose", &[], "").await.json()["degraded"].clone();
    assert_eq!(degraded().await, json!([]));
    let refused = async || {
        let answer = shop.buy("bob", "drop", "phone", "k").await;
        (answer.status, answer.header("Degraded").to_owned()) == (503, "purchases".to_owned())
    };
    let crowd = async {
        eventually("the only place is taken", async || held.has_come.load(Ordering::SeqCst)).await;
        assert!(refused().await, "there is no room");
        let lists = async || {
            let list = shop.get("bob", "/api/v1/orders").await;
            refused().await && (list.status, list.header("Degraded")) == (503, "lists")
        };
        eventually("lists are left out", lists).await;
        let all = async || refused().await && degraded().await == json!(["purchases", "lists", "waits"]);
        eventually("waits are left out", all).await;
        held.go.notify_one();
    };
    let (bought, ()) = tokio::join!(shop.buy("alice", "drop", "phone", "k"), crowd);
    assert_eq!(bought.status, 202, "{bought:?}");
    held.go.notify_one();
    let body = json!({ "sku_id": "phone", "quantity": 1 }).to_string();
    let waits = shop.place("bob", "drop", "k", &body, &[("Prefer", "wait=5")]).await;
    assert_eq!((waits.status, waits.header("Degraded")), (202, "waits"), "{waits:?}");
    assert_eq!(waits.header("Preference-Applied"), "wait=0");
    let whole = async || {
        let list = shop.get("bob", "/api/v1/orders").await;
        list.status == 200 && list.header("Degraded").is_empty() && degraded().await == json!([])
    };
    eventually("nothing is left out any more", whole).await;
    shop.finish().await;
}
