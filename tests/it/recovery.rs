//! Tests of step 17: a Redis that has lost what it had is rebuilt of what the databases have, and the sale goes on.

use std::time::Duration;

use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::books::DriftKind;
use seckill::domain::inventory_model::Bucket;
use seckill::domain::{BucketId, Halt, OrderRecord, Position, Sale, SaleId, SkuId, UserId, rebuild};
use seckill::ports::{BucketState, Claim, Ports, Recovery, UnitMove};
use serde_json::{Value, json};

use crate::harness::{TestShop, config, eventually, migrated, open, sale_body};
use crate::own_redis::OwnRedis;
use crate::relay::requests;

const STOCK: u32 = 30;

/// A shop on a Redis of its own.
async fn shop_on(redis: &OwnRedis) -> TestShop {
    TestShop::start_with(Mode::Distributed, &[("redis.url", &redis.url())]).await
}

async fn available(shop: &TestShop) -> Value {
    shop.stock("drop").await["phone"]["available"].clone()
}

/// Sells some units, loses data, and asserts that the sale goes on as if nothing had been lost.
async fn survives(lose: impl AsyncFnOnce(&mut OwnRedis, &TestShop)) {
    let mut redis = OwnRedis::start(&[]).await;
    let shop = shop_on(&redis).await;
    shop.open_sale("drop", 2, &[("phone", STOCK)]).await;
    let mut orders = Vec::new();
    for n in 0..8 {
        orders.push(shop.unpaid(&format!("u{n}"), "k").await);
    }
    assert_eq!(shop.act("u0", &orders[0], "cancel").await.status, 200);
    eventually("its unit is back", async || available(&shop).await == STOCK - 7).await;
    lose(&mut redis, &shop).await;
    // Until it is open again nobody buys, and nobody hears that nothing is left.
    let mut late = 0;
    eventually("somebody buys again", async || {
        late += 1;
        let answer = shop.buy(&format!("late-{late}"), "drop", "phone", "k").await;
        assert!([202, 503, 504].contains(&answer.status), "{answer:?}");
        answer.status == 202
    })
    .await;
    eventually("the databases have all orders, and Redis has the others' units", async || {
        available(&shop).await == i64::from(STOCK) - shop.stage().orders("awaiting_payment").await
    })
    .await;
    for (n, order) in orders.iter().enumerate() {
        let again = shop.buy(&format!("u{n}"), "drop", "phone", "k").await;
        assert_eq!((again.status, again.json()["id"].as_str()), (200, Some(order.as_str())), "{again:?}");
    }
    assert_eq!(shop.buy("u1", "drop", "phone", "k2").await.status, 202);
    let refused = shop.buy("u1", "drop", "phone", "k3").await;
    assert_eq!(refused.problem(), (409, "limit_reached".to_owned()));
    for n in 0..60 {
        shop.buy(&format!("more-{n}"), "drop", "phone", "k").await;
    }
    eventually("all units are sold", async || {
        shop.stage().orders("awaiting_payment").await == i64::from(STOCK)
    })
    .await;
    assert_eq!(shop.buy("last", "drop", "phone", "k").await.problem(), (409, "sold_out".to_owned()));
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_starts_again_with_all_of_its_data_is_rebuilt() {
    survives(async |redis, _| {
        redis.kill();
        redis.start_again().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_starts_again_empty_is_rebuilt() {
    survives(async |redis, _| {
        redis.kill();
        redis.lose_data();
        redis.start_again().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_starts_again_with_older_data_is_rebuilt() {
    survives(async |redis, shop| {
        redis.keep_copy();
        for n in 0..5 {
            shop.unpaid(&format!("forgotten-{n}"), "k").await;
        }
        redis.kill();
        redis.restore_copy();
        redis.start_again().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_redis_that_was_frozen_goes_on_without_a_rebuild() {
    survives(async |redis, shop| {
        redis.pause();
        tokio::time::sleep(Duration::from_secs(3)).await;
        redis.resume();
        let gate = format!("{}{{drop.0}}:gate", shop.config.redis.key_prefix);
        let mut connection = redis.connection().await;
        let epoch: u32 = redis::AsyncCommands::hget(&mut connection, &gate, "epoch").await.expect("a gate");
        assert_eq!(epoch, 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_order_of_an_older_epoch_that_comes_too_late_is_rejected() {
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let ports: Ports = open(&shop.config).await;
    let sale = SaleId::parse("drop").expect("a slug");
    let sale = ports.sales.sale(&sale).await.expect("a directory").expect("the sale");
    let Recovery { rebuilds, .. } = ports.recovery.clone().expect("a recovery");
    let claim = Claim { bucket: BucketId { sale: sale.id.clone(), bucket: 0 }, epoch: 2 };
    rebuilds.fence(&sale, &claim).await.expect("MySQL");
    let wishes = requests(&shop, &sale, "late");
    let (stale, fresh) = (&wishes[0].record, &wishes[1].record);
    shop.stage().append(stale.order_id, vec![stale.encode()]).await;
    let fresh_record = OrderRecord { epoch: 2, ..fresh.clone() };
    shop.stage().append(fresh.order_id, vec![fresh_record.encode()]).await;
    let status = async |record: &OrderRecord| {
        let path = format!("/api/v1/orders/{}", record.order_id);
        shop.get(record.user_id.as_str(), &path).await.json()
    };
    eventually("both are decided", async || {
        status(stale).await["final"] == json!(true) && status(fresh).await["status"] == "awaiting_payment"
    })
    .await;
    let told = status(stale).await;
    assert_eq!((&told["status"], &told["reason"]), (&json!("rejected"), &json!("stale_epoch")), "{told}");
    // A fence that an older claim sets changes nothing.
    rebuilds.fence(&sale, &Claim { epoch: 1, ..claim }).await.expect("MySQL");
    let later = &wishes[2].record;
    shop.stage().append(later.order_id, vec![later.encode()]).await;
    eventually("it is decided", async || status(later).await["reason"] == "stale_epoch").await;
    // No front reserved a unit for it, so the inventory does not know it: it is given up before the audit.
    assert_eq!(shop.act(fresh.user_id.as_str(), &fresh.order_id.to_string(), "cancel").await.status, 200);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn of_two_who_rebuild_the_one_with_the_older_epoch_changes_nothing() {
    let redis = OwnRedis::start(&[]).await;
    let shop = shop_on(&redis).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let ports = open(&shop.config).await;
    let sale = SaleId::parse("drop").expect("a slug");
    let sale = ports.sales.sale(&sale).await.expect("a directory").expect("the sale");
    let Recovery { rebuilds, refills, .. } = ports.recovery.clone().expect("a recovery");
    let lease = Duration::from_secs(60);
    let first = rebuilds.claim(&sale, 0, lease).await.expect("MySQL").expect("free");
    assert_eq!(rebuilds.claim(&sale, 0, lease).await.expect("MySQL"), None, "somebody has it");
    assert!(rebuilds.keep(&first, Duration::ZERO).await.expect("MySQL"));
    let second = rebuilds.claim(&sale, 0, lease).await.expect("MySQL").expect("its lease is over");
    assert!(second.epoch > first.epoch);
    assert!(!rebuilds.keep(&first, lease).await.expect("MySQL"), "it was taken over");
    assert!(refills.clear(&first).await.expect("Redis"), "nobody was quicker here");
    assert!(refills.clear(&second).await.expect("Redis"));
    let bucket = Bucket {
        stock: sale.items.iter().map(|item| (item.sku_id.clone(), item.stock)).collect(),
        ..Default::default()
    };
    assert!(!refills.clear(&first).await.expect("Redis"));
    let of_the_first =
        Bucket { buyers: [(UserId::parse("nobody").expect("a user"), 1)].into(), ..bucket.clone() };
    assert!(!refills.fill(&sale, &first, &of_the_first).await.expect("Redis"));
    assert!(refills.fill(&sale, &second, &bucket).await.expect("it has what was filled in, and no more"));
    assert!(!refills.clear(&first).await.expect("Redis"), "it is open");
    assert!(!refills.fill(&sale, &first, &bucket).await.expect("Redis"));
    assert!(rebuilds.keep(&second, Duration::ZERO).await.expect("MySQL"), "it has the newest epoch");
    assert_eq!(available(&shop).await, 10);
    shop.finish().await;
}

/// A sale of eight units in two buckets, at a front without workers, and the ports.
async fn two_buckets() -> (TestShop, Ports, Sale) {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let shop = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    let mut body = sale_body("drop", 1, &[("phone", 8)]);
    body["buckets"] = json!(2);
    crate::harness::open_sale(shop.admin, body).await;
    let ports = open(&config).await;
    let sale = sale_of(&ports).await;
    (shop, ports, sale)
}

async fn sale_of(ports: &Ports) -> Sale {
    let id = SaleId::parse("drop").expect("a slug");
    ports.sales.sale(&id).await.expect("a directory").expect("the sale")
}

/// Rebuilds one bucket as a rebuilder does, but for the order log.
async fn rebuild(shop: &TestShop, ports: &Ports, sale: &Sale, bucket: u16) {
    let Recovery { rebuilds, refills, .. } = ports.recovery.clone().expect("a recovery");
    let claim = rebuilds.claim(sale, bucket, Duration::ZERO).await.expect("MySQL").expect("free");
    assert!(refills.clear(&claim).await.expect("Redis"));
    let elsewhere = refills.elsewhere(sale, std::slice::from_ref(&claim)).await.expect("Redis");
    let map = shop.config.shard_map().expect("a map");
    let truth = rebuilds.truth(sale, &map.all_instances().collect()).await.expect("MySQL");
    let filled = rebuild::fill(sale, &map, &[bucket].into(), &truth, &elsewhere);
    assert!(refills.fill(sale, &claim, &filled[&bucket]).await.expect("Redis"));
}

/// Takes two units out of bucket 1 for bucket 0, as a process does that is frozen then.
async fn give(shop: &TestShop) -> UnitMove {
    let client = redis::Client::open(shop.config.redis.url.as_str()).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let key = |part: &str| format!("{}{{drop.1}}:{part}", shop.config.redis.key_prefix);
    let give = redis::Script::new(include_str!("../../lua/give.lua"));
    let mut call = give.prepare_invoke();
    call.key(key("gate")).key(key("stock")).key(key("moves")).arg("a-move").arg("phone").arg(2).arg(0).arg(1);
    let note: String = call.invoke_async(&mut connection).await.expect("given");
    assert!(note.starts_with("0|phone|2|"), "{note}");
    let sku = SkuId::parse("phone").expect("a slug");
    UnitMove { id: "a-move".to_owned(), to: 0, sku, units: 2, since_ms: 0, epochs: Some((1, 1)) }
}

async fn units_in(ports: &Ports, sale: &Sale) -> Vec<i64> {
    let sku = SkuId::parse("phone").expect("a slug");
    let buckets = ports.gates.buckets(sale).await.expect("Redis");
    buckets.iter().map(|bucket| bucket.units_of(&sku)).collect()
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_move_that_is_repeated_after_its_target_was_rebuilt_brings_no_unit_twice() {
    let (shop, ports, sale) = two_buckets().await;
    let moved = give(&shop).await;
    ports.gates.finish_move(&sale, 1, &moved).await.expect("it comes there");
    assert_eq!(units_in(&ports, &sale).await, [6, 2]);
    rebuild(&shop, &ports, &sale, 0).await;
    assert_eq!(units_in(&ports, &sale).await, [6, 2]);
    ports.gates.finish_move(&sale, 1, &moved).await.expect("a process that was frozen");
    assert_eq!(units_in(&ports, &sale).await, [6, 2]);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn units_that_are_under_way_to_a_bucket_that_is_rebuilt_go_back() {
    let (shop, ports, sale) = two_buckets().await;
    let moved = give(&shop).await;
    rebuild(&shop, &ports, &sale, 0).await;
    ports.gates.finish_move(&sale, 1, &moved).await.expect("it goes back");
    assert_eq!(units_in(&ports, &sale).await, [4, 4]);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn units_that_a_bucket_gave_before_it_was_rebuilt_come_nowhere() {
    let (shop, ports, sale) = two_buckets().await;
    let moved = give(&shop).await;
    rebuild(&shop, &ports, &sale, 1).await;
    assert_eq!(units_in(&ports, &sale).await, [4, 4], "what was under way is for sale where it came from");
    ports.gates.finish_move(&sale, 1, &moved).await.expect("it has nothing to bring");
    assert_eq!(units_in(&ports, &sale).await, [4, 4]);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn stock_that_a_frozen_preheat_puts_in_place_after_a_loss_is_not_sold() {
    let redis = OwnRedis::start(&[]).await;
    let config = config(Mode::Distributed, &[("redis.url", &redis.url())]);
    migrated(&config).await;
    let start = async |role| TestShop::start_on(config.clone(), open(&config).await, role).await;
    let shop = start(Role::Api).await;
    let ports = open(&config).await;
    shop.open_sale("drop", 1, &[("phone", 5)]).await;
    assert_eq!(shop.buy("winner", "drop", "phone", "k").await.status, 202);
    let before = Sale { in_place: false, ..sale_of(&ports).await };
    // Everything is lost, and a process goes on that had found the sale not in place.
    let mut connection = redis.connection().await;
    let () = redis::cmd("FLUSHDB").query_async(&mut connection).await.expect("Redis");
    let placed = ports.gates.preheat(&before).await.expect("Redis");
    assert!(!ports.sales.mark_in_place(&before).await.expect("MySQL"), "another one was quicker");
    drop(placed);
    for n in 0..3 {
        ports.gates.set_gates(&sale_of(&ports).await, &[]).await.expect("Redis");
        assert_eq!(shop.buy(&format!("late-{n}"), "drop", "phone", "k").await.status, 503);
    }
    let buckets = ports.gates.buckets(&before).await.expect("Redis");
    assert!(matches!(buckets[..], [BucketState::Whole { placing_since_ms: Some(_), .. }]), "{buckets:?}");
    let mut worker = start(Role::All).await;
    eventually("the bucket is rebuilt of what the databases have", async || available(&shop).await == 4)
        .await;
    let again = shop.buy("winner", "drop", "phone", "k").await;
    assert_eq!(again.status, 200, "{again:?}");
    worker.stop().await;
    shop.finish().await;
}

/// What a process does of a rebuild before it dies.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum DiesAfter {
    Claim,
    Fence,
    Clear,
    HalfFilled,
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn whoever_dies_in_a_rebuild_opens_nothing_and_another_process_finishes_it() {
    use DiesAfter::{Claim, Clear, Fence, HalfFilled};
    for dies_after in [Claim, Fence, Clear, HalfFilled] {
        let (shop, ports, sale) = two_buckets().await;
        let mut worker = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
        for n in 0..4 {
            shop.unpaid(&format!("u{n}"), "k").await;
        }
        worker.stop().await;
        let Recovery { rebuilds, refills, .. } = ports.recovery.clone().expect("a recovery");
        let bucket = BucketId { sale: sale.id.clone(), bucket: 0 };
        assert!(
            ports.books.inventory.refill(&bucket, 1, DriftKind::UnitsExtra).await.expect("Redis"),
            "it is closed"
        );
        let lease = Duration::from_secs(2);
        let claim = rebuilds.claim(&sale, 0, lease).await.expect("MySQL").expect("free");
        if dies_after >= Fence {
            rebuilds.fence(&sale, &claim).await.expect("MySQL");
        }
        if dies_after >= Clear {
            assert!(refills.clear(&claim).await.expect("Redis"));
        }
        if dies_after >= HalfFilled {
            let client = redis::Client::open(shop.config.redis.url.as_str()).expect("a client");
            let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
            let stock = format!("{}{{drop.0}}:stock", shop.config.redis.key_prefix);
            // More than there is.
            let fields = [("phone", 500)];
            let () =
                redis::AsyncCommands::hset_multiple(&mut connection, &stock, &fields).await.expect("Redis");
        }
        let map = shop.config.shard_map().expect("a map");
        let mut users = (0..).map(|n| UserId::parse(&format!("someone-{n}")).expect("a user"));
        let user = users.find(|user| map.bucket_of(map.shard_of(user), 2) == 0).expect("endless");
        let answer = shop.buy(user.as_str(), "drop", "phone", "k").await;
        assert_eq!(answer.status, 503, "{dies_after:?}: nothing is open: {answer:?}");
        let mut worker = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
        eventually("it is rebuilt", async || shop.stock("drop").await["phone"]["available"] == 4).await;
        assert!(!rebuilds.keep(&claim, lease).await.expect("MySQL"), "{dies_after:?}: it was taken over");
        assert!(!refills.clear(&claim).await.expect("Redis"), "{dies_after:?}: and changes nothing any more");
        assert_eq!(shop.stock("drop").await["phone"]["available"], 4, "{dies_after:?}");
        worker.stop().await;
        shop.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_halted_partition_holds_up_the_rebuild_of_its_buckets_until_somebody_has_moved_it() {
    let (shop, ports, sale) = two_buckets().await;
    let mut worker = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    for n in 0..4 {
        shop.unpaid(&format!("u{n}"), "k").await;
    }
    let map = shop.config.shard_map().expect("a map");
    let part = *map.parts_of_bucket(0, 2).first().expect("a partition");
    let set = async |halt: Option<Halt>| {
        loop {
            let seen = ports.positions.positions().await[&part];
            if ports.positions.replace(part, &seen, &Position { halt, ..seen }).await.expect("MySQL") {
                break;
            }
        }
    };
    set(Some(Halt::OutOfRange)).await;
    for bucket in sale.bucket_ids() {
        assert!(
            ports.books.inventory.refill(&bucket, 1, DriftKind::UnitsExtra).await.expect("Redis"),
            "it is closed"
        );
    }
    eventually("the other bucket is rebuilt, and this one waits", async || {
        let states = ports.gates.buckets(&sale).await.expect("Redis");
        matches!(states[..], [BucketState::Lost { .. }, BucketState::Whole { .. }])
    })
    .await;
    set(None).await;
    eventually("it is rebuilt", async || shop.stock("drop").await["phone"]["available"] == 4).await;
    worker.stop().await;
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_bucket_that_does_not_have_what_was_filled_in_does_not_open() {
    let (shop, ports, sale) = two_buckets().await;
    let Recovery { rebuilds, refills, .. } = ports.recovery.clone().expect("a recovery");
    let filled = Bucket {
        stock: sale.items.iter().map(|item| (item.sku_id.clone(), 4)).collect(),
        ..Default::default()
    };
    let client = redis::Client::open(shop.config.redis.url.as_str()).expect("a client");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    let key = |part: &str| format!("{}{{drop.0}}:{part}", shop.config.redis.key_prefix);
    for part in ["stock", "buyers", "orders"] {
        let claim = rebuilds.claim(&sale, 0, Duration::ZERO).await.expect("MySQL").expect("free");
        assert!(refills.clear(&claim).await.expect("Redis"));
        // Somebody with a shell, or a program of before there were epochs.
        let more = redis::cmd("HSET").arg(key(part)).arg("more").arg(1).to_owned();
        let _: i64 = more.query_async(&mut connection).await.expect("Redis");
        let error = refills.fill(&sale, &claim, &filled).await.expect_err("it has more");
        assert!(error.to_string().contains("differs"), "{part}: {error}");
        let gate = redis::cmd("EXISTS").arg(key("gate")).to_owned();
        let gates: i64 = gate.query_async(&mut connection).await.expect("Redis");
        assert_eq!(gates, 0, "{part}");
    }
    let mut worker = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    eventually("it is rebuilt", async || shop.stock("drop").await["phone"]["available"] == 8).await;
    worker.stop().await;
    shop.finish().await;
}
