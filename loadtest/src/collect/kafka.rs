//! Reads the order log from its first to its last record. It commits no offsets of a group, so reading leaves no trace.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::record::record;
use crate::config::{Config, KafkaLogin, TlsFiles};
use crate::evidence::{LogFacts, PartitionFacts};

const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to the log. Its calls block. Its end does not.
pub struct Log {
    consumer: Unawaited,
    topic: String,
}

/// A consumer whose end nobody waits for. It joins the threads of the consumer, and that has been seen to last for ever
/// (librdkafka #4519).
struct Unawaited(Option<BaseConsumer>);

impl Deref for Unawaited {
    type Target = BaseConsumer;

    fn deref(&self) -> &BaseConsumer {
        self.0.as_ref().expect("it is there until it ends")
    }
}

impl Drop for Unawaited {
    fn drop(&mut self) {
        let consumer = self.0.take();
        // Without a thread it ends here.
        drop(std::thread::Builder::new().name("kafka-end".to_owned()).spawn(move || drop(consumer)));
    }
}

/// Adds TLS and SASL.
fn secure(settings: &mut ClientConfig, config: &Config) {
    let protocol = match (&config.kafka_tls, &config.kafka_login) {
        (None, None) => return,
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    settings.set("security.protocol", protocol);
    if let Some(TlsFiles { ca, own }) = &config.kafka_tls {
        let (certificate, key) = own.as_ref().map(|(certificate, key)| (certificate, key)).unzip();
        let keys = [
            ("ssl.ca.location", ca.as_ref()),
            ("ssl.certificate.location", certificate),
            ("ssl.key.location", key),
        ];
        for (key, file) in keys {
            if let Some(file) = file {
                settings.set(key, file.to_string_lossy());
            }
        }
    }
    if let Some(KafkaLogin { mechanism, user, password }) = &config.kafka_login {
        settings.set("sasl.mechanism", mechanism).set("sasl.username", user).set("sasl.password", password);
    }
}

impl Log {
    /// Makes a consumer, which connects later.
    ///
    /// # Errors
    /// When the client refuses its settings.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let mut settings = ClientConfig::new();
        secure(&mut settings, config);
        let consumer = settings
            .set("bootstrap.servers", &config.brokers)
            // The client wants a group. This consumer never joins it and never commits to it.
            .set("group.id", "seckill-audit")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .create()
            .context("cannot make a Kafka consumer")?;
        Ok(Self { consumer: Unawaited(Some(consumer)), topic: config.topic.clone() })
    }

    /// Reads the first kept and the next offset of every partition, by number.
    ///
    /// # Errors
    /// When the broker does not answer or does not know the topic.
    pub fn bounds(&self) -> anyhow::Result<Vec<PartitionFacts>> {
        let metadata =
            self.consumer.fetch_metadata(Some(&self.topic), TIMEOUT).context("cannot reach Kafka")?;
        let count = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
        if count == 0 {
            bail!("Kafka has no topic {}: run `seckill migrate`", self.topic);
        }
        let bounds = |part| -> anyhow::Result<PartitionFacts> {
            let (low, end) = self
                .consumer
                .fetch_watermarks(&self.topic, part, TIMEOUT)
                .with_context(|| format!("cannot read the bounds of {}/{part}", self.topic))?;
            Ok(PartitionFacts { low, end })
        };
        (0..i32::try_from(count)?).map(bounds).collect()
    }

    fn records(&self, sale: &str) -> anyhow::Result<LogFacts> {
        let mut facts = LogFacts { partitions: self.bounds()?, records: Vec::new() };
        let mut assignment = TopicPartitionList::new();
        let mut open: BTreeSet<i32> = BTreeSet::new();
        for (part, bounds) in (0i32..).zip(&facts.partitions) {
            if bounds.low < bounds.end {
                assignment.add_partition_offset(&self.topic, part, Offset::Offset(bounds.low))?;
                open.insert(part);
            }
        }
        self.consumer.assign(&assignment).context("cannot read the order log")?;
        while !open.is_empty() {
            match self.consumer.poll(TIMEOUT) {
                Some(Ok(message)) => {
                    let part = u16::try_from(message.partition())?;
                    let payload = message.payload().unwrap_or(&[]);
                    facts.records.extend(record(part, message.offset(), payload, sale));
                }
                Some(Err(KafkaError::PartitionEOF(part))) => drop(open.remove(&part)),
                Some(Err(error)) => return Err(error).context("cannot read the order log"),
                None => bail!("the order log {} went silent", self.topic),
            }
        }
        self.consumer.unassign()?;
        Ok(facts)
    }
}

/// Reads every record of a sale, and those that are not records at all.
///
/// # Errors
/// When the log cannot be read to its end.
pub async fn read(config: &Config, sale: &str) -> anyhow::Result<LogFacts> {
    let (config, sale) = (config.clone(), sale.to_owned());
    tokio::task::spawn_blocking(move || Log::new(&config)?.records(&sale)).await?
}

/// Calls [`Log::bounds`] from async code.
///
/// # Errors
/// As [`Log::bounds`].
pub async fn bounds(log: &Arc<Log>) -> anyhow::Result<Vec<PartitionFacts>> {
    let log = log.clone();
    tokio::task::spawn_blocking(move || log.bounds()).await?
}
