//! One member of the order writers' consumer group.
//!
//! Invariant: a partition is read from its stored position and from nowhere else. It is handed out paused and
//! stays silent until it is sought there. The position is not read inside the rebalance callback: that would
//! block this thread, and with it every partition, for as long as one database is down (docs/adr/0006).

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::broken;
use super::kafka_order_log::{METADATA_TIMEOUT, client, failed};
use crate::config::{GroupProtocol, KafkaConfig};
use crate::domain::batch_plan::LogRecord;
use crate::domain::{OrderRecord, Part};
use crate::ports::{Effect, LogEvent, OrderLogReader, StoreResult};

/// How long a seek may block its thread.
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a rebalance may wait for the ends of its partitions.
const ENDS_TIMEOUT: Duration = Duration::from_secs(2);

pub struct KafkaReader {
    consumer: BaseConsumer<Rebalancer>,
    topic: String,
}

/// Hands out partitions paused, and remembers what happened for the next poll.
struct Rebalancer {
    topic: String,
    // The callback runs inside poll, on the reader's own thread: never contended.
    events: Mutex<VecDeque<LogEvent>>,
}

impl ClientContext for Rebalancer {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ConsumerContext for Rebalancer {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        change: RDKafkaRespErr,
        parts: &mut TopicPartitionList,
    ) {
        let cooperative =
            matches!(consumer.rebalance_protocol(), rdkafka::consumer::RebalanceProtocol::Cooperative);
        let done = if change == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, parts, cooperative)
        } else {
            for part in numbers(parts) {
                self.tell(LogEvent::Revoked { part });
            }
            if cooperative { consumer.incremental_unassign(parts) } else { consumer.unassign() }
        };
        if let Err(error) = done {
            tracing::error!(%error, "rebalance failed; the session time-out will repeat it");
        }
    }
}

impl Rebalancer {
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        parts: &mut TopicPartitionList,
        cooperative: bool,
    ) -> Result<(), KafkaError> {
        let ends = ends(consumer, parts);
        for part in numbers(parts) {
            // Not a logical offset: those are looked up, and an answer that comes after the seek undoes it. And one that
            // the log has, because a fetch may be quicker than the pause (docs/adr/0011).
            let end = ends.get(&part).copied().unwrap_or_default();
            parts.set_partition_offset(&self.topic, i32::from(part.number()), Offset::Offset(end))?;
            self.tell(LogEvent::Assigned { part });
        }
        if cooperative {
            consumer.incremental_assign(parts)?
        } else {
            consumer.assign(parts)?
        }
        consumer.pause(parts)
    }

    fn tell(&self, event: LogEvent) {
        self.events.lock().expect("never contended, never poisoned").push_back(event);
    }
}

/// Where the log of each partition ends now, in one round trip; nothing when Kafka does not say.
fn ends(consumer: &BaseConsumer<Rebalancer>, parts: &TopicPartitionList) -> HashMap<Part, i64> {
    let mut asked = parts.clone();
    let answered =
        asked.set_all_offsets(Offset::End).and_then(|()| consumer.offsets_for_times(asked, ENDS_TIMEOUT));
    let answered = answered.unwrap_or_else(|error| {
        tracing::debug!(%error, "ends of the assigned partitions");
        TopicPartitionList::new()
    });
    let known = answered.elements().into_iter().filter_map(|element| {
        let part = u16::try_from(element.partition()).ok()?;
        let Offset::Offset(end) = element.offset() else {
            return None;
        };
        element.error().is_ok().then_some((Part::new(part), end))
    });
    known.collect()
}

fn numbers(parts: &TopicPartitionList) -> Vec<Part> {
    parts.elements().iter().filter_map(|e| u16::try_from(e.partition()).ok()).map(Part::new).collect()
}

impl KafkaReader {
    pub fn join(config: &KafkaConfig) -> StoreResult<Self> {
        let join = |error| failed("join readers", Effect::NotApplied, error);
        let mut client = client(config);
        client
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // A request costs the broker as much as many records, so they come together: 64 KiB are about 180 orders. A
            // lone one waits for its row this long at most, and a partition that was sought for its turn.
            .set("fetch.min.bytes", "65536")
            .set("fetch.wait.max.ms", "50")
            .set("queued.max.messages.kbytes", "16384");
        match config.group_protocol {
            GroupProtocol::Classic => client
                .set("partition.assignment.strategy", "range")
                .set("session.timeout.ms", config.session_timeout_ms.to_string())
                .set("heartbeat.interval.ms", config.heartbeat_interval_ms.to_string()),
            GroupProtocol::Consumer => client.set("group.protocol", "consumer"),
        };
        let topic = config.topic.clone();
        let rebalancer = Rebalancer { topic: topic.clone(), events: Mutex::default() };
        let consumer: BaseConsumer<Rebalancer> = client.create_with_context(rebalancer).map_err(join)?;
        consumer.subscribe(&[&topic]).map_err(join)?;
        Ok(Self { consumer, topic })
    }

    fn one(&self, part: Part) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, i32::from(part.number()));
        list
    }

    fn take_events(&self, into: &mut Vec<LogEvent>) {
        into.extend(
            self.consumer.context().events.lock().expect("never contended, never poisoned").drain(..),
        );
    }
}

fn record(message: &BorrowedMessage<'_>) -> Option<LogEvent> {
    let part = Part::new(u16::try_from(message.partition()).ok()?);
    let payload = message.payload().unwrap_or_default().to_vec();
    let order = OrderRecord::decode(&payload);
    Some(LogEvent::Record { part, record: LogRecord { offset: message.offset(), payload, order } })
}

impl OrderLogReader for KafkaReader {
    fn poll(&mut self, timeout: Duration, limit: usize) -> StoreResult<Vec<LogEvent>> {
        let mut events = Vec::new();
        let mut records = 0;
        // Whole milliseconds, and only once: the client cuts a wait to milliseconds and asks again until it is over,
        // so 0.9 ms, as what is left until a deadline of 1 ms, would be asking without a pause.
        let mut wait = timeout;
        while records < limit {
            let polled = self.consumer.poll(std::mem::take(&mut wait));
            // What a rebalance did comes before the records that follow it.
            self.take_events(&mut events);
            match polled {
                Some(Ok(message)) => {
                    records += 1;
                    events.extend(record(&message));
                }
                // A position fell out of the log. The binding does not say whose, and the client takes no seek of that
                // partition any more: joining again compares all of them with the log.
                Some(Err(error))
                    if matches!(
                        error.rdkafka_error_code(),
                        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::Fatal)
                    ) =>
                {
                    return Err(failed("poll", Effect::NotApplied, error));
                }
                Some(Err(error)) => tracing::debug!(%error, "poll"),
                None => break,
            }
        }
        Ok(events)
    }

    fn seek(&mut self, part: Part, offset: i64) -> StoreResult<()> {
        let seek = |error| failed("seek", Effect::NotApplied, error);
        let number = i32::from(part.number());
        let (low, high) =
            self.consumer.fetch_watermarks(&self.topic, number, METADATA_TIMEOUT).map_err(seek)?;
        if !(low..=high).contains(&offset) {
            self.consumer.context().tell(LogEvent::OutOfRange { part, position: offset, low, high });
            return Err(broken("seek", format!("position {offset} is outside the log's {low}..={high}")));
        }
        self.consumer.seek(&self.topic, number, Offset::Offset(offset), SEEK_TIMEOUT).map_err(seek)?;
        self.resume(part)
    }

    fn pause(&mut self, part: Part) -> StoreResult<()> {
        self.consumer.pause(&self.one(part)).map_err(|error| failed("pause", Effect::NotApplied, error))
    }

    fn resume(&mut self, part: Part) -> StoreResult<()> {
        self.consumer.resume(&self.one(part)).map_err(|error| failed("resume", Effect::NotApplied, error))
    }

    fn publish_position(&mut self, part: Part, next_offset: i64) {
        let mut list = TopicPartitionList::new();
        let added =
            list.add_partition_offset(&self.topic, i32::from(part.number()), Offset::Offset(next_offset));
        if let Err(error) = added.and_then(|()| self.consumer.commit(&list, CommitMode::Async)) {
            tracing::debug!(%error, "group offset not committed; only lag graphs use it");
        }
    }
}
