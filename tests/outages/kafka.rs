//! Kafka is gone or slow: the shop sells on until its outbox is full, and the relay delivers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use seckill::backend::distributed::Unawaited;
use seckill::domain::{BucketId, OrderId, Part, SaleId};
use seckill::ports::{Effect, LogEvent, OrderLog, OrderLogReader};

use crate::harness::{Stage as _, TestShop, eventually, open};
use crate::proxy::Weather;
use crate::world::{LOSSES, Loss, World};

const OUTBOX_MAX: usize = 40;
/// How soon a purchase is answered. The wait for the acknowledgement takes 150 ms, and the rest is for this machine.
const ANSWERED_WITHIN: Duration = Duration::from_millis(150 + 250);

/// Buys one unit after the other until a purchase is refused. Returns how many were accepted.
async fn buy_until_refused(shop: &TestShop, loss: Loss) -> usize {
    for n in 0..10 * OUTBOX_MAX {
        let began = Instant::now();
        let answer = shop.buy(&format!("during-{n}"), "drop", "phone", "k").await;
        if answer.status == 503 {
            assert_eq!(answer.code(), "dependency_unavailable", "{loss:?}");
            return n;
        }
        assert_eq!((answer.status, &answer.json()["status"]), (202, &"reserved".into()), "{loss:?}");
        assert!(began.elapsed() <= ANSWERED_WITHIN, "{loss:?}: {:?}", began.elapsed());
    }
    panic!("{loss:?}: the outbox has no bound");
}

async fn sell_through(world: &mut World, loss: Loss) {
    let shop = world.shop().await;
    shop.open_sale("drop", 1, &[("phone", 1000)]).await;
    for n in 0..10 {
        assert_eq!(shop.buy(&format!("before-{n}"), "drop", "phone", "k").await.status, 202);
    }
    let database = world.database();
    eventually("the first are written", async || database.orders("awaiting_payment").await == 10).await;

    world.lose("kafka", loss);
    let accepted = buy_until_refused(&shop, loss).await;
    assert!(accepted >= OUTBOX_MAX, "{loss:?}: refused after {accepted} of {OUTBOX_MAX}");
    // The outbox is counted every 100 ms here. What goes into it during a look, the process may miss.
    assert!(accepted <= OUTBOX_MAX + 5, "{loss:?}: {accepted} accepted over a bound of {OUTBOX_MAX}");
    let available = shop.stock("drop").await["phone"]["available"].clone();
    assert_eq!(available, 990 - accepted, "{loss:?}");
    for n in 0..20 {
        assert_eq!(shop.buy(&format!("late-{n}"), "drop", "phone", "k").await.status, 503);
    }
    assert_eq!(shop.stock("drop").await["phone"]["available"], available, "a refusal takes nothing");

    world.restore();
    let orders = i64::try_from(10 + accepted).expect("small");
    eventually("the relay has delivered all", async || database.orders("awaiting_payment").await == orders)
        .await;
    let backend = open(&world.config).await;
    let bucket = BucketId { sale: SaleId::parse("drop").expect("slug"), bucket: 0 };
    eventually("the outbox is empty", async || backend.outbox.len(&bucket).await.expect("Redis") == 0).await;
    eventually("selling goes on", async || shop.buy("late-0", "drop", "phone", "k").await.status < 300).await;
    eventually("the last is written", async || database.orders("awaiting_payment").await == orders + 1).await;
    shop.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_orders_are_reserved_up_to_the_bound_and_delivered_afterwards() {
    for loss in LOSSES {
        let bound = OUTBOX_MAX.to_string();
        let mut world = World::new(&[("admission.outbox_orders_max", &bound)]).await;
        Box::pin(sell_through(&mut world, loss)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_record_that_fails_never_left() {
    let mut world = World::new(&[("kafka.message_timeout_ms", "1000")]).await;
    let log = open(&world.config).await.order_log;
    world.lose("kafka", Loss::Frozen);
    let order = OrderId::from_bytes(&[0; 16]).expect("an id");
    let answers = join_all((0..3).map(|_| log.append(order, b"x".to_vec()))).await;
    let effects: Vec<Option<Effect>> =
        answers.into_iter().map(|answer| answer.err().map(|error| error.effect)).collect();
    assert_eq!(effects, [Some(Effect::Unknown), Some(Effect::NotApplied), Some(Effect::NotApplied)]);
    world.restore();
    eventually("records are taken again", async || log.append(order, b"y".to_vec()).await.is_ok()).await;
    world.finish().await;
}

/// A topic with five records in one partition, and readers of it.
struct Reading {
    world: World,
    log: Arc<dyn OrderLog>,
    part: Part,
}

impl Reading {
    async fn start() -> Self {
        let world = World::new(&[]).await;
        let log = open(&world.config).await.order_log;
        let order = OrderId::from_bytes(&[0; 16]).expect("an id");
        let part = world.config.shard_map().expect("a map").part_of(order.shard());
        for _ in 0..5 {
            log.append(order, b"x".to_vec()).await.expect("appended");
        }
        Self { world, log, part }
    }

    /// Makes a reader, and waits until it is assigned the partition.
    async fn reader(&self) -> Box<dyn OrderLogReader> {
        let mut reader = self.log.reader(Arc::new(|| ())).expect("a reader");
        let is_ours = |event: &LogEvent| matches!(event, LogEvent::Assigned { part } if *part == self.part);
        take_until(&mut *reader, "assigned", |events| events.iter().any(is_ours)).await;
        reader
    }
}

/// Takes from the reader until `enough` is satisfied. `enough` sees what every call returned.
async fn take_until(
    reader: &mut dyn OrderLogReader,
    what: &str,
    mut enough: impl FnMut(&[LogEvent]) -> bool,
) {
    let began = Instant::now();
    while !enough(&reader.take(100).await.expect("a reader")) {
        assert!(began.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads at least `count` records, and returns their offsets.
async fn read(reader: &mut dyn OrderLogReader, count: usize, what: &str) -> Vec<i64> {
    let mut offsets = Vec::new();
    take_until(reader, what, |events| {
        offsets.extend(events.iter().filter_map(|event| match event {
            LogEvent::Record { record, .. } => Some(record.offset),
            _ => None,
        }));
        offsets.len() >= count
    })
    .await;
    offsets
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_read_from_where_it_was_sought_whenever_that_was() {
    let reading = Reading::start().await;
    // A client that is given a logical offset looks it up at once, and again after half a second. An answer that comes
    // after a seek undoes the seek.
    reading.world.kafka.set(Weather::Slow(Duration::from_millis(150)));
    for pause in (400..=800).step_by(50).map(Duration::from_millis) {
        let mut reader = reading.reader().await;
        let assigned = Instant::now();
        take_until(&mut *reader, "the pause ends", |_| assigned.elapsed() >= pause).await;
        reader.seek(reading.part, 1);
        let what = format!("sought after {pause:?}");
        assert_eq!(read(&mut *reader, 4, &what).await, [1, 2, 3, 4], "{what}");
        reader.leave().await;
    }
    reading.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_expire_under_a_reader_end_it_and_the_next_one_reads_the_rest() {
    let reading = Reading::start().await;
    let part = reading.part;
    let mut reader = reading.reader().await;
    reader.seek(part, 0);
    reader.pause(part);
    let is_sought = |event: &LogEvent| matches!(event, LogEvent::Sought { .. });
    take_until(&mut *reader, "sought", |events| events.iter().any(is_sought)).await;
    let kafka = &reading.world.config.kafka;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &kafka.brokers).create().expect("a client");
    let admin = Unawaited::new(admin);
    let mut expired = TopicPartitionList::new();
    expired.add_partition_offset(&kafka.topic, i32::from(part.number()), Offset::Offset(3)).expect("a place");
    admin.delete_records(&expired, &AdminOptions::new()).await.expect("deleted");
    reader.resume(part);
    let began = Instant::now();
    while reader.take(100).await.is_ok() {
        assert!(began.elapsed() < Duration::from_secs(10), "never: the reader ends");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    reader.leave().await;
    let offsets = reading.log.offsets(&[part]).await.expect("offsets");
    assert_eq!(offsets[&part], 3..5, "the writer compares its position with these");
    let mut reader = reading.reader().await;
    reader.seek(part, 3);
    assert_eq!(read(&mut *reader, 2, "the rest").await, [3, 4], "sought where a person decided");
    reading.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_kafka_delays_rows_and_no_answers() {
    let world = World::new(&[]).await;
    let shop = world.shop().await;
    shop.open_sale("drop", 1, &[("phone", 100)]).await;
    world.kafka.set(Weather::Slow(Duration::from_millis(400)));
    for n in 0..20 {
        let began = Instant::now();
        let answer = shop.buy(&format!("u{n}"), "drop", "phone", "k").await;
        assert_eq!((answer.status, &answer.json()["status"]), (202, &"reserved".into()));
        assert!(began.elapsed() <= ANSWERED_WITHIN, "{:?}", began.elapsed());
    }
    let database = world.database();
    eventually("all are written all the same", async || database.orders("awaiting_payment").await == 20)
        .await;
    shop.finish().await;
}
