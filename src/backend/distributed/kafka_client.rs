//! Holds what the producers and the reader of the order log share: the client's settings and what its failures mean.

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

/// Makes the settings of a producer: idempotent, and safe with the acks of all in-sync replicas.
pub fn producer_settings(config: &KafkaConfig) -> ClientConfig {
    let mut settings = settings(config);
    settings
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", config.linger_ms.to_string())
        .set("message.timeout.ms", config.message_timeout_ms.to_string())
        // The queues in front of the client have the bound.
        .set("queue.buffering.max.messages", "0");
    settings
}
