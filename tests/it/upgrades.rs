//! Upgrades a shop of version 0.1.0: its folder, or its databases, keys and topic, as its own binary left them with
//! live orders in them. `tests/fixtures/0.1.0/README.md` says what they are and how they were made.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use loadtest::audit;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use seckill::app;
use seckill::backend::distributed::Unawaited;
use seckill::config::{Config, Mode};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use crate::harness::{Servers, TestShop, config, eventually, evidence_of, migrated, open};

/// The name that stands in the fixtures wherever a shop has a name of its own.
const NAME: &str = "v010";
const ON: &str = "drop";
const OVER: &str = "past";

/// An order that the old version had accepted.
#[derive(Deserialize)]
struct Accepted {
    id: String,
    sale: String,
    user: String,
    sku: String,
    quantity: u32,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/0.1.0").join(name)
}

fn text_of(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn lines_of<T: for<'a> Deserialize<'a>>(name: &str) -> Vec<T> {
    text_of(name).lines().map(|line| serde_json::from_str(line).expect("a line of the fixture")).collect()
}

/// Puts the old shop in place under the names of a configuration.
async fn restore(config: &Config) {
    match config.backend.mode {
        Mode::Embedded => {
            let folder = &config.embedded.folder;
            std::fs::create_dir_all(folder).expect("a folder");
            std::fs::copy(fixture("seckill.db"), folder.join("seckill.db")).expect("copied");
        }
        Mode::Distributed => {
            restore_databases(config).await;
            restore_keys(config).await;
            restore_topic(config).await;
        }
    }
}

async fn restore_databases(config: &Config) {
    let servers = Servers::of(config);
    for instance in 0..config.mysql.instances.len() {
        let text = text_of(&format!("mysql-{instance}.sql"))
            .replace(&format!("{NAME}_"), &config.mysql.database_prefix)
            .replace(&format!("{NAME}.orders"), &config.kafka.topic);
        let done = sqlx::raw_sql(AssertSqlSafe(text)).execute(servers.pool(instance)).await;
        done.expect("the databases of the fixture");
    }
}

async fn restore_keys(config: &Config) {
    let client = redis::Client::open(config.redis.url.as_str()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("Redis");
    for command in lines_of::<Vec<String>>("redis.jsonl") {
        let mut parts = command.iter().map(|part| STANDARD.decode(part).expect("base 64"));
        let (word, key) = (parts.next().expect("a command"), parts.next().expect("a key"));
        let key = String::from_utf8(key).expect("a key");
        let key = key.replacen(&format!("{NAME}:"), &config.redis.key_prefix, 1);
        let mut command = redis::cmd(std::str::from_utf8(&word).expect("a command"));
        command.arg(key).arg(parts.collect::<Vec<_>>());
        command.query_async::<()>(&mut connection).await.expect("the keys of the fixture");
    }
}

async fn restore_topic(config: &Config) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.kafka.brokers);
    let admin: AdminClient<DefaultClientContext> = client.create().expect("a client");
    let admin = Unawaited::new(admin);
    let retention = config.kafka.retention_ms.to_string();
    let parts = i32::from(config.shards.partitions);
    let topic = NewTopic::new(&config.kafka.topic, parts, TopicReplication::Fixed(1))
        .set("min.insync.replicas", "1")
        .set("unclean.leader.election.enable", "false")
        .set("retention.ms", &retention)
        .set("cleanup.policy", "delete");
    for made in admin.create_topics(&[topic], &AdminOptions::new()).await.expect("answered") {
        made.expect("a topic");
    }
    let producer: Unawaited<FutureProducer> = Unawaited::new(client.create().expect("a client"));
    for (part, offset, payload) in lines_of::<(i32, i64, String)>("kafka.jsonl") {
        let record = FutureRecord::<(), String>::to(&config.kafka.topic).partition(part).payload(&payload);
        let stands = producer.send(record, Duration::from_secs(10)).await.expect("appended");
        assert_eq!((stands.partition, stands.offset), (part, offset), "where it stood");
    }
}

async fn upgrade(mode: Mode) {
    // The orders of the fixture are overdue by now, and so this shop is told to leave them alone.
    let config = config(mode, &[("payment.expiry", "off")]);
    restore(&config).await;
    let plan = app::migration_plan(&config).await.expect("readable");
    assert!(plan.iter().any(|step| step.contains("0002_")), "{plan:?}");
    migrated(&config).await;
    migrated(&config).await;

    let shop = TestShop::start_on(config.clone(), open(&config).await, app::Role::All).await;
    let accepted: Vec<Accepted> =
        serde_json::from_str(&text_of(&format!("accepted-{}.json", mode.as_str()))).expect("a list");
    let on = || accepted.iter().filter(|order| order.sale == ON);
    for order in &accepted {
        let read = shop.decided(&order.user, &order.id).await;
        assert_eq!(read["status"], "awaiting_payment", "{read}");
        assert_eq!((&read["sku_id"], &read["quantity"]), (&json!(order.sku), &json!(order.quantity)));
        let body = json!({ "sku_id": order.sku, "quantity": order.quantity }).to_string();
        let again = shop.place(&order.user, &order.sale, "k", &body, &[]).await;
        assert_eq!((again.status, &again.json()["id"]), (200, &json!(order.id)), "its key is known");
    }
    let (pads, phones) = ("pad", "phone");
    let held = |sku: &str| on().filter(|order| order.sku == sku).map(|order| order.quantity).sum::<u32>();
    let stock = shop.stock(ON).await;
    for (sku, of) in [(pads, 6), (phones, 30)] {
        let item = &stock[sku];
        assert_eq!((&item["held"], &item["available"]), (&json!(held(sku)), &json!(of - held(sku))), "{sku}");
    }
    one_is_given_up(&shop, &on().collect::<Vec<_>>()).await;
    let rest = phones_left(&shop).await;
    for n in 0..rest {
        assert_eq!(shop.buy(&format!("new{n}"), ON, phones, "k").await.status, 202);
    }
    assert_eq!(shop.buy("late", ON, phones, "k").await.code(), "sold_out");
    eventually("all are written", async || {
        let stock = shop.stock(ON).await[phones].clone();
        stock["held"].as_i64().zip(stock["sold"].as_i64()).is_some_and(|(held, sold)| held + sold == 30)
    })
    .await;
    // What happened before there were events is told with all else.
    let waiting = i64::try_from(on().count()).expect("few") + rest - 1;
    eventually("it is in the view", async || {
        let view = shop.operate("GET", &format!("/sales/{ON}/view"), Value::Null).await.json();
        view["states"]["awaiting_payment"]["orders"].as_i64() == Some(waiting)
    })
    .await;
    let written = on().count() + usize::try_from(rest).expect("few");
    for (sale, persisted) in [(ON, written), (OVER, 3)] {
        let evidence = evidence_of(&config, sale).await;
        assert_eq!(evidence.rows.len(), persisted);
        assert_eq!(audit::audit(&evidence), []);
    }
    shop.finish().await;
}

async fn phones_left(shop: &TestShop) -> i64 {
    shop.stock(ON).await["phone"]["available"].as_i64().expect("a number")
}

/// Has a buyer give an old order up, whose unit goes back on sale.
async fn one_is_given_up(shop: &TestShop, on: &[&Accepted]) {
    let before = phones_left(shop).await;
    let one = on.iter().find(|order| order.sku == "phone" && order.quantity == 1).expect("one");
    assert_eq!(shop.act(&one.user, &one.id, "cancel").await.status, 200);
    eventually("its unit is for sale", async || phones_left(shop).await == before + 1).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_folder_of_the_first_version_sells_on_and_loses_nothing() {
    Box::pin(upgrade(Mode::Embedded)).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn databases_of_the_first_version_sell_on_and_lose_nothing() {
    Box::pin(upgrade(Mode::Distributed)).await;
}
