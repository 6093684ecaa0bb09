//! The producer of the order log, and the thread that takes its acknowledgements.
//!
//! It stands in for the client's own `FutureProducer`, whose thread waits a tenth of a second at a time and spins
//! through the last millisecond of each: one hundredth of a core in every front that has nothing to do.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tokio::sync::oneshot;

use super::broken;
use super::kafka_order_log::failed;
use crate::domain::Part;
use crate::ports::{Effect, StoreResult};

/// How long the thread waits at a time for an acknowledgement, each of which is handed on at once. It outlives the
/// last clone of its producer by as much.
const POLL: Duration = Duration::from_secs(1);

/// Clones share one producer.
#[derive(Clone)]
pub struct KafkaProducer(Arc<BaseProducer<Deliveries>>);

/// Hands every acknowledgement to the task that waits for it.
pub struct Deliveries;

type Delivery = Result<(), KafkaError>;

/// librdkafka writes some forty lines a second while a broker is down; one failed call says the same.
impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<oneshot::Sender<Delivery>>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Self::DeliveryOpaque) {
        // Nobody may be waiting any more.
        let _ = waiting.send(result.as_ref().map(drop).map_err(|(error, _)| error.clone()));
    }
}

impl KafkaProducer {
    /// # Errors
    /// When the settings are wrong or no thread can be had.
    pub fn open(settings: &ClientConfig) -> StoreResult<Self> {
        let producer = settings.create_with_context(Deliveries);
        let producer =
            Arc::new(producer.map_err(|error| failed("open order log", Effect::NotApplied, error))?);
        let polled = Arc::downgrade(&producer);
        let thread = std::thread::Builder::new().name("kafka-deliveries".to_owned());
        thread.spawn(move || poll(&polled)).map_err(|error| broken("open order log", error.to_string()))?;
        Ok(Self(producer))
    }

    pub fn client(&self) -> &Client<Deliveries> {
        self.0.client()
    }

    /// Appends a record and waits for its acknowledgement, at most the producer's `message.timeout.ms`. Never
    /// waits for room: a full queue is `NotApplied` at once, and the relay can do the waiting.
    ///
    /// # Errors
    /// `NotApplied` only when the record did not get into the queue for lack of room.
    pub async fn append(&self, topic: &str, part: Part, payload: &[u8]) -> StoreResult<()> {
        let (waiting, delivery) = oneshot::channel();
        let record = BaseRecord::<(), [u8], _>::with_opaque_to(topic, Box::new(waiting));
        let record = record.partition(i32::from(part.number())).payload(payload);
        self.0.send(record).map_err(|(error, _)| {
            let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            failed("append", if is_full { Effect::NotApplied } else { Effect::Unknown }, error)
        })?;
        // Without an answer the producer is gone, and with it what it knew.
        let delivered = delivery.await.unwrap_or(Err(KafkaError::Canceled));
        delivered.map_err(|error| failed("append", Effect::Unknown, error))
    }

    /// Waits until every record has its acknowledgement or its failure.
    ///
    /// # Errors
    /// When some have neither after `timeout`.
    pub fn flush(&self, timeout: Duration) -> StoreResult<()> {
        self.0.flush(timeout).map_err(|error| failed("flush", Effect::Unknown, error))
    }
}

/// Hands on acknowledgements until nobody has the producer any more.
fn poll(producer: &Weak<BaseProducer<Deliveries>>) {
    while let Some(producer) = producer.upgrade() {
        producer.poll(POLL);
    }
}
