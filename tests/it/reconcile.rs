//! Tests of step 18: whatever is wrong in the books is found by its kind, and mended, or told to a person.

use std::time::Duration;

use seckill::app::Role;
use seckill::clock::Clock;
use seckill::config::{Config, Mode};
use seckill::domain::{BucketId, OrderId, Sale, SaleId, Shard};
use seckill::ports::Ports;
use serde_json::{Value, json};

use crate::harness::{Servers, TestShop, config, eventually, migrated, open, rfc3339, sale_body};
use crate::relay::requests;

const STOCK: i64 = 30;

/// A shop with a sale in two buckets, of which six units are held, and whose workers leave the books alone.
struct Watched {
    shop: TestShop,
    ports: Ports,
    sale: Sale,
    redis: redis::aio::MultiplexedConnection,
}

impl Watched {
    async fn start() -> Self {
        let config = config(Mode::Distributed, &[]);
        migrated(&config).await;
        let ports = open(&config).await;
        let hour = Duration::from_secs(3600);
        assert!(ports.books.databases.turn([7; 16], hour).await.expect("MySQL"), "nobody else looks");
        let shop = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
        let mut body = sale_body("drop", 2, &[("phone", 30)]);
        body["buckets"] = json!(2);
        body["starts_at"] = json!(rfc3339(Clock::System.now_ms() - 60_000));
        crate::harness::open_sale(shop.admin, body).await;
        for n in 0..6 {
            shop.unpaid(&format!("u{n}"), "k").await;
        }
        let id = SaleId::parse("drop").expect("a slug");
        let sale = ports.sales.sale(&id).await.expect("a directory").expect("the sale");
        let client = redis::Client::open(config.redis.url.as_str()).expect("a client");
        let redis = client.get_multiplexed_async_connection().await.expect("Redis");
        Self { shop, ports, sale, redis }
    }

    /// Goes on with a front alone.
    async fn without_workers(self) -> Self {
        let Self { shop: mut worker, ports, sale, redis } = self;
        let front = TestShop::start_on(worker.config.clone(), open(&worker.config).await, Role::Api).await;
        worker.stop().await;
        Self { shop: front, ports, sale, redis }
    }

    fn config(&self) -> &Config {
        &self.shop.config
    }

    fn key(&self, bucket: u16, part: &str) -> String {
        format!("{}{{drop.{bucket}}}:{part}", self.config().redis.key_prefix)
    }

    async fn redis(&mut self, words: &[&[u8]]) {
        let mut command = redis::cmd(std::str::from_utf8(words[0]).expect("a command"));
        for word in &words[1..] {
            command.arg(*word);
        }
        let done: redis::Value = command.query_async(&mut self.redis).await.expect("Redis");
        drop(done);
    }

    /// Looks at the books as an operator, and returns what was found: kind, place, amount and whether it was mended.
    async fn look(&self, apply: bool) -> Vec<(String, String, i64, bool)> {
        let body = json!({ "reason": "a test", "apply": apply });
        let answer = self.shop.operate("POST", "/reconcile", body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let drifts = answer.json()["drifts"].as_array().expect("drifts").clone();
        let read = |drift: &Value| {
            let amount = drift["amount"].as_i64().expect("a number");
            (text(&drift["kind"]), text(&drift["place"]), amount, drift["mended"] == true)
        };
        drifts.iter().map(read).collect()
    }

    /// Asserts that a look finds exactly this, that it changes nothing, and that `--apply` mends it to the end.
    async fn finds_and_mends(&self, expected: &[(&str, &str, i64)]) {
        let of = |mended| -> Vec<(String, String, i64, bool)> {
            let all = expected.iter();
            all.map(|(kind, place, amount)| (kind.to_string(), place.to_string(), *amount, mended)).collect()
        };
        assert_eq!(self.look(false).await, of(false));
        assert_eq!(self.look(true).await, of(true), "the first look changed nothing");
        eventually("the books are right", async || self.look(false).await.is_empty()).await;
    }

    /// Asserts that a look finds exactly this, and that only a person can mend it.
    async fn finds(&self, expected: &[(&str, &str, i64)]) {
        let of: Vec<(String, String, i64, bool)> = expected
            .iter()
            .map(|(kind, place, amount)| (kind.to_string(), place.to_string(), *amount, false))
            .collect();
        assert_eq!(self.look(true).await, of);
        assert_eq!(self.look(false).await, of, "it stands until somebody has ended it");
    }

    async fn units(&self) -> i64 {
        self.shop.stock("drop").await["phone"]["available"].as_i64().unwrap_or(-1)
    }

    fn servers(&self) -> Servers {
        Servers::of(self.config())
    }

    /// Returns the database of orders that a user's orders are in, with its instance.
    fn database_of(&self, user: &str) -> (Shard, usize, String) {
        let map = self.config().shard_map().expect("a map");
        let shard = map.shard_of(&seckill::domain::UserId::parse(user).expect("a user"));
        let (instance, database) = self.servers().shards()[usize::from(shard.number())].clone();
        (shard, instance, database)
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn units_that_leaked_or_are_too_many_are_found_and_the_buckets_are_rebuilt() {
    let mut shop = Watched::start().await;
    assert_eq!(shop.look(true).await, [], "nothing is wrong");
    let stock = shop.key(1, "stock");
    shop.redis(&[b"HINCRBY", stock.as_bytes(), b"phone", b"-2"]).await;
    shop.finds_and_mends(&[("units_missing", "phone", -2)]).await;
    assert_eq!(shop.units().await, STOCK - 6);
    shop.redis(&[b"HINCRBY", stock.as_bytes(), b"phone", b"3"]).await;
    shop.finds_and_mends(&[("units_extra", "phone", 3)]).await;
    assert_eq!(shop.units().await, STOCK - 6);
    // The rebuilt buckets have an epoch of their own. One that goes on with an older one is closed.
    let directory = shop.servers().directory();
    let raise = format!("UPDATE {directory}.bucket_epochs SET epoch = epoch + 4 WHERE bucket = 0");
    shop.servers().execute(0, &raise).await;
    shop.finds_and_mends(&[("epoch_old", "bucket 0", 4)]).await;
    assert_eq!(shop.units().await, STOCK - 6);
    shop.shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn holds_without_an_order_and_orders_without_a_hold_are_found() {
    let mut shop = Watched::start().await;
    let order = shop.shop.buy("u0", "drop", "phone", "k").await.json();
    let order = OrderId::parse(order["id"].as_str().expect("an id")).expect("an id");
    let map = shop.config().shard_map().expect("a map");
    let bucket = map.bucket_of(order.shard(), 2);
    let place = format!("bucket {bucket}");
    let orders = shop.key(bucket, "orders");
    // The hold of an order is gone: its unit is nowhere, and its buyer could buy it again.
    shop.redis(&[b"HDEL", orders.as_bytes(), order.bytes()]).await;
    shop.finds_and_mends(&[("holds_differ", &place, -1), ("units_missing", "phone", -1)]).await;
    let again = shop.shop.buy("u0", "drop", "phone", "k").await;
    assert_eq!(again.status, 200, "{again:?}");
    // A hold whose order nobody has: the unit that it took would be nobody's for ever.
    let stray = [&order.bytes()[..4], &[9; 12]].concat();
    let value = b"q|0123456789abcdef|1|1|phone|nobody";
    shop.redis(&[b"HSET", orders.as_bytes(), &stray, value]).await;
    let stock = shop.key(bucket, "stock");
    shop.redis(&[b"HINCRBY", stock.as_bytes(), b"phone", b"-1"]).await;
    shop.finds_and_mends(&[("holds_differ", &place, 1)]).await;
    assert_eq!(shop.units().await, STOCK - 6);
    // Both at once: as many units are held, but not by the orders that there are.
    shop.redis(&[b"HDEL", orders.as_bytes(), order.bytes()]).await;
    shop.redis(&[b"HSET", orders.as_bytes(), &stray, value]).await;
    shop.finds_and_mends(&[("holds_differ", &place, 1)]).await;
    let again = shop.shop.buy("u0", "drop", "phone", "k").await;
    assert_eq!(again.status, 200, "{again:?}");
    shop.shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_outbox_that_lost_an_entry_or_miscounts_is_mended() {
    let mut shop = Watched::start().await;
    // A process reserves and dies, and its entry is lost. The order has to be older than a front needs to send it.
    let wish = requests(&shop.shop, &shop.sale, "late").swap_remove(0);
    let map = shop.config().shard_map().expect("a map");
    let bucket = map.bucket_of(wish.record.order_id.shard(), 2);
    let id = BucketId { sale: shop.sale.id.clone(), bucket };
    let (outbox, count, orders) =
        (shop.key(bucket, "outbox"), shop.key(bucket, "outbox_orders"), shop.key(bucket, "orders"));
    shop.ports.inventory.reserve(&id, [wish.clone()].into()).await.expect("Redis");
    shop.redis(&[b"XTRIM", outbox.as_bytes(), b"MAXLEN", b"0"]).await;
    let order = wish.record.order_id;
    let hold: String = redis::cmd("HGET")
        .arg(&orders)
        .arg(order.bytes().as_slice())
        .query_async(&mut shop.redis)
        .await
        .expect("a hold");
    let mut fields: Vec<&str> = hold.split('|').collect();
    let earlier = (wish.record.accepted_ms - 30_000).to_string();
    fields[3] = &earlier;
    shop.redis(&[b"HSET", orders.as_bytes(), order.bytes(), fields.join("|").as_bytes()]).await;
    let place = format!("bucket {bucket}");
    let found = shop.look(true).await;
    let expected = [("order_unsent", 1), ("outbox_count", 1)];
    let found: Vec<(&str, i64)> = found
        .iter()
        .filter(|(kind, at, ..)| *at == place && kind != "holds_differ")
        .map(|(kind, _, amount, _)| (kind.as_str(), *amount))
        .collect();
    assert_eq!(found, expected);
    eventually("it is an order", async || shop.shop.stage().orders("awaiting_payment").await == 7).await;
    eventually("the books are right", async || shop.look(false).await.is_empty()).await;
    shop.redis(&[b"SET", count.as_bytes(), b"5"]).await;
    shop.finds_and_mends(&[("outbox_count", &place, 5)]).await;
    shop.shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn claims_grants_ledgers_and_payments_that_belong_to_nothing_are_found() {
    let shop = Watched::start().await;
    let servers = shop.servers();
    let (shard, instance, database) = shop.database_of("u1");
    let place = format!("shard {}", shard.number());
    let claim = format!("INSERT INTO {database}.claims VALUES ('drop', 'u1', 7, REPEAT('x', 16))");
    servers.execute(instance, &claim).await;
    shop.finds_and_mends(&[("claim_stray", &place, 1)]).await;

    // A grant of which its taker never heard. Its unit is nobody's until then.
    let controls = servers.controls();
    let (giver, taker) = (&controls[0].1, &controls[1].1);
    let give = format!("UPDATE {giver}.pool SET granted = granted + 1 WHERE sale_id = 'drop'");
    servers.execute(0, &give).await;
    let grant = format!(
        "INSERT INTO {giver}.grants (grant_id, sale_id, sku_id, taker, units, settled, giver, at) \
         VALUES (REPEAT('g', 16), 'drop', 'phone', 1, 1, FALSE, 0, NOW(3) - INTERVAL 1 MINUTE)"
    );
    servers.execute(0, &grant).await;
    let before = servers.number(1, &format!("SELECT allotted FROM {taker}.ledger")).await;
    shop.finds_and_mends(&[("grant_stray", "instance 0", 1)]).await;
    assert_eq!(servers.number(1, &format!("SELECT allotted FROM {taker}.ledger")).await, before + 1);

    let allot = |units: i64| format!("UPDATE {taker}.ledger SET allotted = allotted + {units}");
    servers.execute(1, &allot(2)).await;
    shop.finds(&[("allotment_differs", "phone on instance 1", 2)]).await;
    servers.execute(1, &allot(-2)).await;

    // What only one side of two instances has: the taker's, as when it took what the giver has lost, and the giver's.
    let id = "grant_id = REPEAT('h', 16)";
    let row = |at: &str| {
        format!(
            "INSERT INTO {at}.grants (grant_id, sale_id, sku_id, taker, units, settled, giver) \
             VALUES (REPEAT('h', 16), 'drop', 'phone', 1, 3, TRUE, 0)"
        )
    };
    servers.execute(1, &row(taker)).await;
    servers.execute(1, &allot(3)).await;
    shop.finds(&[("allotment_differs", "phone on instance 1", 3)]).await;
    servers.execute(0, &row(giver)).await;
    assert_eq!(shop.look(false).await, [], "both sides have it");
    servers.execute(1, &format!("DELETE FROM {taker}.grants WHERE {id}")).await;
    servers.execute(1, &allot(-3)).await;
    shop.finds(&[("allotment_differs", "phone on instance 1", -3)]).await;
    servers.execute(0, &format!("DELETE FROM {giver}.grants WHERE {id}")).await;

    let hold = |units: i64| {
        format!("UPDATE {taker}.ledger SET allotted = allotted + {units}, held = held + {units}")
    };
    servers.execute(1, &hold(1)).await;
    shop.finds(&[("allotment_differs", "phone on instance 1", 1), ("ledger_differs", "instance 1", 1)]).await;
    servers.execute(1, &hold(-1)).await;

    let order = OrderId::last_of(shard, shop.sale.month());
    let id: String = order.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let pay = format!(
        "INSERT INTO {database}.payments (order_id, attempt, state, request, created_ms) \
         VALUES (x'{id}', 1, 'captured', '', 1)"
    );
    servers.execute(instance, &pay).await;
    shop.finds(&[("payment_stray", &place, 1)]).await;
    servers.execute(instance, &format!("DELETE FROM {database}.payments WHERE order_id = x'{id}'")).await;

    let user = "WHERE user_id = 'u1'";
    let keep = format!("CREATE TABLE {database}.kept SELECT * FROM {database}.claims {user}");
    servers.execute(instance, &keep).await;
    servers.execute(instance, &format!("DELETE FROM {database}.claims {user}")).await;
    shop.finds(&[("claim_missing", &place, 1)]).await;
    servers.execute(instance, &format!("INSERT INTO {database}.claims SELECT * FROM {database}.kept")).await;
    servers.execute(instance, &format!("DROP TABLE {database}.kept")).await;
    assert_eq!(shop.look(false).await, []);
    shop.shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_order_on_its_way_is_nothing_wrong() {
    let shop = Watched::start().await.without_workers().await;
    for n in 6..9 {
        assert_eq!(shop.shop.buy(&format!("u{n}"), "drop", "phone", "k").await.status, 202);
    }
    for bucket in 0..2 {
        let counted = shop.key(bucket, "outbox_orders");
        eventually("the order log has them", async || {
            let get = redis::cmd("GET").arg(&counted).query_async(&mut shop.redis.clone()).await;
            get.is_ok_and(|orders: i64| orders == 0)
        })
        .await;
    }
    assert_eq!(shop.look(true).await, [], "their rows are not written yet");
    let mut worker = TestShop::start_on(shop.config().clone(), open(shop.config()).await, Role::Worker).await;
    eventually("they are", async || shop.shop.stage().orders("awaiting_payment").await == 9).await;
    worker.stop().await;
    shop.shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_order_that_nobody_lets_expire_is_told() {
    let shop = Watched::start().await.without_workers().await;
    let (_, instance, database) = shop.database_of("u2");
    let month = shop.sale.month().yyyymm();
    let table = format!("{database}.orders_{month}");
    let of_user = format!("SELECT expires_ms FROM {table} WHERE user_id = 'u2'");
    let expires_ms = shop.servers().number(instance, &of_user).await;
    let set = |ms: i64| format!("UPDATE {table} SET expires_ms = {ms} WHERE user_id = 'u2'");
    shop.servers().execute(instance, &set(1000)).await;
    shop.finds(&[("order_overdue", &format!("instance {instance}"), 1)]).await;
    shop.servers().execute(instance, &set(expires_ms)).await;
    shop.shop.finish().await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn workers_find_and_mend_by_themselves_within_twenty_seconds() {
    let mut redis = Watched::start().await;
    // From now on the workers look.
    assert!(redis.ports.books.databases.turn([7; 16], Duration::ZERO).await.expect("MySQL"));
    let (stock, count) = (redis.key(0, "stock"), redis.key(1, "outbox_orders"));
    redis.redis(&[b"HINCRBY", stock.as_bytes(), b"phone", b"4"]).await;
    redis.redis(&[b"SET", count.as_bytes(), b"9"]).await;
    let began = std::time::Instant::now();
    let mut connection = redis.redis.clone();
    eventually("both are mended", async || {
        let left: Option<i64> = ::redis::AsyncCommands::get(&mut connection, &count).await.expect("Redis");
        redis.units().await == STOCK - 6 && left.unwrap_or(0) == 0
    })
    .await;
    assert!(began.elapsed() <= Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(redis.look(false).await, []);
    redis.shop.finish().await;
}

#[cfg(feature = "embedded")]
#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn in_a_folder_the_same_is_found_and_put_right_without_a_rebuild() {
    use crate::harness::data_folder::DataFolder;

    let shop = TestShop::start(Mode::Embedded).await;
    shop.open_sale("drop", 1, &[("phone", 10), ("pad", 5)]).await;
    for n in 0..3 {
        shop.unpaid(&format!("u{n}"), "k").await;
    }
    let folder = DataFolder::of(&shop.config);
    let look = async |apply: bool| {
        let answer = shop.operate("POST", "/reconcile", json!({ "reason": "a test", "apply": apply })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let drifts = answer.json()["drifts"].as_array().expect("drifts").clone();
        let is_unit = |drift: &&Value| drift["kind"].as_str().is_some_and(|kind| kind.starts_with("units"));
        assert!(drifts.iter().filter(is_unit).all(|drift| drift["mended"] == apply), "{drifts:?}");
        let kinds = drifts.iter().map(|drift| drift["kind"].as_str().expect("a text").to_owned());
        kinds.collect::<Vec<_>>()
    };
    assert_eq!(look(false).await, [""; 0]);
    let available = async || shop.stock("drop").await["phone"]["available"].clone();
    for units in [2, -3] {
        let change = format!("UPDATE stock SET available = available + {units}");
        folder.try_execute(&change).await.expect("changed by hand");
        // The process looks by itself, too, so it may have been quicker.
        look(true).await;
        eventually("what is for sale is right", async || available().await == 7).await;
    }
    folder.try_execute("INSERT INTO claims VALUES ('drop', 'u1', 7, 'none')").await.expect("by hand");
    look(true).await;
    eventually("the claim is gone", async || folder.number("SELECT COUNT(*) FROM claims").await == 3).await;
    let payment = "INSERT INTO payments (order_id, attempt, state, request, created_ms) \
                   VALUES ('none', 1, 'captured', '', 1)";
    folder.try_execute(payment).await.expect("by hand");
    assert_eq!(look(true).await, ["payment_stray"]);
    folder.try_execute("DELETE FROM payments").await.expect("by hand");
    assert_eq!(look(false).await, [""; 0]);
    shop.finish().await;
}
