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
    StoreResult, Wake,
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

    async fn offsets(&self, parts: &[Part]) -> StoreResult<Offsets> {
        let parts = parts.to_vec();
        self.blocking(move |log| {
            let read = |part: &Part| {
                let client = log.producer.client();
                let number = i32::from(part.number());
                let (low, high) = client
                    .fetch_watermarks(&log.config.topic, number, METADATA_TIMEOUT)
                    .map_err(|error| failed("read log ends", Effect::NotApplied, error))?;
                Ok((*part, low..high))
            };
            parts.iter().map(read).collect()
        })
        .await
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

    /// Asks who leads the partitions: without a leader nothing can be appended to one.
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
        match ours.filter(|part| part.leader() < 0).count() {
            0 => Ok(()),
            orphans => Err(Fault::down(format!("has no leader for {orphans} partitions"))),
        }
    }
}
