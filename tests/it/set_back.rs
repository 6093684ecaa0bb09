//! Tests of a MySQL instance that was set back: a backup was restored, or a replica took over that was behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use seckill::app::{self, Recovered, Role, Wish};
use seckill::clock::Clock;
use seckill::config::{Config, Mode, Secret};
use seckill::domain::watermark::SetBack;
use seckill::domain::{Month, OrderId, Shard, StoredEvent, UserId};
use seckill::ports::{Effect, ErrorKind, Ports, StoreError, Watermarks};
use serde_json::{Value, json};
use sqlx::Row;

use crate::harness::{Books, Servers, TestShop, config, eventually, migrated, open, remove};
use crate::provider::{Provider, WEBHOOK, WEBHOOK_SECRET, paying, simulator};

/// Asks for an order in a shard of the last instance and in one of the first. Answers the failure of the former.
async fn ask(ports: &Ports, servers: &Servers) -> Option<StoreError> {
    let order = |shard: usize| {
        let shard = Shard::new(u16::try_from(shard).expect("a few"));
        OrderId::first_of(shard, Month::of_ms(Clock::System.now_ms()))
    };
    let last = servers.shards().len() - 1;
    assert_eq!(ports.orders.order(order(0)).await.expect("the other instance is used"), None);
    ports.orders.order(order(last)).await.err()
}

/// Opens databases of the test's own whose watermarks have grown.
async fn watched() -> (Config, Ports, Arc<dyn Watermarks>) {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let ports = open(&config).await;
    let watermarks = ports.recovery.clone().expect("a recovery").watermarks;
    for _ in 0..3 {
        watermarks.look().await.expect("servers");
    }
    (config, ports, watermarks)
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn an_instance_with_older_data_is_not_used_while_it_has_them() {
    let (config, ports, watermarks) = watched().await;
    let servers = Servers::of(&config);
    assert!(ask(&ports, &servers).await.is_none());
    let (at, control) = servers.controls().pop().expect("an instance");
    servers.execute(at, &format!("UPDATE {control}.watermark SET mark = mark - 1")).await;
    watermarks.look().await.expect("servers");
    let failure = ask(&ports, &servers).await.expect("it is not used");
    assert_eq!((failure.kind, failure.effect), (ErrorKind::Unavailable, Effect::NotApplied));
    assert!(failure.to_string().contains("seckill recover mysql"), "{failure}");
    let set_back: Vec<bool> = watermarks.set_back().into_values().collect();
    assert_eq!(set_back, [false, true]);
    let faults = futures::future::join_all(ports.probes.iter().map(|probe| probe.check())).await;
    let words: Vec<String> = faults.into_iter().filter_map(Result::err).map(|fault| fault.words).collect();
    assert!(matches!(&words[..], [words] if words.starts_with("was set back")), "{words:?}");
    // A process that starts now hears it from Redis.
    assert!(ask(&open(&config).await, &servers).await.is_some());
    servers.execute(at, &format!("UPDATE {control}.watermark SET mark = mark + 1")).await;
    watermarks.look().await.expect("servers");
    assert!(ask(&ports, &servers).await.is_none());
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn no_connection_to_another_server_than_that_of_the_data_is_used() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let servers = Servers::of(&config);
    let (at, control) = servers.controls().pop().expect("an instance");
    servers.execute(at, &format!("UPDATE {control}.watermark SET server = 'the one before'")).await;
    let ports = open(&config).await;
    let failure = ask(&ports, &servers).await.expect("it is not used");
    assert!(failure.to_string().contains("seckill recover mysql"), "{failure}");
    let opened = app::open_positions(&config).await.expect("the first instance is used");
    assert_eq!(opened.positions.positions().await.len(), 1, "a command uses it as little");
    // A migration makes its tables, and does not take the server for that of the data.
    migrated(&config).await;
    assert!(ask(&open(&config).await, &servers).await.is_some());
    remove(&config).await;
}

/// A copy of all that an instance has of one test, on the same server.
struct Backup<'a> {
    servers: &'a Servers,
    at: usize,
    /// The tables, each with its copy.
    tables: Vec<(String, String)>,
}

impl<'a> Backup<'a> {
    async fn of(servers: &'a Servers, at: usize) -> Self {
        let text = format!(
            "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables \
             WHERE table_schema LIKE '{}%' AND table_schema NOT LIKE '%\\_backup'",
            servers.prefix()
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(text)).fetch_all(servers.pool(at)).await.expect("tables");
        let mut tables = Vec::new();
        for row in rows {
            let table: String = row.try_get(0).expect("a name");
            let (database, name) = table.split_once('.').expect("both");
            let copy = format!("{database}_backup.{name}");
            for text in [
                format!("CREATE DATABASE IF NOT EXISTS {database}_backup"),
                format!("CREATE TABLE {copy} LIKE {table}"),
                format!("INSERT INTO {copy} SELECT * FROM {table}"),
            ] {
                servers.execute(at, &text).await;
            }
            tables.push((table, copy));
        }
        Self { servers, at, tables }
    }

    async fn remove(&self) {
        for (_, copy) in &self.tables {
            let (database, _) = copy.split_once('.').expect("both");
            self.servers.execute(self.at, &format!("DROP DATABASE IF EXISTS {database}")).await;
        }
    }

    async fn restore(&self) {
        for (table, copy) in &self.tables {
            self.servers.execute(self.at, &format!("TRUNCATE TABLE {table}")).await;
            self.servers.execute(self.at, &format!("INSERT INTO {table} SELECT * FROM {copy}")).await;
        }
    }
}

/// Buyers whose orders are on one of two instances.
fn buyers(shop: &TestShop, at: u16) -> impl Iterator<Item = String> + use<> {
    let map = shop.config.shard_map().expect("a map");
    let is_there = move |name: &String| {
        let user = UserId::parse(name).expect("an id");
        map.instance_of(map.shard_of(&user)).number() == at
    };
    (0..).map(move |n| format!("u{at}-{n}")).filter(is_there)
}

async fn pay(shop: &TestShop, provider: &Provider, page: &str, (user, order): &(String, String)) {
    provider.press(page, "pay").await;
    provider.events.run_once().await;
    assert_eq!(shop.status(user, order).await, "paid");
}

async fn refund(shop: &TestShop, order: &str, restock: bool) {
    let body = json!({ "reason": "broken", "restock": restock });
    assert_eq!(shop.operate("POST", &format!("/orders/{order}/refund"), body).await.status, 200);
}

/// Reads the status of every order.
async fn statuses(shop: &TestShop, orders: &[(String, String)]) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (user, order) in orders {
        all.insert(order.clone(), shop.status(user, order).await);
    }
    all
}

/// Waits until all that happened was told to the topic.
async fn told(shop: &TestShop, servers: &Servers) {
    eventually("all events are passed on", async || {
        let mut behind = 0;
        for (at, control) in servers.controls() {
            behind += servers
                .number(
                    at,
                    &format!(
                        "SELECT CAST(COALESCE(SUM(l.next_number - COALESCE(r.next_number, 1)), 0) AS SIGNED) \
                         FROM {control}.event_logs l LEFT JOIN {control}.event_readers r \
                         ON r.part = l.part AND r.reader = 'topic'"
                    ),
                )
                .await;
        }
        behind == 0
    })
    .await;
    assert!(shop.config.kafka.events_topic.ends_with(".events"));
}

async fn recover(config: &Config, at: u16, reason: Option<&str>) -> Recovered {
    let wish = Wish { instance: at, since_ms: None, apply: reason.map(str::to_owned) };
    Box::pin(app::recover_mysql(config, wish, &|_| ())).await.expect("all servers")
}

/// What happens after the backup of an instance, and is lost with it. Answers the order whose payment page is open, and
/// what became of every order.
async fn lose(
    shop: &TestShop,
    provider: &Provider,
    at: u16,
    (before, page): (&[(String, String)], &str),
) -> ((String, String), BTreeMap<String, Value>) {
    let (mut here, there) = (buyers(shop, at).skip(before.len()), buyers(shop, 1 - at));
    let mut orders = before.to_vec();
    pay(shop, provider, page, &before[0]).await;
    let (_, page) = shop.payment(&before[1].0, &before[1].1).await;
    pay(shop, provider, &page, &before[1]).await;
    assert_eq!(shop.act(&before[2].0, &before[2].1, "cancel").await.status, 200);
    for end in ["wait", "open", "pay", "cancel", "withhold", "restock"] {
        let user = here.next().expect("endless");
        let order = (user.clone(), shop.unpaid(&user, "k").await);
        match end {
            "wait" => {}
            "open" => drop(shop.payment(&user, &order.1).await),
            "cancel" => assert_eq!(shop.act(&user, &order.1, "cancel").await.status, 200),
            _ => {
                let (_, page) = shop.payment(&user, &order.1).await;
                pay(shop, provider, &page, &order).await;
                if end != "pay" {
                    refund(shop, &order.1, end == "restock").await;
                }
            }
        }
        orders.push(order);
    }
    // More than either instance has of its own.
    for user in there.take(24) {
        let order = shop.unpaid(&user, "k").await;
        orders.push((user, order));
    }
    for user in here.take(24) {
        let bought = shop.buy(&user, "drop", "bag", "b").await.json();
        let order = bought["id"].as_str().expect("accepted").to_owned();
        assert_eq!(shop.decided(&user, &order).await["status"], "awaiting_payment");
        orders.push((user, order));
    }
    // A directory that is set back has lost what was adjusted. Otherwise the instance does its part again.
    for (sku, from, to) in [("bag", 40, 46), ("phone", 40, 39)].into_iter().filter(|_| at == 1) {
        let wish = json!({ "sku_id": sku, "expected_stock": from, "stock": to, "reason": "a test" });
        let adjusted = shop.operate("POST", "/sales/drop/stock/adjust", wish).await;
        assert_eq!(adjusted.status, 200, "{adjusted:?}");
    }
    for action in ["pause", "resume"] {
        let changed =
            shop.operate("POST", &format!("/sales/drop/{action}"), json!({ "reason": "a test" })).await;
        assert_eq!(changed.status, 200, "{changed:?}");
    }
    eventually("the money is back", async || {
        provider.books().iter().filter(|(_, _, refunded)| *refunded > 0).count() == 2
    })
    .await;
    let opened = orders[before.len() + 1].clone();
    (opened, statuses(shop, &orders).await)
}

/// Sells, pays, cancels and refunds before and after a backup of an instance, puts the backup back, and asserts that
/// the recovered shop has what it had. `at` is the instance; units move between it and the other one meanwhile.
async fn survives_a_backup_of(at: u16) {
    let simulator = simulator();
    let url = format!("http://{}", simulator.address);
    let config = config(Mode::Distributed, &paying(&url));
    migrated(&config).await;
    let mut shop = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    let provider = Provider::of(simulator, &shop);
    let servers = Servers::of(&config);
    shop.open_sale("drop", 2, &[("phone", 40), ("bag", 40)]).await;
    let mut before = Vec::new();
    for user in buyers(&shop, at).take(4) {
        let order = shop.unpaid(&user, "k").await;
        before.push((user, order));
    }
    let (_, page) = shop.payment(&before[0].0, &before[0].1).await;
    eventually("a watermark", async || {
        let (instance, control) = &servers.controls()[usize::from(at)];
        servers.number(*instance, &format!("SELECT mark FROM {control}.watermark")).await > 0
    })
    .await;
    let backup = Backup::of(&servers, at.into()).await;
    let (opened, was) = lose(&shop, &provider, at, (&before, &page)).await;
    told(&shop, &servers).await;
    let version = async |shop: &TestShop| {
        shop.operate("GET", "/sales/drop", Value::Null).await.json()["version"].as_u64().expect("a version")
    };
    let changed = version(&shop).await;
    shop.stop().await;
    backup.restore().await;
    backup.remove().await;

    let found = recover(&config, at, None).await;
    assert_eq!(found.set_back, Some(SetBack::OlderData), "{found:?}");
    // What an operator has changed is only in the gates, and is told.
    let sales = usize::from(at == 0);
    assert_eq!((found.applied, found.sales, found.unclear.len()), (false, sales, sales), "{found:?}");
    assert!(found.rows >= 29 && found.steps == 1 && found.paid_steps > 0, "{found:?}");
    assert!(found.grants_given > 0 && found.grants_taken > 0, "{found:?}");
    assert_eq!(json!(found), json!(recover(&config, at, None).await), "looking changes nothing");
    let done = recover(&config, at, Some("a backup was restored")).await;
    assert_eq!((done.applied, done.buckets, done.unclear.len()), (true, 1, sales), "{done:?}");
    assert_eq!((done.rows, done.steps, done.captures), (found.rows, found.steps, found.captures));

    let shop = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    for (order, status) in &was {
        let view = shop.operate("GET", &format!("/orders/{order}"), Value::Null).await.json();
        assert_eq!(view["status"], *status, "{view}");
    }
    assert_eq!(shop.stage().notes("mysql_recover").await.len(), 1);
    // Who had a page open may pay on it, and finds it again.
    let (user, order) = opened;
    assert_eq!(shop.status(&user, &order).await, "awaiting_payment");
    let (_, page) = shop.payment(&user, &order).await;
    let events =
        provider.simulator.events(&format!("http://{}{WEBHOOK}", shop.shopper), &Secret::new(WEBHOOK_SECRET));
    provider.press(&page, "pay").await;
    events.expect("a sender").run_once().await;
    assert_eq!(shop.status(&user, &order).await, "paid");
    let nothing = recover(&config, at, None).await;
    assert_eq!((nothing.set_back, nothing.rows), (None, 0));
    // Whoever has lost units, or has too many, is found by the last ones.
    let mut late = buyers(&shop, at).skip(1000);
    eventually("the last unit is sold", async || {
        shop.buy(&late.next().expect("endless"), "drop", "phone", "k").await;
        shop.stage().sum("SUM(held + sold + withheld)", "ledger").await == 40 - i64::from(at) + 24
    })
    .await;
    // The gates follow what the directory says again, because it is no older than they are.
    assert_eq!(version(&shop).await, changed);
    let paused = shop.operate("POST", "/sales/drop/pause", json!({ "reason": "a test" })).await;
    assert_eq!(paused.status, 200, "{paused:?}");
    let refused = shop.buy(&late.next().expect("endless"), "drop", "bag", "k").await;
    assert_eq!(refused.problem().1, "sale_paused", "{refused:?}");
    shop.finish_with(Books::Audited).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_backup_of_the_instance_with_the_directory_is_restored() {
    Box::pin(survives_a_backup_of(0)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_backup_of_another_instance_is_restored() {
    Box::pin(survives_a_backup_of(1)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn what_nobody_can_bring_together_is_told_and_its_number_is_not_given_again() {
    let (config, ports, _) = watched().await;
    let servers = Servers::of(&config);
    let map = config.shard_map().expect("a map");
    let shard = map.all_shards().last().expect("a shard");
    let order = OrderId::first_of(shard, Month::of_ms(Clock::System.now_ms()));
    let step = json!({
        "order_id": order, "user_id": "ada", "sale_id": "gone", "sku_id": "phone", "quantity": 1,
        "unit_price": { "amount": 1, "currency": "CNY" }, "kind": "persisted", "from": "queued",
        "to": "awaiting_payment", "by": "order_writer", "accepted_ms": 5,
    });
    let row = json!({ "common": {}, "moves": [step] }).to_string();
    let part = map.part_of(shard);
    let events = StoredEvent::of_row(part, (1000, 1), Clock::System.now_ms(), row.as_bytes()).expect("a row");
    ports.event_topic.clone().expect("a topic").publish(&events).await.expect("Kafka");
    let (at, control) = servers.controls().pop().expect("an instance");
    servers.execute(at, &format!("UPDATE {control}.watermark SET mark = 0")).await;
    let done = recover(&config, 1, Some("a test")).await;
    assert!(done.applied && done.rows == 0, "{done:?}");
    let said = |words: &str| done.unclear.iter().any(|unclear| unclear.contains(words));
    assert!(said("the directory has no sale gone") && said("has not the events 1 to 999"), "{done:?}");
    let next = format!("SELECT next_number FROM {control}.event_logs WHERE part = {}", part.number());
    assert_eq!(servers.number(at, &next).await, 1001);
    remove(&config).await;
}
