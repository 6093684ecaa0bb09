//! Keeps the order log on Kafka. The producer is idempotent and waits for the acks of all in-sync replicas.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::kafka_client::{METADATA_TIMEOUT, failed, producer_settings};
use super::kafka_identity;
use super::kafka_producer::{KafkaProducer, Message};
use super::kafka_reader::KafkaReader;
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::{OrderId, OrderRecord, Part, ShardMap};
use crate::ports::{
    Duty, Effect, ErrorKind, Fault, LogIdentity, Offsets, OrderLog, OrderLogReader, Probe, StoreError,
    StoreResult, Wake, all_read,
};

/// Serves the order log from one topic. Clones share one producer.
#[derive(Clone)]
pub struct KafkaOrderLog {
    producer: KafkaProducer,
    config: Arc<KafkaConfig>,
    map: ShardMap,
    clock: Clock,
}

impl KafkaOrderLog {
    /// Connects and reads the topic's metadata, so that the first record does not wait for it.
    ///
    /// # Errors
    /// When no broker answers, or the topic is missing or has fewer partitions than the shard map.
    pub fn open(config: &KafkaConfig, map: ShardMap, clock: Clock) -> StoreResult<Self> {
        let open = |error| failed("open order log", Effect::NotApplied, error);
        let settings = producer_settings(config);
        let unanswered_max = usize::try_from(config.queue_messages_max).unwrap_or(usize::MAX);
        let producer = KafkaProducer::open(&settings, &config.topic, map, unanswered_max, clock.clone())?;
        let log = Self { producer, config: Arc::new(config.clone()), map, clock };
        let metadata =
            log.producer.client().fetch_metadata(Some(&config.topic), METADATA_TIMEOUT).map_err(open)?;
        let found = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        // More were added by another hand: they stay empty, and an alarm says so.
        if found < usize::from(map.parts()) {
            let detail = format!(
                "topic {} has {found} partitions, the configuration wants {}: run `seckill migrate`",
                config.topic,
                map.parts()
            );
            let (kind, effect) = (ErrorKind::Broken, Effect::NotApplied);
            return Err(StoreError { kind, effect, context: "open order log", source: detail.into() });
        }
        Ok(log)
    }

    /// Reads the offsets of those of `parts` that have a leader and tell them, within twice [`METADATA_TIMEOUT`].
    fn read_offsets(&self, parts: &[Part]) -> StoreResult<Offsets> {
        let fault = |error| failed("read log ends", Effect::NotApplied, error);
        let (client, topic) = (self.producer.client(), &self.config.topic);
        // To ask for a partition without a leader takes the whole time that an answer may take.
        let metadata = client.fetch_metadata(Some(topic), METADATA_TIMEOUT).map_err(fault)?;
        let found = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
        let led: Vec<i32> = found.iter().filter(|part| part.leader() >= 0).map(|part| part.id()).collect();
        let until = self.clock.monotonic() + METADATA_TIMEOUT;
        let (mut offsets, mut failure) = (Offsets::new(), None);
        for part in parts.iter().filter(|part| led.contains(&i32::from(part.number()))) {
            let left = until.since(self.clock.monotonic());
            match client.fetch_watermarks(topic, i32::from(part.number()), left) {
                Ok((low, high)) => drop(offsets.insert(*part, low..high)),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if offsets.is_empty() => Err(fault(error)),
            _ if offsets.is_empty() => all_read(parts, &offsets).map(|()| offsets),
            _ => Ok(offsets),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> StoreResult<T> + Send + 'static,
    ) -> StoreResult<T> {
        let log = self.clone();
        tokio::task::spawn_blocking(move || work(&log)).await.map_err(|error| StoreError {
            kind: ErrorKind::Broken,
            effect: Effect::Unknown,
            context: "order log task",
            source: Box::new(error),
        })?
    }
}

#[async_trait]
impl OrderLog for KafkaOrderLog {
    async fn append(&self, order: OrderId, payload: Vec<u8>) -> StoreResult<()> {
        self.producer.append(self.map.part_of(order.shard()), Message { key: None, payload }).await
    }

    async fn append_imported(&self, records: &[OrderRecord]) -> StoreResult<()> {
        let appends = records.iter().map(|record| self.append(record.order_id, record.encode()));
        futures::future::try_join_all(appends).await.map(drop)
    }

    async fn identity(&self) -> StoreResult<LogIdentity> {
        let found = kafka_identity::read(&self.config, &self.clock).await?;
        found.ok_or_else(|| {
            let detail = format!("there is no topic {} any more", self.config.topic);
            StoreError {
                effect: Effect::NotApplied,
                ..StoreError::broken("read the order log's identity", detail)
            }
        })
    }

    async fn offsets_in_reach(&self, parts: &[Part]) -> StoreResult<Offsets> {
        let parts = parts.to_vec();
        self.blocking(move |log| log.read_offsets(&parts)).await
    }

    async fn flush(&self, timeout: Duration) -> StoreResult<()> {
        self.blocking(move |log| log.producer.flush(timeout)).await
    }

    fn reader(&self, wake: Wake) -> StoreResult<Box<dyn OrderLogReader>> {
        Ok(Box::new(KafkaReader::join(&self.config, self.map, wake, self.clock.clone())?))
    }
}

#[async_trait]
impl Probe for KafkaOrderLog {
    fn name(&self) -> String {
        "kafka".to_owned()
    }

    fn duties(&self) -> &'static [Duty] {
        &[Duty::Write]
    }

    /// Asks who leads the partitions, and who follows: without a leader, or with fewer replicas in sync than
    /// `kafka.min_insync_replicas`, nothing can be appended to one.
    async fn check(&self) -> Result<(), Fault> {
        let metadata = self.blocking(|log| {
            let client = log.producer.client();
            let answer = client.fetch_metadata(Some(&log.config.topic), Duration::from_secs(1));
            answer.map_err(|error| failed("read metadata", Effect::NotApplied, error))
        });
        let metadata = metadata.await.map_err(|_| Fault::down("does not answer"))?;
        let parts = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
        if parts.len() < usize::from(self.map.parts()) {
            return Err(Fault::down("does not have the topic"));
        }
        let ours = parts.iter().filter(|part| part.id() < i32::from(self.map.parts()));
        let ours = ours.map(|part| Replicas {
            has_leader: part.leader() >= 0,
            all: part.replicas().len(),
            in_sync: part.isr().len(),
        });
        appendable(ours.collect(), self.config.min_insync_replicas.into())
    }
}

/// The replicas of a partition.
#[derive(Clone, Copy)]
struct Replicas {
    has_leader: bool,
    all: usize,
    in_sync: usize,
}

/// Answers why nothing can be appended to some partitions, when `least` replicas have to take a record. A topic with
/// fewer replicas than that was made with another setting.
fn appendable(parts: Vec<Replicas>, least: usize) -> Result<(), Fault> {
    let orphans = parts.iter().filter(|part| !part.has_leader).count();
    if orphans > 0 {
        return Err(Fault::down(format!("has no leader for {orphans} partitions")));
    }
    match parts.iter().filter(|part| part.in_sync < least && part.all >= least).count() {
        0 => Ok(()),
        few => Err(Fault::down(format!("has fewer than {least} replicas in sync for {few} partitions"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_takes_records_with_a_leader_and_enough_replicas_in_sync() {
        let part = |has_leader, all, in_sync| Replicas { has_leader, all, in_sync };
        let words = |parts| appendable(parts, 2).map_err(|fault| fault.words);
        assert_eq!(words(vec![part(true, 3, 3), part(true, 3, 2)]), Ok(()));
        assert_eq!(words(vec![part(true, 1, 1)]), Ok(()), "it was made to need one");
        let few = "has fewer than 2 replicas in sync for 1 partitions";
        assert_eq!(words(vec![part(true, 3, 3), part(true, 3, 1)]), Err(few.to_owned()));
        let none = "has no leader for 1 partitions";
        assert_eq!(words(vec![part(true, 3, 1), part(false, 3, 2)]), Err(none.to_owned()));
    }
}
