//! Asks a broker which topic has the order log's name now. A topic that is deleted and made anew has another id, and
//! the client of the producer and the readers does not tell it.

use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::kafka_connection::{KafkaConnection, address_of};
use crate::clock::Clock;
use crate::config::KafkaConfig;
use crate::domain::LogId;
use crate::ports::{Effect, ErrorKind, LogIdentity, StoreError, StoreResult};

const CONTEXT: &str = "read the order log's identity";
/// Longest time that one broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The version of the Metadata request: the last one that brokers since 2.8 know, and the first with topic ids is 10.
const VERSION: i16 = 12;
/// UNKNOWN_TOPIC_OR_PARTITION.
const UNKNOWN_TOPIC: i16 = 3;

/// Reads which log the topic has now; `None` when there is no such topic. The brokers of `kafka.brokers` are asked in
/// turn until one answers.
///
/// # Errors
/// When no broker answers in time.
pub async fn read(config: &KafkaConfig, clock: &Clock) -> StoreResult<Option<LogIdentity>> {
    let mut failure = unavailable("kafka.brokers names no broker");
    for broker in config.brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()) {
        match clock.timeout(ANSWER_TIMEOUT, ask(config, broker)).await {
            Ok(Ok(topic)) => return identity(&topic),
            Ok(Err(error)) => failure = unavailable(&format!("{broker}: {error:#}")),
            Err(_) => failure = unavailable(&format!("{broker}: no answer within {ANSWER_TIMEOUT:?}")),
        }
    }
    Err(failure)
}

fn unavailable(detail: &str) -> StoreError {
    let (kind, effect) = (ErrorKind::Unavailable, Effect::NotApplied);
    StoreError { kind, effect, context: CONTEXT, source: detail.into() }
}

fn identity(topic: &MetadataResponseTopic) -> StoreResult<Option<LogIdentity>> {
    match (topic.error_code, LogId::new(*topic.topic_id.as_bytes())) {
        (UNKNOWN_TOPIC, _) => Ok(None),
        // A partition without a leader has an error of its own. It does not change which topic this is.
        (0, Some(id)) => Ok(Some(LogIdentity { id, parts: topic.partitions.len() })),
        (0, None) => {
            Err(StoreError::broken(CONTEXT, "the broker gives topics no id: Kafka 2.8 or newer does"))
        }
        (code, _) => Err(unavailable(&format!("the broker answers with error {code}"))),
    }
}

/// Asks one broker (`host:port`, as in `kafka.brokers`) what it knows of the topic.
///
/// # Errors
/// When it cannot be reached, does not let this program in, or does not answer.
pub async fn ask(config: &KafkaConfig, broker: &str) -> anyhow::Result<MetadataResponseTopic> {
    let name = TopicName(StrBytes::from_string(config.topic.clone()));
    let asked = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(name))]))
        .with_allow_auto_topic_creation(false);
    let answer = KafkaConnection::open(config, &address_of(broker)).await?.ask(VERSION, &asked).await?;
    answer.topics.into_iter().next().ok_or_else(|| anyhow::anyhow!("an answer without the topic"))
}
