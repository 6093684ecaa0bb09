//! One MySQL instance is gone or slow, or the answer to a COMMIT is lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::Row as _;

use crate::harness::{Servers, Stage as _, TestShop, eventually, months, sale_body};
use crate::proxy::Weather;
use crate::world::{LOSSES, Loss, World};

const ORDERS: usize = 30;

async fn orders_on(database: &Servers, instance: usize) -> usize {
    let mut sum = 0;
    for (_, shard) in database.shards().into_iter().filter(|(at, _)| *at == instance) {
        for month in months() {
            let text = format!("SELECT COUNT(*) FROM {shard}.orders_{}", month.yyyymm());
            sum += database.number(instance, &text).await;
        }
    }
    usize::try_from(sum).expect("a count")
}

async fn buy_all(shop: &TestShop, users: &[String], sku: &str) {
    for user in users {
        let answer = shop.buy(user, "drop", sku, "k").await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
}

/// Sells while the second instance goes away and both have orders to write.
async fn sell_through(world: &mut World, loss: Loss) {
    let shop = world.shop().await;
    // The home of the SKU is the instance that will be lost.
    let (sku, here, there) = (world.sku_at_home_on(1), world.users_of(0, ORDERS), world.users_of(1, ORDERS));
    shop.open_sale("drop", 1, &[(&sku, 1000)]).await;
    buy_all(&shop, &here[..1], &sku).await;
    let database = world.database();
    eventually("orders flow", async || orders_on(&database, 0).await == 1).await;

    world.lose("mysql-b", loss);
    let began = Instant::now();
    buy_all(&shop, &there, &sku).await;
    buy_all(&shop, &here[1..], &sku).await;
    eventually("the other instance's orders flow", async || orders_on(&database, 0).await == ORDERS).await;
    let flowed = began.elapsed();
    assert!(flowed < Duration::from_secs(10), "{loss:?}: held up for {flowed:?}");
    assert_eq!(shop.get(&there[0], "/api/v1/sales/drop").await.status, 200);

    world.restore();
    eventually("all drain", async || orders_on(&database, 1).await == ORDERS).await;
    assert_eq!(shop.stock("drop").await[&sku]["available"], 1000 - 2 * ORDERS);
    assert_eq!(shop.stock("drop").await[&sku]["held"], 2 * ORDERS);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_gone_holds_up_only_its_own_partitions() {
    for loss in LOSSES {
        let mut world = World::new(&[]).await;
        sell_through(&mut world, loss).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_a_lost_instance_may_have_are_waited_for_and_never_called_sold_out() {
    let mut world = World::new(&[("writer.batch_records_max", "1")]).await;
    let shop = world.shop().await;
    let (sku, here) = (world.sku_at_home_on(0), world.users_of(0, 15));
    shop.open_sale("drop", 1, &[(&sku, 20)]).await;
    world.lose("mysql-b", Loss::Cut);
    buy_all(&shop, &here, &sku).await;
    let database = Servers::of(&world.config);
    eventually("the instance's own ten units are sold", async || orders_on(&database, 0).await == 10).await;
    world.restore();
    eventually("the others are fetched", async || orders_on(&database, 0).await == 15).await;
    assert_eq!(database.orders("rejected").await, 0);
    assert_eq!(shop.stock("drop").await[&sku]["held"], 15);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_instance_holds_up_only_its_own_partitions() {
    let world = World::new(&[]).await;
    let shop = world.shop().await;
    let (sku, here, there) = (world.sku_at_home_on(1), world.users_of(0, ORDERS), world.users_of(1, ORDERS));
    shop.open_sale("drop", 1, &[(&sku, 1000)]).await;
    world.mysql[1].set(Weather::Slow(Duration::from_millis(500)));
    buy_all(&shop, &there, &sku).await;
    buy_all(&shop, &here, &sku).await;
    let database = Servers::of(&world.config);
    eventually("the quick instance's orders are there first", async || {
        orders_on(&database, 0).await == ORDERS
    })
    .await;
    world.mysql[1].set(Weather::Fair);
    eventually("the slow one's come", async || orders_on(&database, 1).await == ORDERS).await;
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_found_in_the_position() {
    const ROUNDS: usize = 8;
    let world = World::new(&[]).await;
    let shop = world.shop().await;
    let (sku, users) = (world.sku_at_home_on(0), world.users_of(0, ROUNDS));
    shop.open_sale("drop", 1, &[(&sku, 1000)]).await;
    for user in &users {
        world.mysql[0].lose_answer_to_commit();
        let answer = shop.buy(user, "drop", &sku, "k").await;
        let id = answer.json()["id"].as_str().expect("accepted").to_owned();
        assert_eq!(shop.decided(user, &id).await["status"], "awaiting_payment");
        assert!(world.mysql[0].is_answer_lost(), "the fault did not happen");
    }
    let database = world.database();
    assert_eq!(database.orders("awaiting_payment").await, i64::try_from(ROUNDS).expect("small"));
    let positions = database.sum("SUM(next_offset)", "consumer_positions").await;
    assert_eq!(positions, i64::try_from(ROUNDS).expect("small"), "every record was counted once");
    assert_eq!(shop.stock("drop").await[&sku]["held"], Value::from(ROUNDS));
    shop.finish().await;
}

/// Returns the ids of the connections to an instance, without those of this test.
async fn connections(database: &Servers, instance: usize) -> BTreeSet<i64> {
    let text = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND user <> 'event_scheduler'";
    let rows = sqlx::query(text).fetch_all(database.pool(instance)).await.expect("a process list");
    rows.iter().map(|row| row.get::<i64, _>(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_server_only_reads_is_left_and_never_used_again() {
    let world = World::new(&[]).await;
    let shop = world.shop().await;
    let (sku, there) = (world.sku_at_home_on(1), world.users_of(1, 3 * ORDERS));
    shop.open_sale("drop", 1, &[(&sku, 1000)]).await;
    let database = world.database();
    buy_all(&shop, &there[..ORDERS], &sku).await;
    eventually("orders flow", async || orders_on(&database, 1).await == ORDERS).await;
    // A failover that keeps old connections open looks like this to them: their server only reads from now on.
    database.execute(1, "SET GLOBAL super_read_only = ON").await;
    let before = connections(&database, 1).await;
    assert!(!before.is_empty());
    buy_all(&shop, &there[ORDERS..2 * ORDERS], &sku).await;
    eventually("the probe says that it cannot write", async || {
        let page = crate::client::call(shop.admin, "GET", "/readyz?verbose", &[], "").await;
        page.json()["components"]["mysql-1"] == "down: only reads"
    })
    .await;
    eventually("the connections are left", async || connections(&database, 1).await.is_disjoint(&before))
        .await;
    assert_eq!(orders_on(&database, 1).await, ORDERS);
    database.execute(1, "SET GLOBAL super_read_only = OFF").await;
    database.execute(1, "SET GLOBAL read_only = OFF").await;
    buy_all(&shop, &there[2 * ORDERS..], &sku).await;
    eventually("all drain", async || orders_on(&database, 1).await == 3 * ORDERS).await;
    shop.finish().await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_redis_is_rebuilt_as_far_as_the_instances_answer_and_the_rest_waits() {
    let mut world = World::new(&[]).await;
    let shop = world.shop().await;
    let mut body = sale_body("drop", 1, &[("phone", 1000)]);
    body["buckets"] = json!(2);
    crate::harness::open_sale(shop.admin, body).await;
    let (here, there) = (world.users_of(0, 40), world.users_of(1, 40));
    buy_all(&shop, &here[..10], "phone").await;
    buy_all(&shop, &there[..10], "phone").await;
    let database = world.database();
    eventually("all are written", async || database.orders("awaiting_payment").await == 20).await;

    world.lose("mysql-b", Loss::Cut);
    world.lose_keys().await;
    eventually("who belongs to the other instance buys on", async || {
        shop.buy(&here[10], "drop", "phone", "k").await.status < 300
    })
    .await;
    for user in &there[10..20] {
        assert_eq!(
            shop.buy(user, "drop", "phone", "k").await.problem(),
            (503, "dependency_unavailable".to_owned())
        );
    }
    let words = "bucket 1 of drop is closed until it is rebuilt (gate) and waits for mysql-1";
    eventually("it is said whose part waits", async || {
        let page = crate::client::call(shop.admin, "GET", "/readyz?verbose", &[], "").await;
        page.json()["duties"]["buy"].as_str().is_some_and(|buy| buy.contains(words))
    })
    .await;
    buy_all(&shop, &here[11..30], "phone").await;

    world.restore();
    eventually("the rest is rebuilt, too", async || {
        shop.buy(&there[10], "drop", "phone", "k").await.status < 300
    })
    .await;
    buy_all(&shop, &there[11..20], "phone").await;
    // Nobody's unit is lost, and nobody has forgotten who bought.
    let again = shop.buy(&there[0], "drop", "phone", "k").await;
    assert_eq!(again.status, 200, "{again:?}");
    eventually("all units are counted", async || shop.stock("drop").await["phone"]["available"] == 950).await;
    shop.finish().await;
    world.finish().await;
}
