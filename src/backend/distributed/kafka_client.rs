//! Holds what the producer and the reader of the order log share: the client's settings and what its failures mean.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

use crate::config::KafkaConfig;
use crate::ports::{Effect, ErrorKind, StoreError};

/// Longest time that a call for a topic's metadata or watermarks may block.
pub const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the failure of a call to Kafka. It is always `Unavailable`.
pub fn failed(context: &'static str, effect: Effect, source: KafkaError) -> StoreError {
    StoreError { kind: ErrorKind::Unavailable, effect, context, source: Box::new(source) }
}

/// Makes the settings that every client begins with.
pub fn settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = ClientConfig::new();
    settings
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", "seckill")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true");
    settings
}
