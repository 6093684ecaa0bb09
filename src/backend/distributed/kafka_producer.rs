//! The producer of the order log: natural batching in front of librdkafka, and the thread that takes its answers.
//!
//! Two habits of the client made this: the thread of its own `FutureProducer` spins through the last millisecond of
//! every wait, and an idempotent producer spins while records queue behind five unanswered ones of their partition.
//! So a partition's records are handed over only when none of it is under way, and no more than fit one request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tokio::sync::oneshot;

use super::broken;
use super::kafka_order_log::failed;
use crate::domain::{Part, ShardMap};
use crate::ports::{Effect, StoreError, StoreResult};

/// How long the thread waits at a time for an answer, each of which is handed on at once. It outlives the last clone
/// of its producer by as much, and closes it.
const POLL: Duration = Duration::from_secs(1);
/// Records handed over together. So many are in the client's queue before its linger of a millisecond is over.
const GROUP_RECORDS_MAX: usize = 500;

/// Clones share one producer.
#[derive(Clone)]
pub struct KafkaProducer(Arc<BaseProducer<Lanes>>);

/// One lane a partition.
pub struct Lanes {
    topic: String,
    lanes: Vec<Mutex<Lane>>,
    /// Records that have no answer yet, and how many there may be.
    unanswered: AtomicUsize,
    unanswered_max: usize,
    /// Set once. Weak, because the producer owns this.
    producer: OnceLock<Weak<BaseProducer<Self>>>,
}

#[derive(Default)]
struct Lane {
    /// Records handed over and not answered.
    under_way: usize,
    /// Oldest first.
    waiting: VecDeque<(Vec<u8>, Asker)>,
}

/// Who waits for the answer about a record of a partition.
pub struct Asker {
    part: Part,
    answer: oneshot::Sender<StoreResult<()>>,
}

/// librdkafka writes some forty lines a second while a broker is down; one failed call says the same.
impl ClientContext for Lanes {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Lanes {
    type DeliveryOpaque = Box<Asker>;

    fn delivery(&self, result: &DeliveryResult<'_>, asker: Self::DeliveryOpaque) {
        let part = asker.part;
        let delivered = result.as_ref().map(drop);
        self.answer(*asker, delivered.map_err(|(error, _)| failed("append", Effect::Unknown, error.clone())));
        let mut lane = self.lane(part);
        // Where one had no luck the next would only wait as long again; they never left, and the relay has them.
        let hopeless = if result.is_err() { std::mem::take(&mut lane.waiting) } else { VecDeque::new() };
        lane.under_way -= 1;
        let is_free = lane.under_way == 0;
        drop(lane);
        for (_, asker) in hopeless {
            self.answer(asker, Err(failed("append", Effect::NotApplied, KafkaError::Canceled)));
        }
        // Without a producer nobody is told, and nobody is left who could hear it.
        if is_free && let Some(producer) = self.producer.get().and_then(Weak::upgrade) {
            self.hand_over(&producer, part);
        }
    }
}

impl Lanes {
    fn lane(&self, part: Part) -> MutexGuard<'_, Lane> {
        self.lanes[usize::from(part.number())].lock().expect("no code panics while holding it")
    }

    fn answer(&self, asker: Asker, answer: StoreResult<()>) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        // Nobody may be waiting any more.
        let _ = asker.answer.send(answer);
    }

    /// Gives librdkafka what waits, unless something is under way.
    fn hand_over(&self, producer: &BaseProducer<Self>, part: Part) {
        loop {
            let mut lane = self.lane(part);
            if lane.under_way > 0 || lane.waiting.is_empty() {
                return;
            }
            let size = lane.waiting.len().min(GROUP_RECORDS_MAX);
            let group: Vec<_> = lane.waiting.drain(..size).collect();
            // Counted before they are: while they are handed over the lane is free, and nobody else begins.
            lane.under_way = size;
            drop(lane);
            let taken = group.into_iter().map(|record| self.send(producer, record));
            let refused = taken.filter(|is_taken| !is_taken).count();
            // The answers to all others may have come meanwhile, so look again.
            self.lane(part).under_way -= refused;
        }
    }

    /// Whether librdkafka took the record. It never calls back from here.
    fn send(&self, producer: &BaseProducer<Self>, (payload, asker): (Vec<u8>, Asker)) -> bool {
        let part = i32::from(asker.part.number());
        let record = BaseRecord::<(), [u8], _>::with_opaque_to(&self.topic, Box::new(asker));
        match producer.send(record.partition(part).payload(&payload)) {
            Ok(()) => true,
            Err((error, record)) => {
                self.answer(*record.delivery_opaque, Err(refused(error)));
                false
            }
        }
    }
}

/// A record that did not get into the client's queue: for lack of room it surely did not.
fn refused(error: KafkaError) -> StoreError {
    let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
    failed("append", if is_full { Effect::NotApplied } else { Effect::Unknown }, error)
}

impl KafkaProducer {
    /// # Errors
    /// When the settings are wrong or no thread can be had.
    pub fn open(
        settings: &ClientConfig,
        topic: &str,
        map: ShardMap,
        unanswered_max: usize,
    ) -> StoreResult<Self> {
        let lanes = Lanes {
            topic: topic.to_owned(),
            lanes: map.all_parts().map(|_| Mutex::default()).collect(),
            unanswered: AtomicUsize::new(0),
            unanswered_max,
            producer: OnceLock::new(),
        };
        let open = |error| failed("open order log", Effect::NotApplied, error);
        let producer = Arc::new(settings.create_with_context::<_, BaseProducer<Lanes>>(lanes).map_err(open)?);
        let polled = Arc::downgrade(&producer);
        producer.context().producer.get_or_init(|| polled.clone());
        let thread = std::thread::Builder::new().name("kafka-answers".to_owned());
        thread.spawn(move || poll(&polled)).map_err(|error| broken("open order log", error.to_string()))?;
        Ok(Self(producer))
    }

    pub fn client(&self) -> &Client<Lanes> {
        self.0.client()
    }

    /// Appends a record and waits for the answer. Never waits for room: when too many records have no answer yet, that
    /// is `NotApplied` at once, and so it is when a record before it fails; the relay can do the waiting. So the answer
    /// comes within the producer's `message.timeout.ms` and the second that finding out takes, or twice that while
    /// what is before it just so gets through. The record goes its way also when nobody waits any more.
    ///
    /// # Errors
    /// `NotApplied` when the record surely did not leave this process.
    pub async fn append(&self, part: Part, payload: Vec<u8>) -> StoreResult<()> {
        let lanes = self.0.context();
        if lanes.unanswered.fetch_add(1, Ordering::Relaxed) >= lanes.unanswered_max {
            lanes.unanswered.fetch_sub(1, Ordering::Relaxed);
            return Err(refused(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)));
        }
        let (answer, answered) = oneshot::channel();
        lanes.lane(part).waiting.push_back((payload, Asker { part, answer }));
        lanes.hand_over(&self.0, part);
        // Without an answer the producer is gone, and with it what it knew.
        answered.await.unwrap_or_else(|_| Err(failed("append", Effect::Unknown, KafkaError::Canceled)))
    }

    /// Waits until every record has its answer.
    ///
    /// # Errors
    /// When some have none after `timeout`.
    pub fn flush(&self, timeout: Duration) -> StoreResult<()> {
        let deadline = Instant::now() + timeout;
        while self.0.context().unanswered.load(Ordering::Relaxed) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            self.0.flush(left).map_err(|error| failed("flush", Effect::Unknown, error))?;
        }
        Ok(())
    }
}

/// Hands on answers until nobody has the producer any more.
fn poll(producer: &Weak<BaseProducer<Lanes>>) {
    while let Some(producer) = producer.upgrade() {
        producer.poll(POLL);
    }
}
