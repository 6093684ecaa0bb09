//! Reads the topic of events, as others do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use seckill::backend::distributed::Unawaited;
use seckill::config::Config;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(10);

/// What the topic tells.
pub struct Told {
    /// The ids of the events, each once.
    pub first: BTreeSet<String>,
    /// How many records there are.
    pub all: usize,
}

/// Reads the whole topic. Of every partition the events come numbered from 1 without gaps, but for those that came
/// before; key, partition and source of each are its order's.
///
/// # Panics
/// When they do not.
pub async fn told(config: &Config) -> Told {
    let config = config.clone();
    tokio::task::spawn_blocking(move || read(&config)).await.expect("read")
}

fn read(config: &Config) -> Told {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.kafka.brokers).set("group.id", "onlooker");
    client.set("enable.auto.commit", "false");
    let consumer: Unawaited<BaseConsumer> = Unawaited::new(client.create().expect("a consumer"));
    let topic = &config.kafka.events_topic;
    let (mut first, mut all) = (BTreeSet::new(), 0);
    for part in 0..i32::from(config.shards.partitions) {
        let (low, high) = consumer.fetch_watermarks(topic, part, PATIENCE).expect("watermarks");
        if low == high {
            continue;
        }
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(topic, part, Offset::Offset(low)).expect("an offset");
        consumer.assign(&at).expect("assigned");
        let mut numbers: BTreeMap<i64, String> = BTreeMap::new();
        let began = Instant::now();
        loop {
            // The client sometimes answers early that there is nothing.
            let Some(record) = consumer.poll(PATIENCE) else {
                assert!(
                    began.elapsed() < PATIENCE,
                    "{} records of {high} in partition {part}",
                    numbers.len()
                );
                continue;
            };
            let record = record.expect("readable");
            let event: Value = serde_json::from_slice(record.payload().expect("a payload")).expect("JSON");
            let text = |member: &str| event[member].as_str().expect("text").to_owned();
            assert_eq!(record.key(), Some(text("subject").as_bytes()));
            assert_eq!(text("source"), format!("/seckill/parts/{part}"));
            let number: i64 = text("sequence").parse().expect("a number");
            let known = numbers.insert(number, text("id"));
            let next = i64::try_from(numbers.len()).expect("small");
            assert!(
                known.is_some() || number == next,
                "event {number} comes before {next} in partition {part}"
            );
            assert!(known.is_none_or(|known| known == text("id")), "event {number} is two");
            all += 1;
            if record.offset() + 1 == high {
                break;
            }
        }
        first.extend(numbers.into_values());
    }
    Told { first, all }
}
