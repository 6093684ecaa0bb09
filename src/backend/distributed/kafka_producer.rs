//! Batches the records of a topic in front of librdkafka, and takes its answers on a thread.
//!
//! Two properties of the client are the reason. The thread of its own `FutureProducer` spins through the last
//! millisecond of every wait. And an idempotent producer spins while records queue behind five unanswered ones of their
//! partition. So records of a partition are handed over only when none of it is under way, and no more than fit one
//! request. A request costs as much as many records, so where some went together, the next ones wait for company.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};
use std::time::Duration;

use metrics::{Histogram, histogram};
use rdkafka::ClientContext;
use rdkafka::client::Client;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use tokio::sync::oneshot;

use super::kafka_client::{Unawaited, failed};
use crate::clock::{Clock, Moment};
use crate::domain::{Part, ShardMap};
use crate::metrics::MESSAGING_DURATION;
use crate::ports::{Effect, StoreError, StoreResult};

/// Longest time that the thread waits at once for an answer. It hands each answer on at once. It outlives the last
/// clone of its producer by at most as much, and then closes the producer.
const POLL: Duration = Duration::from_secs(1);
/// Most records that are handed over together.
const GROUP_RECORDS_MAX: usize = 500;
/// The least time between the hand-overs of two groups of a partition, when the first had [`COMPANY`] records or more.
/// Where records come so seldom that they go alone, waiting finds no company either, and nobody waits (docs/adr/0018).
const GATHER: Duration = Duration::from_millis(6);
const COMPANY: usize = 3;

/// Appends records to one topic. Clones share one producer.
#[derive(Clone)]
pub struct KafkaProducer {
    producer: Arc<Unawaited<BaseProducer<ProducerQueues>>>,
    clock: Clock,
}

/// Holds a queue of records for each partition.
pub struct ProducerQueues {
    topic: String,
    queues: Vec<Mutex<ProducerQueue>>,
    clock: Clock,
    /// How long calls take.
    send_seconds: Histogram,
    /// Records that have no answer yet.
    unanswered: AtomicUsize,
    /// Most records that may have no answer.
    unanswered_max: usize,
    /// The producer, set once. The reference is weak, because the producer owns this.
    producer: OnceLock<Weak<Unawaited<BaseProducer<Self>>>>,
}

#[derive(Default)]
struct ProducerQueue {
    /// Records that were handed over and have no answer yet.
    under_way: usize,
    /// Oldest first.
    waiting: VecDeque<(Message, Arc<Call>)>,
    /// The moment before which nothing is handed over.
    gathers_until: Option<Moment>,
}

/// What a record says.
pub struct Message {
    /// The record's key; none in the order log.
    pub key: Option<Vec<u8>>,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// A call that waits until all of its records have their answers. They are of one partition.
pub struct Call {
    part: Part,
    waits: Mutex<Waits>,
}

struct Waits {
    /// Records that have none yet.
    unanswered: usize,
    /// The first failure of one of them.
    outcome: StoreResult<()>,
    /// Whom to answer. The caller may have stopped waiting.
    answer: Option<oneshot::Sender<StoreResult<()>>>,
}

/// Logs only for debugging: librdkafka writes some forty lines a second while a broker is down, and one failed call
/// says the same.
impl ClientContext for ProducerQueues {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for ProducerQueues {
    type DeliveryOpaque = Arc<Call>;

    fn delivery(&self, result: &DeliveryResult<'_>, call: Self::DeliveryOpaque) {
        let part = call.part;
        let delivered = result.as_ref().map(drop);
        self.answer(&call, delivered.map_err(|(error, _)| failed("append", Effect::Unknown, error.clone())));
        let mut queue = self.queue(part);
        // Where one record failed, those behind it would only wait as long again. They never left this process, and the
        // relay has them.
        let hopeless = if result.is_err() { std::mem::take(&mut queue.waiting) } else { VecDeque::new() };
        queue.under_way -= 1;
        let is_free = queue.under_way == 0;
        drop(queue);
        for (_, call) in hopeless {
            self.answer(&call, Err(failed("append", Effect::NotApplied, KafkaError::Canceled)));
        }
        // Without a producer nothing can be handed over, and no caller is left that waits.
        if is_free && let Some(producer) = self.producer.get().and_then(Weak::upgrade) {
            self.hand_over(&producer, part);
        }
    }
}

impl Waits {
    /// Takes the answer about one of the records. The last one answers the call.
    fn answer(&mut self, answer: StoreResult<()>) {
        self.unanswered -= 1;
        if self.outcome.is_ok() {
            self.outcome = answer;
        }
        if self.unanswered == 0
            && let Some(caller) = self.answer.take()
        {
            // The caller may have stopped waiting.
            let _ = caller.send(std::mem::replace(&mut self.outcome, Ok(())));
        }
    }
}

impl ProducerQueues {
    fn queue(&self, part: Part) -> MutexGuard<'_, ProducerQueue> {
        self.queues[usize::from(part.number())].lock().expect("no code panics while holding it")
    }

    /// Queues records. Answers until when they wait for company, if the first of them is the first that does.
    fn add(&self, call: Arc<Call>, messages: impl Iterator<Item = Message>) -> Option<Moment> {
        let mut queue = self.queue(call.part);
        let is_first = queue.waiting.is_empty();
        queue.waiting.extend(messages.map(|message| (message, call.clone())));
        queue.gathers_until.filter(|until| is_first && self.clock.monotonic() < *until)
    }

    fn answer(&self, call: &Call, answer: StoreResult<()>) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        call.waits.lock().expect("no code panics while holding it").answer(answer);
    }

    /// Hands librdkafka the records of a partition that wait, unless one of them is under way, or they are to wait for
    /// company. Whoever queues the first of them comes again when that is over.
    fn hand_over(&self, producer: &BaseProducer<Self>, part: Part) {
        loop {
            let now = self.clock.monotonic();
            let mut queue = self.queue(part);
            let gathers = queue.gathers_until.is_some_and(|until| now < until);
            if queue.under_way > 0 || queue.waiting.is_empty() || gathers {
                return;
            }
            let size = queue.waiting.len().min(GROUP_RECORDS_MAX);
            let group: Vec<_> = queue.waiting.drain(..size).collect();
            // Records that are left over have waited long enough.
            queue.gathers_until = (size >= COMPANY && queue.waiting.is_empty()).then(|| now + GATHER);
            // They are counted before they are handed over. The queue is unlocked meanwhile, and so no other caller
            // begins.
            queue.under_way = size;
            drop(queue);
            let taken = group.into_iter().map(|record| self.send(producer, record));
            let refused = taken.filter(|is_taken| !is_taken).count();
            // The answers to all others may have come meanwhile, so the loop looks again.
            self.queue(part).under_way -= refused;
        }
    }

    /// Hands librdkafka the records of all partitions that wait for company.
    fn hand_over_all(&self, producer: &BaseProducer<Self>) {
        for part in (0..self.queues.len()).filter_map(|number| u16::try_from(number).ok()).map(Part::new) {
            self.queue(part).gathers_until = None;
            self.hand_over(producer, part);
        }
    }

    /// Hands librdkafka one record, and tells whether it took the record. It never calls back from here.
    fn send(&self, producer: &BaseProducer<Self>, (message, call): (Message, Arc<Call>)) -> bool {
        let part = i32::from(call.part.number());
        let record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&self.topic, call);
        let mut record = record.partition(part).payload(&message.payload);
        record.key = message.key.as_deref();
        match producer.send(record) {
            Ok(()) => true,
            Err((error, record)) => {
                self.answer(&record.delivery_opaque, Err(refused(error)));
                false
            }
        }
    }
}

/// Makes the failure of a record that did not get into the client's queue. Only when there was no room is it sure that
/// the record did not leave.
fn refused(error: KafkaError) -> StoreError {
    let is_full = error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
    failed("append", if is_full { Effect::NotApplied } else { Effect::Unknown }, error)
}

impl KafkaProducer {
    /// Makes the producer, and starts the thread that takes its answers. At most `unanswered_max` records may have no
    /// answer.
    ///
    /// # Errors
    /// When the settings are wrong or no thread can be had.
    pub fn open(
        settings: &ClientConfig,
        topic: &str,
        map: ShardMap,
        unanswered_max: usize,
        clock: Clock,
    ) -> StoreResult<Self> {
        let queues = ProducerQueues {
            topic: topic.to_owned(),
            queues: map.all_parts().map(|_| Mutex::default()).collect(),
            clock: clock.clone(),
            send_seconds: histogram!(MESSAGING_DURATION, "system" => "kafka", "operation" => "send"),
            unanswered: AtomicUsize::new(0),
            unanswered_max,
            producer: OnceLock::new(),
        };
        let open = |error| failed("open order log", Effect::NotApplied, error);
        let producer = settings.create_with_context::<_, BaseProducer<ProducerQueues>>(queues);
        let producer = Arc::new(Unawaited::new(producer.map_err(open)?));
        let polled = Arc::downgrade(&producer);
        producer.context().producer.get_or_init(|| polled.clone());
        let thread = std::thread::Builder::new().name("kafka-answers".to_owned());
        thread
            .spawn(move || poll(&polled))
            .map_err(|error| StoreError::broken("open order log", error.to_string()))?;
        Ok(Self { producer, clock })
    }

    /// Answers the client, which can be asked for metadata and watermarks.
    pub fn client(&self) -> &Client<ProducerQueues> {
        self.producer.client()
    }

    /// Appends a record and waits for the answer. The record is delivered also when the caller stops waiting.
    ///
    /// The call never waits for room. When too many records have no answer yet, it fails at once. It also fails when a
    /// record before it fails. The relay can do the waiting. So the answer comes within the producer's
    /// `message.timeout.ms` and the second that it takes to notice the end of that time. It takes at most twice as
    /// long, when the records before it are delivered at the last moment.
    ///
    /// # Errors
    /// `NotApplied` when the record surely did not leave this process, as in both cases above. Otherwise `Unknown`.
    pub async fn append(&self, part: Part, message: Message) -> StoreResult<()> {
        self.append_all(part, std::iter::once(message)).await
    }

    /// Appends records in their order, as [`Self::append`] does one, and waits for all answers. A record behind one
    /// that failed may have been delivered all the same.
    ///
    /// # Errors
    /// The first failure of a record: `NotApplied` when surely none of them left this process.
    pub async fn append_all(
        &self,
        part: Part,
        messages: impl ExactSizeIterator<Item = Message>,
    ) -> StoreResult<()> {
        let (queues, size) = (self.producer.context(), messages.len());
        if size == 0 {
            return Ok(());
        }
        if queues.unanswered.fetch_add(size, Ordering::Relaxed) + size > queues.unanswered_max {
            queues.unanswered.fetch_sub(size, Ordering::Relaxed);
            return Err(refused(KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)));
        }
        let began = self.clock.monotonic();
        let (answer, answered) = oneshot::channel();
        let waits = Waits { unanswered: size, outcome: Ok(()), answer: Some(answer) };
        match queues.add(Arc::new(Call { part, waits: Mutex::new(waits) }), messages) {
            Some(until) => {
                let gathering = Gathering { producer: &self.producer, part, until };
                self.clock.sleep(until.since(self.clock.monotonic())).await;
                drop(gathering);
            }
            None => queues.hand_over(&self.producer, part),
        }
        // When there is no answer, the producer is gone, and with it what it knew.
        let unknown = |_| Err(failed("append", Effect::Unknown, KafkaError::Canceled));
        let answer = answered.await.unwrap_or_else(unknown);
        queues.send_seconds.record(self.clock.monotonic().since(began));
        answer.map_err(|error| {
            // Others of the call may have been delivered.
            let effect = if size > 1 { Effect::Unknown } else { error.effect };
            StoreError { effect, ..error }
        })
    }

    /// Waits until every record has its answer.
    ///
    /// # Errors
    /// When some records have no answer after `timeout`.
    pub fn flush(&self, timeout: Duration) -> StoreResult<()> {
        let queues = self.producer.context();
        let deadline = self.clock.monotonic() + timeout;
        let late = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
        while queues.unanswered.load(Ordering::Relaxed) > 0 {
            queues.hand_over_all(&self.producer);
            let left = deadline.since(self.clock.monotonic());
            let flushed = if left.is_zero() { Err(late.clone()) } else { self.producer.flush(left) };
            flushed.map_err(|error| failed("flush", Effect::Unknown, error))?;
        }
        Ok(())
    }
}

/// The duty of whoever queues the first record of a group that waits for company: when the wait is over, and also when
/// it is broken off, the group is handed over.
struct Gathering<'a> {
    producer: &'a BaseProducer<ProducerQueues>,
    part: Part,
    until: Moment,
}

impl Drop for Gathering<'_> {
    fn drop(&mut self) {
        let queues = self.producer.context();
        queues.queue(self.part).gathers_until.take_if(|until| *until == self.until);
        queues.hand_over(self.producer, self.part);
    }
}

/// Polls for answers, which hands them on, until the last clone of the producer is gone.
fn poll(producer: &Weak<Unawaited<BaseProducer<ProducerQueues>>>) {
    while let Some(producer) = producer.upgrade() {
        producer.poll(POLL);
    }
}
