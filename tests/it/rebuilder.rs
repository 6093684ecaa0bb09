//! Tests of the order of a rebuild's steps (step 17): a rebuild is stopped between two of them, and what others do then
//! changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use seckill::app::Role;
use seckill::clock::Clock;
use seckill::domain::inventory_model::Bucket;
use seckill::domain::rebuild::Truth;
use seckill::domain::reservation::Verdict;
use seckill::domain::{BucketId, Instance, Sale, UserId};
use seckill::memory::catalog::Catalog;
use seckill::ports::{Claim, Ports, Rebuilds, Recovery, StoreResult};
use seckill::worker::driver::Task as _;
use seckill::worker::outbox_relay::{Limits, OutboxRelay};
use seckill::worker::rebuilder::Rebuilder;
use seckill::worker::stock_watch::StockWatch;
use tokio::sync::Semaphore;

use crate::harness::{TestShop, eventually, open};
use crate::recovery::two_buckets;
use crate::relay::requests;

/// The real rebuilds, whose fence waits until the test lets it go on.
struct WaitsBeforeTheFence {
    rebuilds: Arc<dyn Rebuilds>,
    reached: Semaphore,
    go_on: Semaphore,
}

#[async_trait]
impl Rebuilds for WaitsBeforeTheFence {
    async fn claim(&self, sale: &Sale, bucket: u16, lease: Duration) -> StoreResult<Option<Claim>> {
        self.rebuilds.claim(sale, bucket, lease).await
    }

    async fn keep(&self, claim: &Claim, lease: Duration) -> StoreResult<bool> {
        self.rebuilds.keep(claim, lease).await
    }

    async fn fence(&self, sale: &Sale, claim: &Claim) -> StoreResult<()> {
        self.reached.add_permits(1);
        self.go_on.acquire().await.expect("open").forget();
        self.rebuilds.fence(sale, claim).await
    }

    async fn truth(&self, sale: &Sale, instances: &BTreeSet<Instance>) -> StoreResult<Truth> {
        self.rebuilds.truth(sale, instances).await
    }
}

/// A rebuilder that knows which buckets have lost something now.
async fn rebuilder(shop: &TestShop, ports: &Ports, rebuilds: Arc<dyn Rebuilds>) -> Rebuilder {
    let (clock, period) = (Clock::System, Duration::from_secs(1));
    let catalog = Arc::new(Catalog::default());
    catalog.renew(ports.sales.as_ref(), ports.settling.as_ref()).await.expect("the sales");
    let (gates, outbox) = (ports.gates.clone(), ports.outbox.clone());
    let watch = StockWatch {
        gates: gates.clone(),
        outbox: outbox.clone(),
        catalog: catalog.clone(),
        clock: clock.clone(),
        period,
    };
    watch.run_once().await.expect("Redis");
    let limits = Limits { interval: period, min_age: Duration::ZERO, batch_orders_max: 100 };
    let recovery = ports.recovery.clone().expect("a recovery");
    Rebuilder {
        recovery: Recovery { rebuilds, ..recovery },
        gates,
        sales: ports.sales.clone(),
        order_log: ports.order_log.clone(),
        positions: ports.positions.clone(),
        relay: OutboxRelay::new(outbox, ports.order_log.clone(), catalog.clone(), clock.clone(), limits),
        catalog,
        clock,
        map: shop.config.shard_map().expect("a map"),
        period,
    }
}

async fn connection(shop: &TestShop) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(shop.config.redis.url.as_str()).expect("a client");
    client.get_multiplexed_async_connection().await.expect("Redis")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_whose_lease_is_prolonged_while_it_is_rebuilt_sells_nothing_before_the_end() {
    let (mut shop, ports, sale) = two_buckets().await;
    // Nobody prolongs leases until the test does.
    shop.stop().await;
    let map = shop.config.shard_map().expect("a map");
    let is_of_bucket = |user: &UserId| map.bucket_of(map.shard_of(user), 2) == 0;
    let mut wishes = requests(&shop, &sale, "w");
    wishes.retain(|wish| is_of_bucket(&wish.record.user_id));
    let bucket = BucketId { sale: sale.id.clone(), bucket: 0 };
    let wish = wishes.first().expect("some are of this bucket").clone();
    let reserve = async || {
        let verdicts = ports.inventory.reserve(&bucket, [wish.clone()].into()).await.expect("Redis");
        verdicts.into_iter().next().expect("one")
    };
    let gate = format!("{}{{drop.0}}:gate", shop.config.redis.key_prefix);
    let end_lease = redis::cmd("HSET").arg(&gate).arg("lease_ms").arg(1).to_owned();
    let _: i64 = end_lease.query_async(&mut connection(&shop).await).await.expect("Redis");
    assert!(matches!(reserve().await, Verdict::Denied(_)), "its lease is over");

    let Recovery { rebuilds, refills, .. } = ports.recovery.clone().expect("a recovery");
    let waits =
        Arc::new(WaitsBeforeTheFence { rebuilds, reached: Semaphore::new(0), go_on: Semaphore::new(0) });
    let rebuilder = rebuilder(&shop, &ports, waits.clone()).await;
    let meanwhile = async {
        waits.reached.acquire().await.expect("open").forget();
        // A process whose answer was late, or that was frozen, finds the bucket on the same run of Redis.
        refills.renew(&sale).await.expect("Redis");
        assert!(matches!(reserve().await, Verdict::Denied(_)), "it is being rebuilt");
        waits.go_on.add_permits(1);
    };
    let (rebuilt, ()) = tokio::join!(Box::pin(rebuilder.run_once()), meanwhile);
    assert_eq!(rebuilt.expect("rebuilt").done, 1);
    assert!(matches!(reserve().await, Verdict::Reserved { .. }), "it is open");
    let shop = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    eventually("it is an order", async || shop.stage().orders("awaiting_payment").await == 1).await;
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_have_what_was_filled_in_does_not_open() {
    let (shop, ports, sale) = two_buckets().await;
    let Recovery { rebuilds, refills, .. } = ports.recovery.clone().expect("a recovery");
    let filled = Bucket {
        stock: sale.items.iter().map(|item| (item.sku_id.clone(), 4)).collect(),
        ..Default::default()
    };
    for part in ["stock", "buyers", "orders"] {
        let claim = rebuilds.claim(&sale, 0, Duration::ZERO).await.expect("MySQL").expect("free");
        assert!(refills.clear(&claim).await.expect("Redis"));
        // Somebody with a shell, or a program of before there were epochs.
        let key = format!("{}{{drop.0}}:{part}", shop.config.redis.key_prefix);
        let more = redis::cmd("HSET").arg(&key).arg("more").arg(1).to_owned();
        let _: i64 = more.query_async(&mut connection(&shop).await).await.expect("Redis");
        let error = refills.fill(&sale, &claim, &filled).await.expect_err("it has more");
        assert!(error.to_string().contains("differs"), "{part}: {error}");
        let gate =
            redis::cmd("EXISTS").arg(format!("{}{{drop.0}}:gate", shop.config.redis.key_prefix)).to_owned();
        let gates: i64 = gate.query_async(&mut connection(&shop).await).await.expect("Redis");
        assert_eq!(gates, 0, "{part}");
    }
    let mut worker = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    eventually("it is rebuilt", async || shop.stock("drop").await["phone"]["available"] == 8).await;
    worker.stop().await;
    shop.finish().await;
}
