//! Runs one member of the order writers' consumer group on a thread of its own, because the client's calls block.
//!
//! Invariant: A partition is read from its stored position and from nowhere else. It is assigned paused, and it stays
//! silent until it is sought there. The rebalance callback does not read the position. That would block this thread,
//! and with it every partition, for as long as one database is down (docs/adr/0006).

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::kafka_client::{failed, settings};
use super::kafka_event_queue::{Command, EventQueue};
use crate::clock::{Clock, Moment};
use crate::config::{GroupProtocol, KafkaConfig};
use crate::domain::batch_plan::LogRecord;
use crate::domain::{OrderRecord, Part, ShardMap};
use crate::ports::{Effect, LogEvent, StoreResult, Wake};

/// Longest time that a seek may block the thread.
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest time that a poll may block the thread, and so keep a command waiting.
const POLL: Duration = Duration::from_millis(20);
/// The least time between two commits of the positions to the group. Only lag graphs use them, and each costs the
/// broker as much as an append.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);
/// Most records that one poll takes from the client.
const POLL_RECORDS_MAX: usize = 2_000;

/// Longest time that a rebalance may wait for the ends of its partitions.
const ENDS_TIMEOUT: Duration = Duration::from_secs(2);

/// Holds what lives on the thread: the client, how often each partition was sought, and the positions that were not
/// committed to the group yet.
pub struct Member {
    consumer: BaseConsumer<Rebalancer>,
    topic: String,
    seeks: HashMap<Part, u64>,
    unpublished: HashMap<Part, i64>,
    clock: Clock,
    published: Moment,
}

/// Assigns partitions paused, and keeps the events of a rebalance for the next poll.
struct Rebalancer {
    topic: String,
    map: ShardMap,
    // The callback runs inside poll, on the reader's own thread, so the lock is never contended.
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
            self.tell_all(parts, |part| LogEvent::Revoked { part });
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
            // This is no logical offset: the client looks those up, and an answer that comes after the seek undoes the
            // seek. And it is an offset that the log has, because a fetch may be quicker than the pause
            // (docs/adr/0011).
            let end = ends.get(&part).copied().unwrap_or_default();
            parts.set_partition_offset(&self.topic, i32::from(part.number()), Offset::Offset(end))?;
        }
        self.tell_all(parts, |part| LogEvent::Assigned { part });
        if cooperative {
            consumer.incremental_assign(parts)?
        } else {
            consumer.assign(parts)?
        }
        consumer.pause(parts)
    }

    /// Tells an event of each partition that the shard map has. The others were added by another hand: they stay
    /// paused, and nobody seeks them.
    fn tell_all(&self, parts: &TopicPartitionList, event: impl Fn(Part) -> LogEvent) {
        let ours = numbers(parts).into_iter().filter(|part| part.number() < self.map.parts());
        ours.for_each(|part| self.tell(event(part)));
    }

    fn tell(&self, event: LogEvent) {
        self.events.lock().expect("never contended, never poisoned").push_back(event);
    }
}

/// Reads where the log of each partition ends now, in one round trip. It leaves out partitions whose end Kafka does not
/// tell.
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

impl Member {
    /// Joins the consumer group.
    ///
    /// # Errors
    /// When the settings are wrong.
    pub fn join(config: &KafkaConfig, map: ShardMap, clock: Clock) -> StoreResult<Self> {
        let join = |error| failed("join readers", Effect::NotApplied, error);
        let mut client = settings(config);
        client
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // A request costs the broker as much as many records do, so records come together: 256 KiB are about
            // 700 orders. A lone record waits at most 200 ms for that, and so does a partition that was sought.
            .set("fetch.min.bytes", "262144")
            .set("fetch.wait.max.ms", "200")
            .set("queued.max.messages.kbytes", "16384");
        match config.group_protocol {
            GroupProtocol::Classic => client
                .set("partition.assignment.strategy", "range")
                .set("session.timeout.ms", config.session_timeout_ms.to_string())
                .set("heartbeat.interval.ms", config.heartbeat_interval_ms.to_string()),
            GroupProtocol::Consumer => client.set("group.protocol", "consumer"),
        };
        let topic = config.topic.clone();
        let rebalancer = Rebalancer { topic: topic.clone(), map, events: Mutex::default() };
        let consumer: BaseConsumer<Rebalancer> = client.create_with_context(rebalancer).map_err(join)?;
        consumer.subscribe(&[&topic]).map_err(join)?;
        let published = clock.monotonic();
        Ok(Self { consumer, topic, seeks: HashMap::new(), unpublished: HashMap::new(), clock, published })
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

impl Member {
    /// Waits up to `timeout` for the first event, and returns all events that are there, with at most `limit` records.
    ///
    /// # Errors
    /// Only for failures that polling again cannot mend.
    fn poll(&mut self, timeout: Duration, limit: usize) -> StoreResult<Vec<LogEvent>> {
        let mut events = Vec::new();
        let mut records = 0;
        // The wait has whole milliseconds, and only the first poll has it. The client cuts a wait to milliseconds and
        // asks again until it is over. The rest of a wait until a deadline, say 0.9 ms, would be asking without a
        // pause.
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
                // A position fell out of the log, or the client has failed for good. The binding does not say whose
                // position it is, and the client takes no seek of that partition any more. After joining again, the
                // writer compares all positions with the log.
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

    /// Carries a command out. What its sender must know of the outcome becomes an event.
    fn apply(&mut self, command: Command) {
        match command {
            Command::Seek { part, offset, seek } => {
                // The number is noted first, so that the outcome counts as this seek's.
                self.seeks.insert(part, seek);
                self.unpublished.insert(part, offset);
                if let Err(error) = self.seek(part, offset) {
                    tracing::warn!(%error, part = part.number(), "partition not sought");
                }
            }
            Command::Pause(part) => self.switched(self.consumer.pause(&self.one(part)), part),
            Command::Resume(part) => self.switched(self.consumer.resume(&self.one(part)), part),
            Command::Publish(part, next_offset) => drop(self.unpublished.insert(part, next_offset)),
        }
    }

    fn switched(&self, done: Result<(), KafkaError>, part: Part) {
        if let Err(error) = done {
            tracing::debug!(%error, part = part.number(), "back-pressure not switched");
        }
    }

    fn seek(&self, part: Part, offset: i64) -> StoreResult<()> {
        let tell = |event| self.consumer.context().tell(event);
        let not_sought = |error| {
            tell(LogEvent::NotSought { part });
            failed("seek", Effect::NotApplied, error)
        };
        let number = i32::from(part.number());
        let sought = self.consumer.seek(&self.topic, number, Offset::Offset(offset), SEEK_TIMEOUT);
        sought.and_then(|()| self.consumer.resume(&self.one(part))).map_err(not_sought)?;
        tell(LogEvent::Sought { part });
        Ok(())
    }

    /// Commits the positions to the group.
    fn publish(&mut self) {
        self.published = self.clock.monotonic();
        if self.unpublished.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::new();
        let added = self.unpublished.drain().try_for_each(|(part, next_offset)| {
            list.add_partition_offset(&self.topic, i32::from(part.number()), Offset::Offset(next_offset))
        });
        if let Err(error) = added.and_then(|()| self.consumer.commit(&list, CommitMode::Async)) {
            tracing::debug!(%error, "group offsets not committed; only lag graphs use them");
        }
    }

    /// Polls and carries out commands until the other end of `commands` is gone.
    pub fn serve(mut self, commands: &Receiver<Command>, queue: &EventQueue, wake: &Wake) {
        loop {
            loop {
                match commands.try_recv() {
                    Ok(command) => self.apply(command),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return self.publish(),
                }
            }
            if self.clock.monotonic().since(self.published) >= PUBLISH_EVERY {
                self.publish();
            }
            if !queue.has_room() {
                continue;
            }
            match self.poll(POLL, POLL_RECORDS_MAX) {
                Ok(events) if events.is_empty() => {}
                Ok(events) => {
                    for event in &events {
                        // Whoever has the partition now publishes its position.
                        if let LogEvent::Revoked { part } = event {
                            self.unpublished.remove(part);
                        }
                    }
                    queue.put(events.into_iter().map(|event| (self.seek_of(&event), event)));
                    wake();
                }
                Err(error) => {
                    queue.fail(error);
                    wake();
                    // Nothing more comes of this client. The thread waits until its owner lets it go.
                    while commands.recv().is_ok() {}
                    return;
                }
            }
        }
    }

    /// Answers the number of the seek that an event follows, or 0 when it follows none.
    fn seek_of(&self, event: &LogEvent) -> u64 {
        let part = match event {
            LogEvent::Record { part, .. } | LogEvent::Sought { part } | LogEvent::NotSought { part } => part,
            LogEvent::Assigned { .. } | LogEvent::Revoked { .. } => return 0,
        };
        self.seeks.get(part).copied().unwrap_or(0)
    }
}
