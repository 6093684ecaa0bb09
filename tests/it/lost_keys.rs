//! Tests of a Redis that has lost keys, or all of its data, under a sale: nobody is told anything that is not true, and
//! no unit is sold twice.

use redis::AsyncCommands as _;
use seckill::app::Role;
use seckill::config::Mode;
use seckill::domain::reservation::Verdict;
use seckill::domain::{BucketId, SaleId};
use serde_json::{Value, json};

use crate::harness::{
    Servers, TestShop, assert_rows_kept, config, eventually, metrics, migrated, open, remove, sale_body,
};
use crate::relay::requests;

const KEYS: [&str; 5] = ["stock", "buyers", "orders", "outbox", "outbox_orders"];

/// The keys of a shop in Redis.
struct Keys {
    prefix: String,
    connection: redis::aio::MultiplexedConnection,
}

impl Keys {
    async fn of(shop: &TestShop) -> Self {
        let client = redis::Client::open(shop.config.redis.url.as_str()).expect("a client");
        let connection = client.get_multiplexed_async_connection().await.expect("Redis");
        Self { prefix: shop.config.redis.key_prefix.clone(), connection }
    }

    async fn remove(&mut self, bucket: u16, part: &str) {
        self.remove_of("drop", bucket, part).await;
    }

    async fn remove_of(&mut self, sale: &str, bucket: u16, part: &str) {
        let key = format!("{}{{{sale}.{bucket}}}:{part}", self.prefix);
        let removed: i64 = self.connection.del(&key).await.expect("Redis");
        assert_eq!(removed, 1, "{key} was there");
    }
}

async fn act(shop: &TestShop, action: &str) -> (u16, Value) {
    let done = shop.operate("POST", &format!("/sales/drop/{action}"), json!({ "reason": "a test" })).await;
    (done.status, done.json())
}

/// Returns the outcome of a purchase of one unit.
async fn buy(shop: &TestShop, user: &str) -> (u16, String) {
    let answer = shop.buy(user, "drop", "phone", "k").await;
    if answer.status < 300 { (answer.status, String::new()) } else { answer.problem() }
}

/// Starts a front without workers, so that nothing that is lost is rebuilt.
async fn front() -> TestShop {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    TestShop::start_on(config.clone(), open(&config).await, Role::Api).await
}

/// Starts a process with workers beside a front.
async fn worker(front: &TestShop) -> TestShop {
    TestShop::start_on(front.config.clone(), open(&front.config).await, Role::All).await
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_bucket_that_has_lost_a_key_closes_itself_and_says_so_until_it_is_rebuilt() {
    for key in KEYS {
        let mut shop = front().await;
        shop.open_sale("drop", 1, &[("phone", 10)]).await;
        assert_eq!(buy(&shop, "winner").await.0, 202);
        Keys::of(&shop).await.remove(0, key).await;
        let unavailable = (503, "dependency_unavailable".to_owned());
        for n in 0..3 {
            assert_eq!(buy(&shop, &format!("late-{n}")).await, unavailable, "without {key}");
        }
        if key == "orders" {
            assert_eq!(buy(&shop, "winner").await, unavailable, "no second unit");
        } else {
            assert!(buy(&shop, "winner").await.0 < 300, "without {key} the winner's order is still known");
        }
        eventually("the loss is on the page", async || {
            metrics().render().contains(r#"seckill_buckets_lost{sale="drop"} 1"#)
        })
        .await;
        assert_eq!(shop.stock("drop").await["phone"]["buckets"], json!([null]), "without {key}");
        // Whoever puts a key back does not know what else is gone.
        if key == "stock" {
            let mut keys = Keys::of(&shop).await;
            let name = format!("{}{{drop.0}}:stock", keys.prefix);
            let _: i64 = keys.connection.hset(&name, "phone", 9).await.expect("Redis");
            assert_eq!(buy(&shop, "later").await, unavailable, "it stays closed");
        }
        let worker = worker(&shop).await;
        eventually("it is rebuilt", async || shop.stock("drop").await["phone"]["available"] == 9).await;
        assert!(buy(&shop, "winner").await.0 < 300, "the winner's order is known");
        assert_eq!(buy(&shop, "late-0").await.0, 202, "without {key}");
        shop.stop().await;
        worker.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn what_a_sale_has_lost_calls_until_the_sale_is_settled() {
    let mut shop = front().await;
    // All tests of this process share its metrics.
    shop.open_sale("torn", 1, &[("phone", 10)]).await;
    Keys::of(&shop).await.remove_of("torn", 0, "stock").await;
    let is_shown = async |line: &str| metrics().render().contains(line);
    eventually("the loss is on the page", async || is_shown(r#"seckill_buckets_lost{sale="torn"} 1"#).await)
        .await;
    for (action, body) in [
        ("end", json!({ "reason": "a test" })),
        ("settle", json!({ "reason": "what it has lost is known", "accept_differences": true })),
    ] {
        let done = shop.operate("POST", &format!("/sales/torn/{action}"), body).await;
        assert_eq!(done.status, 200, "{done:?}");
    }
    eventually("nothing of it is left", async || is_shown(r#"seckill_buckets_lost{sale="torn"} 0"#).await)
        .await;
    shop.stop().await;
    assert_rows_kept(&shop.config, "torn").await;
    remove(&shop.config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_acknowledgement_after_the_loss_does_not_hide_it() {
    let shop = front().await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let ports = open(&shop.config).await;
    let bucket = BucketId { sale: SaleId::parse("drop").expect("a slug"), bucket: 0 };
    let sale = ports.sales.sale(&bucket.sale).await.expect("a directory").expect("the sale");
    let request = requests(&shop, &sale, "buyer").remove(0);
    let order = request.record.order_id;
    shop.stage().append(order, vec![request.record.encode()]).await;
    let verdicts = ports.inventory.reserve(&bucket, vec![request].into()).await.expect("Redis");
    let [Verdict::Reserved { outbox_entry, .. }] = &verdicts[..] else { panic!("{verdicts:?}") };
    Keys::of(&shop).await.remove(0, "outbox_orders").await;
    ports.outbox.acknowledge(&bucket, &[order], std::slice::from_ref(outbox_entry)).await.expect("Redis");
    assert_eq!(buy(&shop, "late").await, (503, "dependency_unavailable".to_owned()));
    Box::pin(finish_with_a_worker(shop)).await;
}

/// Ends a test that has damaged Redis on purpose: a worker rebuilds what is lost, and all promises are kept.
async fn finish_with_a_worker(mut front: TestShop) {
    let worker = worker(&front).await;
    eventually("all buckets are there", async || front.stock("drop").await["phone"]["available"].is_number())
        .await;
    front.stop().await;
    worker.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_bucket_without_its_gate_is_named_and_the_others_sell_on() {
    let shop = front().await;
    let mut body = sale_body("drop", 1, &[("phone", 400)]);
    body["buckets"] = json!(4);
    crate::harness::open_sale(shop.admin, body).await;
    Keys::of(&shop).await.remove(2, "gate").await;
    let mut outcomes = Vec::new();
    for n in 0..40 {
        outcomes.push(buy(&shop, &format!("u{n}")).await);
    }
    assert!(outcomes.iter().any(|(status, _)| *status == 202), "{outcomes:?}");
    let refused: Vec<_> = outcomes.iter().filter(|(status, _)| *status != 202).collect();
    assert!(
        !refused.is_empty() && refused.iter().all(|(_, code)| code == "dependency_unavailable"),
        "{refused:?}"
    );
    for action in ["pause", "resume"] {
        let (status, body) = act(&shop, action).await;
        assert_eq!((status, body["code"].as_str()), (502, Some("applied_partly")), "{body}");
        let detail = body["detail"].as_str().expect("a detail");
        assert!(detail.contains("in the directory") && detail.contains("bucket 2: gate missing"), "{detail}");
    }
    let first = outcomes.iter().position(|(status, _)| *status == 202).expect("a winner");
    assert!(buy(&shop, &format!("u{first}")).await.0 < 300, "the other gates were set");
    let (mut keys, worker) = (Keys::of(&shop).await, worker(&shop).await);
    eventually("it is rebuilt", async || {
        let sold = shop.stage().orders("awaiting_payment").await;
        shop.stock("drop").await["phone"]["available"] == 400 - sold
    })
    .await;
    // It alone has another epoch.
    for bucket in 0..4 {
        let gate = format!("{}{{drop.{bucket}}}:gate", keys.prefix);
        let epoch: u32 = keys.connection.hget(&gate, "epoch").await.expect("Redis");
        assert_eq!(epoch, 1 + u32::from(bucket == 2), "bucket {bucket}");
    }
    let mut front = shop;
    front.stop().await;
    worker.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_repeated_preheat_after_redis_lost_its_data_puts_nothing_back() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    // No writer runs, so no unit was granted yet.
    let mut front = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    front.open_sale("drop", 1, &[("phone", 5)]).await;
    for n in 0..3 {
        assert_eq!(buy(&front, &format!("u{n}")).await.0, 202);
    }
    let mut keys = Keys::of(&front).await;
    for key in KEYS.iter().chain(&["gate"]) {
        keys.remove(0, key).await;
    }
    let (status, body) = act(&front, "preheat").await;
    assert_eq!((status, body["code"].as_str()), (502, Some("applied_partly")), "{body}");
    assert_eq!(buy(&front, "late").await, (503, "dependency_unavailable".to_owned()));
    assert_eq!(front.stock("drop").await["phone"]["available"], Value::Null);
    front.stop().await;
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_preheat_that_broke_off_sells_nothing_and_is_finished_by_a_second_one() {
    let mut shop = TestShop::start(Mode::Distributed).await;
    let mut body = sale_body("drop", 1, &[("phone", 10)]);
    body["buckets"] = json!(4);
    crate::harness::open_sale(shop.admin, body).await;
    shop.stop().await;
    // This is what a process leaves that died after two of four buckets.
    let servers = Servers::of(&shop.config);
    servers.execute(0, &format!("UPDATE {}.epochs SET in_place = FALSE", servers.directory())).await;
    let mut keys = Keys::of(&shop).await;
    for bucket in 0..4 {
        if bucket < 2 {
            let gate = format!("{}{{drop.{bucket}}}:gate", keys.prefix);
            let _: i64 = keys.connection.hset(&gate, "state", "placing").await.expect("Redis");
        } else {
            keys.remove(bucket, "gate").await;
        }
    }
    let shop = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    for n in 0..10 {
        assert_eq!(buy(&shop, &format!("early-{n}")).await, (409, "sale_delayed".to_owned()));
    }
    assert_eq!(act(&shop, "preheat").await.0, 200);
    assert_eq!(shop.stock("drop").await["phone"]["available"], 10);
    let mut sold = 0;
    for n in 0..200 {
        sold += u32::from(buy(&shop, &format!("u{n}")).await.0 == 202);
    }
    assert_eq!(sold, 10);
    let stage = shop.stage();
    eventually("all are written", async || stage.orders("awaiting_payment").await == 10).await;
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn units_that_a_dead_process_left_between_two_buckets_come_there_once() {
    let shop = TestShop::start(Mode::Distributed).await;
    let mut body = sale_body("drop", 1, &[("phone", 8)]);
    body["buckets"] = json!(4);
    crate::harness::open_sale(shop.admin, body).await;
    let mut keys = Keys::of(&shop).await;
    let key = |part: &str, bucket: u16| format!("{}{{drop.{bucket}}}:{part}", keys.prefix);
    let (gate, stock, moves) = (key("gate", 1), key("stock", 1), key("moves", 1));
    let (gate_to, stock_to, received) = (key("gate", 2), key("stock", 2), key("received", 2));
    let give = redis::Script::new(include_str!("../../lua/give.lua"));
    let mut call = give.prepare_invoke();
    call.key(gate).key(stock).key(moves).arg("a-move").arg("phone").arg(5).arg(2).arg(1);
    for _ in 0..2 {
        let note: String = call.invoke_async(&mut keys.connection).await.expect("given");
        let note: Vec<&str> = note.split('|').collect();
        assert_eq!(
            (&note[..3], &note[4..]),
            (&["2", "phone", "2"][..], &["1", "1"][..]),
            "what it has, once"
        );
    }
    eventually("somebody finishes the move", async || {
        shop.stock("drop").await["phone"]["buckets"] == json!([2, 0, 4, 2])
    })
    .await;
    // A process that was frozen in the middle repeats it much later.
    let receive = redis::Script::new(include_str!("../../lua/receive.lua"));
    let mut call = receive.prepare_invoke();
    call.key(gate_to).key(stock_to).key(received).arg("a-move").arg("phone").arg(2).arg(1).arg(1).arg(1);
    let answer: i64 = call.invoke_async(&mut keys.connection).await.expect("asked");
    assert_eq!(answer, 1);
    assert_eq!(shop.stock("drop").await["phone"]["available"], 8);
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_outbox_entry_that_cannot_be_delivered_is_set_aside_and_holds_up_nobody() {
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    let mut keys = Keys::of(&shop).await;
    let key = |part: &str| format!("{}{{drop.0}}:{part}", keys.prefix);
    let (outbox, length, set_aside) = (key("outbox"), key("outbox_orders"), key("set_aside"));
    // Somebody wrote to the stream, and the hold of an order is gone.
    let mut add = redis::pipe();
    add.cmd("XADD").arg(&outbox).arg("1-1").arg("what").arg("is this").ignore();
    add.cmd("XADD")
        .arg(&outbox)
        .arg("1-2")
        .arg("epoch")
        .arg(1)
        .arg("orders")
        .arg([7u8; 16].as_slice())
        .ignore();
    add.cmd("INCRBY").arg(&length).arg(1).ignore();
    let _: () = add.query_async(&mut keys.connection).await.expect("added");
    for n in 0..5 {
        assert_eq!(buy(&shop, &format!("u{n}")).await.0, 202);
    }
    eventually("both are set aside", async || {
        let aside: i64 = keys.connection.clone().xlen(&set_aside).await.expect("Redis");
        aside == 2
    })
    .await;
    type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;
    let kept: Entries = keys.connection.xrange_all(&set_aside).await.expect("read");
    let fields: Vec<&str> =
        kept.iter().flat_map(|(_, fields)| fields.iter().map(|(name, _)| name.as_str())).collect();
    assert_eq!(fields, ["entry", "what", "entry", "epoch", "orders"], "nothing of them is lost");
    let stage = shop.stage();
    eventually("the others are written", async || stage.orders("awaiting_payment").await == 5).await;
    shop.finish().await;
}
