//! Reads the events of a partition again from their topic, for an instance that was set back.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::kafka_client::{METADATA_TIMEOUT, Unawaited, failed, settings};
use crate::config::KafkaConfig;
use crate::domain::told_order::{ToldEvent, ToldOrder};
use crate::domain::{OrderId, Part};
use crate::ports::{Effect, StoreError, StoreResult};

const CONTEXT: &str = "read the topic of events";
/// How long the broker may give nothing before the reading is given up.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What the topic has of a partition since a time.
#[derive(Debug, Default)]
pub struct Told {
    /// The number of the first event that was read; `None` for none.
    pub first: Option<i64>,
    /// The number after that of the last event that was read.
    pub next: i64,
    /// The orders, each with its steps.
    pub orders: BTreeMap<OrderId, ToldOrder>,
    /// Why events could not be read, at most [`Told::FAULTS_MAX`] of them.
    pub faults: Vec<String>,
}

impl Told {
    /// Most faults that are kept.
    const FAULTS_MAX: usize = 20;

    fn add(&mut self, payload: &[u8]) {
        match ToldEvent::decode(payload) {
            Ok(ToldEvent { number, step }) => {
                self.first = Some(self.first.map_or(number, |first| first.min(number)));
                self.next = self.next.max(number + 1);
                let order = step.order_id;
                match self.orders.get_mut(&order) {
                    Some(told) => told.add(step),
                    None => drop(self.orders.insert(order, ToldOrder::new(step))),
                }
            }
            Err(why) if self.faults.len() < Self::FAULTS_MAX => self.faults.push(why),
            Err(_) => {}
        }
    }
}

/// Reads what the topic has of a partition since a time, in ms since 1970. The time is that of the passing on, which is
/// never before the step. It blocks.
///
/// # Errors
/// When the topic cannot be read to its end.
pub fn read_since(config: &KafkaConfig, part: Part, since_ms: i64) -> StoreResult<Told> {
    let fault = |error| failed(CONTEXT, Effect::NotApplied, error);
    let (topic, number) = (config.events_topic.as_str(), i32::from(part.number()));
    let mut client = settings(config);
    // A consumer without a group commits nothing; the client wants a name all the same.
    client.set("group.id", "seckill-recover").set("enable.auto.commit", "false");
    let consumer: Unawaited<BaseConsumer> = Unawaited::new(client.create().map_err(fault)?);
    let (low, high) = consumer.fetch_watermarks(topic, number, METADATA_TIMEOUT).map_err(fault)?;
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition_offset(topic, number, Offset::Offset(since_ms)).map_err(fault)?;
    let found = consumer.offsets_for_times(wanted, METADATA_TIMEOUT).map_err(fault)?;
    let from = match found.find_partition(topic, number).map(|found| found.offset()) {
        Some(Offset::Offset(offset)) => offset.max(low),
        _ => high,
    };
    let mut told = Told::default();
    if from >= high {
        return Ok(told);
    }
    let mut assigned = TopicPartitionList::new();
    assigned.add_partition_offset(topic, number, Offset::Offset(from)).map_err(fault)?;
    consumer.assign(&assigned).map_err(fault)?;
    loop {
        let Some(message) = consumer.poll(SILENCE_MAX) else {
            let detail = format!("{topic} gives nothing for {SILENCE_MAX:?} before its end");
            return Err(StoreError::broken(CONTEXT, detail));
        };
        let message = message.map_err(fault)?;
        told.add(message.payload().unwrap_or_default());
        if message.offset() + 1 >= high {
            return Ok(told);
        }
    }
}
