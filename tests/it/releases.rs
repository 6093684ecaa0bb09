//! Tests of step 16: units that nobody holds any more go back on sale, once, and nothing holds them up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use seckill::app::Role;
use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::domain::{BucketId, Decision, Instance, OrderId, OrderState, SaleId};
use seckill::memory::catalog::Catalog;
use seckill::ports::{Effect, ErrorKind, Owed, Ports, Releases, StoreError, StoreResult};
use seckill::worker::driver::{Progress, Task as _};
use seckill::worker::release_relay::ReleaseRelay;
use serde_json::json;

use crate::harness::{Servers, TestShop, config, migrated, open, remove};

/// A shop of a front alone, so that nothing but the test decides and releases.
struct Bench {
    shop: TestShop,
    ports: Ports,
    servers: Servers,
    clock: Clock,
}

impl Bench {
    async fn start(sales: &[&str]) -> Self {
        let config = config(Mode::Distributed, &[]);
        migrated(&config).await;
        let shop = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
        for sale in sales {
            shop.open_sale(sale, 9, &[("phone", 10)]).await;
        }
        let (ports, servers) = (open(&config).await, Servers::of(&config));
        Self { shop, ports, servers, clock: Clock::manual(Clock::System.now_ms()) }
    }

    async fn buy(&self, user: &str, sale: &str) -> OrderId {
        let bought = self.shop.buy(user, sale, "phone", "k").await;
        assert_eq!(bought.status, 202, "{bought:?}");
        OrderId::parse(bought.json()["id"].as_str().expect("an id")).expect("an id")
    }

    /// Writes what an order writer or a sweeper writes beside its decision. Units are owed on the order's instance.
    async fn owe(&self, order: OrderId, sale: &str, state: OrderState) {
        self.owe_keeping(order, sale, state, (0, true)).await;
    }

    async fn owe_keeping(
        &self,
        order: OrderId,
        sale: &str,
        state: OrderState,
        (buyer_keeps, restock): (u32, bool),
    ) {
        let map = self.shop.config.shard_map().expect("a map");
        let instance = usize::from(map.instance_of(order.shard()).number());
        let (_, control) = &self.servers.controls()[instance];
        let id: String = order.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            "INSERT INTO {control}.release_outbox (order_id, sale_id, sku_id, user_id, quantity, state, buyer_keeps, \
             restock) VALUES (x'{id}', '{sale}', 'phone', 'u', 1, '{}', {buyer_keeps}, {restock})",
            state.as_str()
        );
        self.servers.execute(instance, &text).await;
    }

    async fn relay(&self, releases: Arc<dyn Releases>, batch_rows_max: usize) -> ReleaseRelay {
        let catalog = Arc::new(Catalog::default());
        catalog.renew(self.ports.sales.as_ref(), self.ports.settling.as_ref()).await.expect("the sales");
        ReleaseRelay {
            releases,
            inventory: self.ports.inventory.clone(),
            catalog,
            clock: self.clock.clone(),
            map: self.shop.config.shard_map().expect("a map"),
            period: Duration::from_millis(100),
            batch_rows_max,
            read_up_to: Mutex::default(),
        }
    }

    fn releases(&self) -> Arc<dyn Releases> {
        self.ports.releases.clone().expect("a port")
    }

    async fn available(&self, sale: &str) -> i64 {
        self.shop.stock(sale).await["phone"]["available"].as_i64().expect("a number")
    }

    async fn owed(&self) -> i64 {
        self.shop.stage().sum("COUNT(*)", "release_outbox").await
    }

    async fn redis(&self, words: &[&str]) {
        let client = redis::Client::open(self.shop.config.redis.url.as_str()).expect("a client");
        let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        let _: redis::Value = command.query_async(&mut connection).await.expect("done");
    }

    fn key(&self, sale: &str, part: &str) -> String {
        format!("{}{{{sale}.0}}:{part}", self.shop.config.redis.key_prefix)
    }

    /// Ends without an audit: the rows of what was released were never written.
    async fn end(mut self) {
        self.shop.stop().await;
        remove(&self.shop.config).await;
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn units_go_back_once_however_often_and_by_whomever() {
    let bench = Bench::start(&["drop"]).await;
    for (user, state) in
        [("a", OrderState::Rejected), ("b", OrderState::Cancelled), ("c", OrderState::Expired)]
    {
        let order = bench.buy(user, "drop").await;
        for _ in 0..3 {
            bench.owe(order, "drop", state).await;
        }
    }
    bench.buy("d", "drop").await;
    assert_eq!(bench.available("drop").await, 6);
    let (one, other) = (bench.relay(bench.releases(), 500).await, bench.relay(bench.releases(), 500).await);
    let (done, also) = tokio::join!(one.run_once(), other.run_once());
    assert!(done.is_ok() && also.is_ok(), "{done:?} {also:?}");
    assert_eq!((bench.available("drop").await, bench.owed().await), (9, 0));
    // Somebody owes again what went back.
    let order = bench.buy("e", "drop").await;
    for _ in 0..2 {
        bench.owe(order, "drop", OrderState::Expired).await;
        assert_eq!(one.run_once().await.expect("settled").done, 1);
        assert_eq!((bench.available("drop").await, bench.owed().await), (9, 0));
    }
    assert_eq!(one.run_once().await.expect("nothing"), Progress::default());
    // Whoever holds nothing may buy again, and those who hold something hold it.
    for (user, status) in [("a", 202), ("d", 202)] {
        let again = bench.shop.place(user, "drop", "k2", r#"{"sku_id":"phone","quantity":9}"#, &[]).await;
        let refused = again.problem() == (409, "limit_reached".to_owned());
        assert!(if user == "d" { refused } else { again.status == status }, "{user}: {again:?}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn the_same_purchase_gets_the_same_order_after_its_units_went_back() {
    let bench = Bench::start(&["drop"]).await;
    let order = bench.buy("a", "drop").await;
    bench.owe(order, "drop", OrderState::Expired).await;
    bench.relay(bench.releases(), 500).await.run_once().await.expect("settled");
    let again = bench.shop.buy("a", "drop", "phone", "k").await;
    assert_eq!(
        (&again.json()["id"], again.header("Idempotent-Replayed")),
        (&json!(order), "true"),
        "{again:?}"
    );
    assert_eq!(bench.available("drop").await, 10, "nothing was sold anew");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn units_of_a_buyer_who_has_them_do_not_go_back() {
    let bench = Bench::start(&["drop"]).await;
    let order = bench.buy("a", "drop").await;
    let paid = Decision { order, state: OrderState::Paid, buyer_keeps: None };
    let bucket = BucketId { sale: SaleId::parse("drop").expect("a slug"), bucket: 0 };
    bench.ports.inventory.mark_decided(&bucket, &[paid]).await.expect("marked");
    bench.owe(order, "drop", OrderState::Expired).await;
    let relay = bench.relay(bench.releases(), 500).await;
    assert_eq!(relay.run_once().await.expect("a round").done, 0);
    assert_eq!((bench.available("drop").await, bench.owed().await), (9, 1), "it stands until somebody looks");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_release_without_a_mark_before_it_leaves_the_buyer_what_the_buyer_holds() {
    let bench = Bench::start(&["drop"]).await;
    // MySQL knows of a unit of this buyer that Redis does not know, and nobody marked the rejection.
    let order = bench.buy("a", "drop").await;
    bench.owe_keeping(order, "drop", OrderState::Rejected, (1, true)).await;
    // What is sold out leaves its buyer, and does not go back on sale, however often it is owed.
    let gone = bench.buy("b", "drop").await;
    bench.owe_keeping(gone, "drop", OrderState::Rejected, (0, false)).await;
    bench.owe(gone, "drop", OrderState::Rejected).await;
    bench.relay(bench.releases(), 500).await.run_once().await.expect("settled");
    assert_eq!((bench.available("drop").await, bench.owed().await), (9, 0));
    for (user, status) in [("a", 409), ("b", 202)] {
        let again = bench.shop.place(user, "drop", "k2", r#"{"sku_id":"phone","quantity":9}"#, &[]).await;
        assert_eq!(again.status, status, "{user}: {again:?}");
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_shut_bucket_keeps_what_it_is_owed_and_holds_up_no_other() {
    let bench = Bench::start(&["lost", "shut", "well"]).await;
    for sale in ["lost", "shut"] {
        for user in ["a", "b", "c"] {
            bench.owe(bench.buy(user, sale).await, sale, OrderState::Expired).await;
        }
    }
    for user in ["a", "b", "c"] {
        bench.owe(bench.buy(user, "well").await, "well", OrderState::Expired).await;
    }
    bench.redis(&["DEL", &bench.key("shut", "gate")]).await;
    bench.redis(&["DEL", &bench.key("lost", "buyers")]).await;
    // A round takes one row of each instance.
    let relay = bench.relay(bench.releases(), 1).await;
    for _ in 0..12 {
        relay.run_once().await.expect("a round");
    }
    assert_eq!((bench.available("well").await, bench.owed().await), (10, 6));
    // When a sale is over, nobody can be given anything any more.
    bench.clock.advance_ms(100 * 86_400_000);
    for _ in 0..12 {
        relay.run_once().await.expect("a round");
    }
    assert_eq!(bench.owed().await, 0);
    bench.end().await;
}

/// Fails the first removal of rows.
struct FailsOnce {
    inner: Arc<dyn Releases>,
    fails: AtomicBool,
}

#[async_trait]
impl Releases for FailsOnce {
    fn instances(&self) -> Vec<Instance> {
        self.inner.instances()
    }

    async fn owed(&self, at: Instance, after: i64, limit: usize) -> StoreResult<Vec<Owed>> {
        self.inner.owed(at, after, limit).await
    }

    async fn settle(&self, at: Instance, rows: &[i64]) -> StoreResult<()> {
        if !rows.is_empty() && self.fails.swap(false, Ordering::SeqCst) {
            let (kind, effect) = (ErrorKind::Unavailable, Effect::Unknown);
            return Err(StoreError { kind, effect, context: "a test's fault", source: "injected".into() });
        }
        self.inner.settle(at, rows).await
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_round_that_breaks_off_after_the_release_is_finished_by_the_next() {
    let bench = Bench::start(&["drop"]).await;
    bench.owe(bench.buy("a", "drop").await, "drop", OrderState::Cancelled).await;
    let releases = FailsOnce { inner: bench.releases(), fails: AtomicBool::new(true) };
    let relay = bench.relay(Arc::new(releases), 500).await;
    relay.run_once().await.expect_err("it breaks off");
    assert_eq!((bench.available("drop").await, bench.owed().await), (10, 1));
    relay.run_once().await.expect("settled");
    assert_eq!((bench.available("drop").await, bench.owed().await), (10, 0));
    bench.end().await;
}
