//! Holds what the producers and the reader of the order log share: the client's settings and what its failures mean.

use std::ops::Deref;
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

use crate::config::{KafkaConfig, SaslMechanism};
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
    secure(&mut settings, config);
    settings
}

/// Adds TLS and SASL. The client reads the files itself.
fn secure(settings: &mut ClientConfig, config: &KafkaConfig) {
    let has_login = config.sasl_mechanism != SaslMechanism::None;
    let protocol = match (config.tls, has_login) {
        (false, false) => return,
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    settings.set("security.protocol", protocol);
    let files = config.tls_files();
    let keys = [
        ("ssl.ca.location", files.ca),
        ("ssl.certificate.location", files.cert),
        ("ssl.key.location", files.key),
    ];
    for (key, file) in keys {
        if let Some(file) = file {
            settings.set(key, file.to_string_lossy());
        }
    }
    if has_login {
        settings
            .set("sasl.mechanism", config.sasl_mechanism.name())
            .set("sasl.username", &config.sasl_user)
            .set("sasl.password", config.sasl_password.expose());
    }
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

/// A client of Kafka whose end nobody waits for. The end of a librdkafka client joins its threads, and that has been
/// seen to last for ever (librdkafka #4519), in programs that were done.
pub struct Unawaited<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Unawaited<T> {
    /// Takes a client.
    pub fn new(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send + 'static> Deref for Unawaited<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("it is there until it ends")
    }
}

impl<T: Send + 'static> Drop for Unawaited<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        // Without a thread it ends here.
        drop(std::thread::Builder::new().name("kafka-end".to_owned()).spawn(move || drop(client)));
    }
}
