//! Tests of stored positions and the log that they belong to: a log that was replaced, cut or widened by another hand
//! loses no accepted order silently.

use std::process::Output;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use seckill::app::{self, Role};
use seckill::backend::distributed::{Unawaited, migrate};
use seckill::clock::Clock;
use seckill::config::{Config, Mode};
use seckill::domain::{Halt, Part, Position};
use serde_json::Value;

use crate::harness::process::program;
use crate::harness::{
    TestShop, assert_rows_kept, config, eventually, metrics, migrated, months, open, remove,
};
use crate::own_redis::OwnRedis;

const PARTS: u16 = 2;

/// The topic of a shop, changed as somebody with the broker's own tools would change it.
struct Topic {
    name: String,
    admin: Unawaited<AdminClient<DefaultClientContext>>,
}

impl Topic {
    fn of(config: &Config) -> Self {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &config.kafka.brokers);
        let admin = Unawaited::new(client.create().expect("a client"));
        Self { name: config.kafka.topic.clone(), admin }
    }

    async fn delete(&self) {
        self.admin.delete_topics(&[&self.name], &AdminOptions::new()).await.expect("deleted");
    }

    async fn make(&self) {
        // The broker may still be busy with a topic of this name that was deleted.
        eventually("the topic is made", async || {
            let topic = NewTopic::new(&self.name, i32::from(PARTS), TopicReplication::Fixed(1));
            let made = self.admin.create_topics(&[topic], &AdminOptions::new()).await.expect("an answer");
            made.iter().all(Result::is_ok)
        })
        .await;
    }

    async fn widen(&self, parts: usize) {
        let wide = [NewPartitions::new(&self.name, parts)];
        self.admin.create_partitions(&wide, &AdminOptions::new()).await.expect("widened");
    }

    /// Removes all records of a partition before an offset.
    async fn cut(&self, part: Part, before: i64) {
        let mut cut = TopicPartitionList::new();
        let number = i32::from(part.number());
        cut.add_partition_offset(&self.name, number, Offset::Offset(before)).expect("a place");
        self.admin.delete_records(&cut, &AdminOptions::new()).await.expect("cut");
    }
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn the_group_knows_the_positions_of_a_writer_that_works_and_of_one_that_rests() {
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 1, &[("phone", 10)]).await;
    assert_eq!(shop.buy("alice", "drop", "phone", "k").await.status, 202);
    let topic = &shop.config.kafka.topic;
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &shop.config.kafka.brokers).set("group.id", &shop.config.kafka.group);
    client.set("enable.auto.commit", "false");
    let consumer: Unawaited<BaseConsumer> = Unawaited::new(client.create().expect("a consumer"));
    let ends = || {
        let end = |part| consumer.fetch_watermarks(topic, part, Duration::from_secs(5)).expect("an answer").1;
        (0..i32::from(shop.config.shards.partitions)).map(end).collect::<Vec<i64>>()
    };
    let published = || {
        let mut parts = TopicPartitionList::new();
        parts.add_partition_range(topic, 0, i32::from(shop.config.shards.partitions) - 1);
        let known = consumer.committed_offsets(parts, Duration::from_secs(5)).expect("an answer");
        known.elements().iter().map(|part| part.offset().to_raw().unwrap_or(-1)).collect::<Vec<i64>>()
    };
    // A partition in which nothing was ever written has a position, too.
    eventually("the group has the positions", async || published() == ends()).await;
    shop.finish().await;
}

/// Runs `seckill position …` as an operator does.
fn position(config: &Config, args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        program(config).arg("position").args(args).output().expect("the binary runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

fn shown(config: &Config) -> Vec<Value> {
    let (code, text, talk) = position(config, &["show", "-o", "json"]);
    assert_eq!(code, Some(0), "{talk}");
    serde_json::from_str::<Value>(&text).expect("JSON").as_array().expect("a list").clone()
}

async fn buy(shop: &TestShop, name: &str, count: usize) {
    for n in 0..count {
        let (user, mut answer) = (format!("{name}{n}"), None);
        // Buckets whose leases nobody has prolonged meanwhile sell nothing for a moment.
        eventually("it is answered", async || {
            answer = Some(shop.buy(&user, "drop", "phone", "k").await);
            answer.as_ref().is_some_and(|answer| answer.status != 503)
        })
        .await;
        assert_eq!(answer.as_ref().map(|answer| answer.status), Some(202), "{answer:?}");
    }
}

async fn written(shop: &TestShop, count: i64) {
    let stage = shop.stage();
    eventually("all orders are written", async || stage.orders("awaiting_payment").await == count).await;
}

/// Ends a test that has deleted a log on purpose: its rows are without records, and keep all other promises.
async fn finish_without_the_old_log(mut shop: TestShop) {
    shop.stop().await;
    assert_rows_kept(&shop.config, "drop").await;
    remove(&shop.config).await;
}

async fn halts(shop: &TestShop) -> Vec<Option<Halt>> {
    let positions = open(&shop.config).await.positions.positions().await;
    (0..PARTS).map(|part| positions[&Part::new(part)].halt).collect()
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn a_topic_made_anew_halts_its_partitions_until_they_are_moved_and_no_order_is_lost() {
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 1, &[("phone", 1000)]).await;
    buy(&shop, "before", 20).await;
    written(&shop, 20).await;
    let topic = Topic::of(&shop.config);
    topic.delete().await;
    topic.make().await;
    // These go to the new log, below and above the positions of the old one.
    buy(&shop, "after", 60).await;
    let all_halted = vec![Some(Halt::OtherLog); usize::from(PARTS)];
    eventually("both partitions are halted", async || halts(&shop).await == all_halted).await;
    // The page is shared with the shops of other tests.
    eventually("the alarm is shown", async || {
        metrics().render().contains(r#"seckill_partition_halted{part="0",reason="other_log"} 1"#)
    })
    .await;
    eventually("the whole new log counts as unwritten", async || {
        let behind: i64 =
            shown(&shop.config).iter().map(|part| part["behind"].as_i64().expect("a log")).sum();
        behind == 60
    })
    .await;
    assert_eq!(halts(&shop).await, all_halted, "it stands, although the log has grown past the positions");

    let (code, _, talk) = position(&shop.config, &["move", "all", "--to", "start"]);
    assert_eq!(code, Some(2), "a reason is wanted: {talk}");
    let (code, _, talk) = position(&shop.config, &["move", "0", "--to", "9", "--reason", "a test"]);
    assert!(code == Some(1) && talk.contains("--skip-records"), "{talk}");
    let (code, _, talk) = position(&shop.config, &["move", "all", "--to", "start", "--reason", "a test"]);
    assert_eq!(code, Some(0), "{talk}");
    written(&shop, 80).await;
    assert_eq!(halts(&shop).await, [None, None]);
    let moves =
        "SELECT COUNT(*) FROM {directory}.audit_log WHERE action = 'position_move' AND reason = 'a test'";
    let database = crate::harness::Servers::of(&shop.config);
    let moves = database.number(0, &moves.replace("{directory}", &database.directory())).await;
    assert_eq!(moves, i64::from(PARTS));
    finish_without_the_old_log(shop).await;
}

/// Loses Redis and what `harm` does to the order log, and asserts that no bucket is rebuilt before somebody has moved
/// the positions, and that the sale goes on then. Every partition is halted for `why`.
async fn a_rebuild_waits_for(why: Halt, harm: impl AsyncFnOnce(&TestShop, &Topic)) {
    let mut redis = OwnRedis::start(&[]).await;
    let shop = TestShop::start_with(Mode::Distributed, &[("redis.url", &redis.url())]).await;
    shop.open_sale("drop", 1, &[("phone", 1000)]).await;
    buy(&shop, "before", 20).await;
    written(&shop, 20).await;
    redis.kill();
    harm(&shop, &Topic::of(&shop.config)).await;
    redis.lose_data();
    redis.start_again().await;
    let all_halted = vec![Some(why); usize::from(PARTS)];
    eventually("both partitions are halted", async || halts(&shop).await == all_halted).await;
    // Longer than a rebuild takes.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(shop.stock("drop").await["phone"]["available"], Value::Null, "nothing was rebuilt");
    let refused = shop.buy("early", "drop", "phone", "k").await;
    assert_eq!(refused.status, 503, "nobody hears that anything is sold out: {refused:?}");
    let (code, _, talk) = position(&shop.config, &["move", "all", "--to", "start", "--reason", "a test"]);
    assert_eq!(code, Some(0), "{talk}");
    eventually("it is rebuilt", async || shop.stock("drop").await["phone"]["available"] == 980).await;
    for n in 0..20 {
        let again = shop.buy(&format!("before{n}"), "drop", "phone", "k").await;
        assert_eq!(again.status, 200, "{again:?}");
    }
    buy(&shop, "after", 20).await;
    written(&shop, 40).await;
    finish_without_the_old_log(shop).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn no_bucket_is_rebuilt_while_the_order_log_is_another_one() {
    Box::pin(a_rebuild_waits_for(Halt::OtherLog, async |_, topic| {
        topic.delete().await;
        topic.make().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn no_bucket_is_rebuilt_while_the_order_log_does_not_reach_its_positions() {
    Box::pin(a_rebuild_waits_for(Halt::OutOfRange, async |shop, topic| {
        // As if the positions had gone back before what the log has lost.
        for part in (0..PARTS).map(Part::new) {
            let positions = open(&shop.config).await.positions;
            let written = positions.positions().await[&part].next_offset;
            topic.cut(part, written).await;
            eventually("the position is set back", async || {
                let seen = positions.positions().await[&part];
                let back = Position { next_offset: 0, ..seen };
                positions.replace(part, &seen, &back).await.expect("MySQL")
            })
            .await;
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn migrate_does_not_make_a_topic_anew_from_which_orders_were_written() {
    let mut shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    buy(&shop, "u", 10).await;
    written(&shop, 10).await;
    shop.stop().await;
    let topic = Topic::of(&shop.config);
    topic.delete().await;
    let settings = app::backend_settings(&shop.config).expect("settings");
    let run = async || migrate::run(&settings, &months(), Clock::System, |_| ()).await;
    let refused = run().await.expect_err("refused").to_string();
    assert!(
        refused.contains("positions are above 0") && refused.contains("position move all --to 0"),
        "{refused}"
    );
    let (code, _, talk) = position(&shop.config, &["move", "all", "--to", "5", "--reason", "a test"]);
    assert!(code == Some(1) && talk.contains("topic is gone"), "{talk}");
    let (code, _, talk) = position(&shop.config, &["move", "all", "--to", "0", "--reason", "a test"]);
    assert_eq!(code, Some(0), "{talk}");
    assert!(run().await.expect("migrated").topic_created);
    let shop = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    buy(&shop, "v", 10).await;
    written(&shop, 20).await;
    finish_without_the_old_log(shop).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn records_that_expired_unwritten_halt_their_partition_alone() {
    let config = config(Mode::Distributed, &[]);
    migrated(&config).await;
    let mut front = TestShop::start_on(config.clone(), open(&config).await, Role::Api).await;
    front.open_sale("drop", 1, &[("phone", 100)]).await;
    buy(&front, "u", 30).await;
    let part = Part::new(0);
    let log = open(&config).await.order_log;
    let end = log.offsets(&[part]).await.expect("offsets")[&part].end;
    assert!(end > 3, "the partition has {end} of 30");
    Topic::of(&config).cut(part, 3).await;
    front.stop().await;

    let mut shop = TestShop::start_on(config.clone(), open(&config).await, Role::All).await;
    eventually("the cut partition is halted", async || halts(&shop).await == [Some(Halt::OutOfRange), None])
        .await;
    written(&shop, 30 - end).await;
    let (code, _, talk) = position(&config, &["move", "0", "--to", "start", "--reason", "they are gone"]);
    assert_eq!(code, Some(0), "{talk}");
    written(&shop, 27).await;
    // Three accepted orders are lost on purpose, so the promises are not asserted here.
    shop.stop().await;
    remove(&config).await;
}

#[tokio::test(flavor = "multi_thread", crate = "crate::ending")]
async fn partitions_of_another_hand_are_left_alone_and_selling_goes_on() {
    let shop = TestShop::start(Mode::Distributed).await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    buy(&shop, "before", 10).await;
    Topic::of(&shop.config).widen(usize::from(PARTS) * 2).await;
    buy(&shop, "after", 10).await;
    eventually("the alarm is shown", async || {
        metrics().render().contains("seckill_order_log_foreign_partitions 2")
    })
    .await;
    let settings = app::backend_settings(&shop.config).expect("settings");
    let report = migrate::run(&settings, &months(), Clock::System, |_| ()).await.expect("migrated");
    assert_eq!((report.topic_created, report.foreign_parts), (false, 2));
    let mut second = TestShop::start_on(shop.config.clone(), open(&shop.config).await, Role::All).await;
    eventually("the second shop knows the sale", async || {
        second.buy("probe", "drop", "phone", "k").await.status < 300
    })
    .await;
    buy(&second, "second", 10).await;
    written(&shop, 31).await;
    second.stop().await;
    buy(&shop, "alone", 10).await;
    written(&shop, 41).await;
    tokio::time::timeout(Duration::from_secs(60), shop.finish()).await.expect("finished");
}
