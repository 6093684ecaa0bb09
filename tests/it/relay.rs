//! Tests of how fast the relay is: after an outage it has to catch up while the fronts go on accepting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use seckill::app::Role;
use seckill::clock::Clock;
use seckill::config::Mode;
use seckill::domain::reservation::{Fingerprint, ReserveRequest, Verdict};
use seckill::domain::{
    BucketId, IdempotencyKey, OrderId, OrderRecord, Quantity, Reference, Sale, SaleId, UserId,
};
use seckill::memory::catalog::Catalog;
use seckill::ports::Ports;
use seckill::worker::driver::Task as _;
use seckill::worker::outbox_relay::{Limits, OutboxRelay};

use crate::harness::{TestShop, config, migrated, open, remove};

const ORDERS: usize = 4096;
const BATCH: usize = 128;
const ROUNDS: usize = 3;
/// Makes `ORDERS` requests, each of another user, who asks for one unit of the first item under the key `k`.
pub fn requests(shop: &TestShop, sale: &Sale, name: &str) -> Vec<ReserveRequest> {
    let map = shop.config.shard_map().expect("a map");
    let request = |n: usize| {
        let user_id = UserId::parse(&format!("{name}{n}")).expect("a user");
        let key = IdempotencyKey::parse("k").expect("a key");
        let (sku_id, quantity) = (sale.items[0].sku_id.clone(), Quantity::new(1).expect("one"));
        let order_id = OrderId::derive(map.shard_of(&user_id), sale.month(), &sale.id, &user_id, &key);
        let fingerprint = Fingerprint::of(&sku_id, quantity, None);
        let record = OrderRecord {
            v: OrderRecord::VERSION,
            order_id,
            sale_id: sale.id.clone(),
            sku_id,
            user_id,
            quantity,
            unit_price: sale.items[0].price.clone(),
            epoch: sale.epoch,
            accepted_ms: Clock::System.now_ms(),
            reference: None,
            awaited: false,
            node: None,
            trace: None,
            decided: None,
        };
        ReserveRequest { record, fingerprint }
    };
    (0..ORDERS).map(request).collect()
}

/// Starts a front with a sale of ten units, and makes three requests for one each.
async fn front_with_three_requests() -> (TestShop, Ports, BucketId, Sale, Vec<ReserveRequest>) {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let shop = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let ports = open(&config).await;
    let bucket = BucketId { sale: SaleId::parse("drop").expect("a slug"), bucket: 0 };
    let sale = ports.sales.sale(&bucket.sale).await.expect("a directory").expect("the sale");
    let asked = requests(&shop, &sale, "u").into_iter().take(3).collect();
    (shop, ports, bucket, sale, asked)
}

#[tokio::test]
async fn a_mark_of_a_newer_version_spoils_nothing_but_its_own_order() {
    let (mut shop, ports, bucket, _, asked) = front_with_three_requests().await;
    accept(&ports, &bucket, &asked, false).await;
    let client = redis::Client::open(shop.config.redis.url.as_str()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let orders = format!("{}{{drop.0}}:orders", shop.config.redis.key_prefix);
    let id = asked[1].record.order_id.bytes().as_slice();
    let hold: String =
        redis::cmd("HGET").arg(&orders).arg(id).query_async(&mut connection).await.expect("a hold");
    let unknown = format!("w{}", &hold[1..]);
    let set = redis::cmd("HSET").arg(&orders).arg(id).arg(unknown).query_async::<i64>(&mut connection).await;
    assert_eq!(set.expect("set"), 0);
    let mut winners = ports.inventory.winners(&bucket).await.expect("all of them");
    winners.sort_unstable();
    let buyers: Vec<UserId> = asked.iter().map(|request| request.record.user_id.clone()).collect();
    assert_eq!(winners, buyers);
    let entries = ports.outbox.pending(&bucket, Duration::ZERO, 10).await.expect("Redis");
    assert_eq!((entries[0].waiting.len(), entries[0].fault), (2, None));
    shop.stop().await;
    remove(&shop.config).await;
}

#[tokio::test]
async fn what_waits_in_an_outbox_has_its_reference() {
    let (mut shop, ports, bucket, sale, mut asked) = front_with_three_requests().await;
    asked[1].record.reference = Some(Reference::parse("cart|7").expect("a reference"));
    accept(&ports, &bucket, &asked, false).await;
    let entries = ports.outbox.pending(&bucket, Duration::ZERO, 10).await.expect("Redis");
    let waiting = entries.iter().flat_map(|entry| &entry.waiting);
    let found: Vec<_> = waiting.map(|held| held.record(&sale, 1).expect("an item").reference).collect();
    let wanted: Vec<_> = asked.iter().map(|request| request.record.reference.clone()).collect();
    assert_eq!(found, wanted);
    shop.stop().await;
    remove(&shop.config).await;
}

/// Reserves a batch as a front does, and has it acknowledged when `is_front` says so.
async fn accept(ports: &Ports, bucket: &BucketId, batch: &[ReserveRequest], is_front: bool) {
    let verdicts = ports.inventory.reserve(bucket, batch.to_vec().into()).await.expect("Redis");
    let entry = verdicts.iter().find_map(|verdict| match verdict {
        Verdict::Reserved { outbox_entry, .. } => Some(outbox_entry.clone()),
        _ => None,
    });
    let entry = entry.expect("accepted");
    if is_front {
        let append = |request: &ReserveRequest| {
            ports.order_log.append(request.record.order_id, request.record.encode())
        };
        try_join_all(batch.iter().map(append)).await.expect("appended");
        let orders: Vec<OrderId> = batch.iter().map(|request| request.record.order_id).collect();
        ports.outbox.acknowledge(bucket, &orders, &[entry]).await.expect("acknowledged");
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn the_relay_delivers_at_least_as_fast_as_a_front_accepts() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let mut shop = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    shop.open_sale("drop", 1, &[("phone", 100_000)]).await;
    let ports = open(&config).await;
    let bucket = BucketId { sale: SaleId::parse("drop").expect("a slug"), bucket: 0 };
    let sale = ports.sales.sale(&bucket.sale).await.expect("a directory").expect("the sale");

    let catalog = Arc::new(Catalog::default());
    catalog.put(sale.clone());
    let interval = Duration::from_millis(config.relay.interval_ms);
    let limits =
        Limits { interval, min_age: Duration::ZERO, batch_orders_max: config.relay.batch_orders_max };
    let relay =
        OutboxRelay::new(ports.outbox.clone(), ports.order_log.clone(), catalog, Clock::System, limits);
    // A machine that is busy with something else for a moment is no fault of either.
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let by_front = requests(&shop, &sale, &format!("front{round}-"));
        let began = Instant::now();
        for batch in by_front.chunks(BATCH) {
            accept(&ports, &bucket, batch, true).await;
        }
        let front = began.elapsed();
        for batch in requests(&shop, &sale, &format!("relay{round}-")).chunks(BATCH) {
            accept(&ports, &bucket, batch, false).await;
        }
        let began = Instant::now();
        let mut delivered = 0;
        while delivered < ORDERS {
            let progress = relay.run_once().await.expect("delivered");
            delivered += progress.done;
            let goes_on = progress.again_in == Some(Duration::ZERO);
            assert!(goes_on || delivered == ORDERS, "it rests while orders wait: {progress:?}");
        }
        rounds.push((front, began.elapsed()));
    }
    println!("{ORDERS} orders, front and relay: {rounds:?}");
    assert!(
        rounds.iter().any(|(front, relay)| relay <= front),
        "the relay is slower than a front: {rounds:?}"
    );
    assert_eq!(ports.outbox.len(&bucket).await.expect("Redis"), 0);
    shop.stop().await;
    remove(&config).await;
}
