//! Protocol steps 8 to 13: reads the order log and writes its orders, one transaction per batch and partition.
//!
//! One thread owns the reader and all bookkeeping; batches of different partitions are written concurrently,
//! of one partition never. Invariant: a batch starts at the offset after the last committed one. What was read
//! ahead is dropped whenever that chain breaks (lost CAS, revocation, a gap), and the stored position takes over.

mod lane;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use metrics::{counter, histogram};

use crate::clock::Clock;
use crate::domain::batch_plan::LogBatch;
use crate::domain::{BucketId, OrderId, OrderState, Part, Sale, SaleId, ShardMap};
use crate::metrics::{
    DEAD_LETTERS, ORDER_PERSIST, ORDERS, POSITION_ALARMS, RECORDS_SKIPPED, WRITER_BATCH, WRITER_COMMIT,
    WRITER_RETRIES,
};
use crate::ports::{
    BatchOutcome, Effect, ErrorKind, Inventory, LogEvent, OrderLogReader, OrderStore, SaleStore, StoreError,
    StoreResult, Written,
};
use crate::shutdown::Tasks;

use lane::Lane;

/// How long one look at the log may block the thread.
const POLL: Duration = Duration::from_millis(5);
/// Most records taken from the client per look.
const POLL_RECORDS_MAX: usize = 2_000;

/// What a writer needs; cheap to clone into the tasks that write.
#[derive(Clone)]
pub struct Writing {
    pub orders: Arc<dyn OrderStore>,
    pub sales: Arc<dyn SaleStore>,
    pub inventory: Arc<dyn Inventory>,
    pub clock: Clock,
    pub map: ShardMap,
    pub tasks: Tasks,
    pub limits: Limits,
}

/// Bounds, from the configuration's `[writer]`.
#[derive(Debug, Clone)]
pub struct Limits {
    pub batch_records_max: usize,
    pub batch_wait: Duration,
    pub buffer_records_max: usize,
    pub retry_first: Duration,
    pub retry_last: Duration,
}

/// One order writer. Lives on its own thread.
pub struct OrderWriter {
    writing: Writing,
    reader: Box<dyn OrderLogReader>,
    lanes: BTreeMap<Part, Lane>,
    sales: Arc<HashMap<SaleId, Sale>>,
    done: (Sender<Done>, Receiver<Done>),
}

/// The end of something spawned: which lane's, and what came of it.
struct Done {
    part: Part,
    /// The lane's life at dispatch; a lane that was revoked and assigned again is another one.
    life: u64,
    work: Work,
}

enum Work {
    Position { stored: StoreResult<i64> },
    Batch { batch: LogBatch, outcome: StoreResult<BatchOutcome>, sales: Arc<HashMap<SaleId, Sale>> },
}

impl OrderWriter {
    pub fn new(writing: Writing, reader: Box<dyn OrderLogReader>) -> Self {
        Self { writing, reader, lanes: BTreeMap::new(), sales: Arc::default(), done: channel() }
    }

    /// Runs until told to stop, then finishes the batches it has begun. Leaving the group is the reader's drop.
    ///
    /// # Errors
    /// When the reader is beyond repair; the caller makes a new one.
    pub fn run(mut self) -> StoreResult<()> {
        while !self.writing.tasks.is_stopping() {
            self.run_once()?;
        }
        while self.in_flight() > 0 {
            if let Ok(done) = self.done.1.recv_timeout(POLL) {
                self.finish(done);
            }
        }
        Ok(())
    }

    /// One look at the log, at what was written meanwhile, and at what can be written next.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_once(&mut self) -> StoreResult<()> {
        let busy = self.lanes.values().any(Lane::has_work);
        let wait = if busy { Duration::from_millis(1) } else { POLL };
        for event in self.reader.poll(wait, POLL_RECORDS_MAX)? {
            self.note(event);
        }
        while let Ok(done) = self.done.1.try_recv() {
            self.finish(done);
        }
        let now = Instant::now();
        let parts: Vec<Part> = self.lanes.keys().copied().collect();
        for part in parts {
            self.ask_position(part, now);
            self.press_back(part);
            self.dispatch(part, now);
        }
        Ok(())
    }

    /// Batches being written now.
    pub fn in_flight(&self) -> usize {
        self.lanes.values().filter(|lane| lane.busy).count()
    }

    fn note(&mut self, event: LogEvent) {
        match event {
            LogEvent::Assigned { part } => {
                tracing::info!(part = part.number(), "partition assigned");
                // A fresh lane: nothing of an earlier life may slip into this one.
                self.lanes.insert(part, Lane::new());
            }
            LogEvent::Revoked { part } => {
                tracing::info!(part = part.number(), "partition revoked");
                self.lanes.remove(&part);
            }
            LogEvent::Record { part, record } => {
                if let Some(lane) = self.lanes.get_mut(&part)
                    && let Err(gap) = lane.push(record)
                {
                    counter!(WRITER_RETRIES, "reason" => "gap").increment(1);
                    tracing::warn!(
                        part = part.number(),
                        ?gap,
                        "records left out; read again from the stored position"
                    );
                }
            }
            LogEvent::OutOfRange { part, position, low, high } => {
                counter!(POSITION_ALARMS).increment(1);
                tracing::error!(
                    part = part.number(),
                    position,
                    low,
                    high,
                    "stored position lies outside the order log: the partition stands still until a person decides"
                );
            }
        }
    }

    /// A lane without a position asks for it, off this thread: an instance that is down must not hold up the
    /// partitions of the others.
    fn ask_position(&mut self, part: Part, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&part) else {
            return;
        };
        if !lane.needs_position(now) {
            return;
        }
        lane.busy = true;
        let (orders, report, life) = (self.writing.orders.clone(), self.done.0.clone(), lane.life);
        self.writing.tasks.spawn(async move {
            let work = Work::Position { stored: orders.take_over(part).await };
            drop(report.send(Done { part, life, work }));
        });
    }

    fn start_lane(&mut self, part: Part, stored: StoreResult<i64>) {
        let limits = &self.writing.limits;
        let Some(lane) = self.lanes.get_mut(&part) else {
            return;
        };
        match stored.and_then(|stored| self.reader.seek(part, stored).map(|()| stored)) {
            Ok(stored) => {
                tracing::info!(part = part.number(), position = stored, "partition starts");
                lane.start_at(stored);
            }
            Err(error) => {
                tracing::warn!(%error, part = part.number(), "partition waits for its position");
                lane.back_off(Instant::now(), limits.retry_first, limits.retry_last);
            }
        }
    }

    fn press_back(&mut self, part: Part) {
        let limit = self.writing.limits.buffer_records_max;
        let Some(lane) = self.lanes.get_mut(&part) else {
            return;
        };
        let switched = match (lane.paused, lane.buffered()) {
            (false, buffered) if buffered >= limit => self.reader.pause(part).map(|()| lane.paused = true),
            (true, buffered) if buffered <= limit / 2 => {
                self.reader.resume(part).map(|()| lane.paused = false)
            }
            _ => Ok(()),
        };
        if let Err(error) = switched {
            tracing::debug!(%error, part = part.number(), "back-pressure not switched");
        }
    }

    fn dispatch(&mut self, part: Part, now: Instant) {
        let limits = &self.writing.limits;
        let Some(lane) = self.lanes.get_mut(&part) else {
            return;
        };
        let Some(batch) = lane.next_batch(part, now, limits.batch_records_max, limits.batch_wait) else {
            return;
        };
        let (writing, sales, report) = (self.writing.clone(), self.sales.clone(), self.done.0.clone());
        let life = lane.life;
        self.writing.tasks.spawn(async move {
            let (attempt, known) = (batch.clone(), sales.clone());
            // A task of its own: a panic must not leave the lane waiting for ever.
            let tasks = writing.tasks.clone();
            let written = tasks.spawn(async move { writing.write(&attempt, known).await }).await;
            let (outcome, sales) = written.unwrap_or_else(|panicked| (Err(broken_batch(panicked)), sales));
            // The receiver is gone only when the writer itself is.
            drop(report.send(Done { part, life, work: Work::Batch { batch, outcome, sales } }));
        });
    }

    fn finish(&mut self, done: Done) {
        let alive = self.lanes.get(&done.part).is_some_and(|lane| lane.life == done.life);
        match done.work {
            Work::Position { stored } if alive => self.start_lane(done.part, stored),
            Work::Position { .. } => {}
            Work::Batch { batch, outcome, sales } => {
                // Never shrinks, so the larger map is the newer one.
                if sales.len() >= self.sales.len() {
                    self.sales = sales;
                }
                self.finish_batch(done.part, alive, batch, outcome);
            }
        }
    }

    fn finish_batch(&mut self, part: Part, alive: bool, batch: LogBatch, outcome: StoreResult<BatchOutcome>) {
        let lane = self.lanes.get_mut(&part).filter(|_| alive);
        let limits = &self.writing.limits;
        match outcome {
            Ok(BatchOutcome::Written(written)) => {
                if let Some(lane) = lane {
                    lane.written(written.next_offset);
                    self.reader.publish_position(part, written.next_offset);
                }
                self.writing.after_commit(written, &self.sales);
            }
            Ok(BatchOutcome::PositionMoved { stored }) => {
                counter!(WRITER_RETRIES, "reason" => "position_moved").increment(1);
                tracing::warn!(part = part.number(), stored, "another writer was here first");
                if let Some(lane) = lane {
                    lane.lose_position();
                }
            }
            Err(error) => {
                let reason = match error.kind {
                    ErrorKind::Conflict => "conflict",
                    ErrorKind::Unavailable => "unavailable",
                    ErrorKind::Broken => "broken",
                };
                counter!(WRITER_RETRIES, "reason" => reason).increment(1);
                tracing::warn!(%error, part = part.number(), records = batch.records.len(), "batch not written");
                if let Some(lane) = lane {
                    lane.put_back(batch);
                    lane.back_off(Instant::now(), limits.retry_first, limits.retry_last);
                }
            }
        }
    }
}

fn broken_batch(panicked: tokio::task::JoinError) -> StoreError {
    let source = Box::new(panicked);
    StoreError { kind: ErrorKind::Broken, effect: Effect::Unknown, context: "write batch", source }
}

impl Writing {
    /// Writes one batch. A sale that the snapshot lacks, or holds from before it was frozen by its preheat, is
    /// looked up before its records could become dead letters.
    async fn write(
        &self,
        batch: &LogBatch,
        mut sales: Arc<HashMap<SaleId, Sale>>,
    ) -> (StoreResult<BatchOutcome>, Arc<HashMap<SaleId, Sale>>) {
        let is_known = |sales: &HashMap<SaleId, Sale>| {
            let records = batch.records.iter().filter_map(|record| record.order.as_ref().ok());
            records
                .into_iter()
                .all(|record| sales.get(&record.sale_id).is_some_and(|sale| !sale.state.is_editable()))
        };
        if !is_known(&sales) {
            match self.sales.sales().await {
                Ok(found) => {
                    sales = Arc::new(found.into_iter().map(|sale| (sale.id.clone(), sale)).collect())
                }
                Err(error) => return (Err(error), sales),
            }
        }
        let began = Instant::now();
        let outcome = self.orders.write(batch, &sales).await;
        if matches!(outcome, Ok(BatchOutcome::Written(_))) {
            histogram!(WRITER_COMMIT).record(began.elapsed().as_secs_f64());
        }
        if outcome.is_err()
            && let Err(error) = self.orders.take_over(batch.part).await
        {
            // Grants taken by the failed attempt are applied before the next one asks for more.
            tracing::debug!(%error, "stray grants not applied now");
        }
        (outcome, sales)
    }

    /// Step 13 and the metrics. Best effort: MySQL is the truth whatever happens here.
    fn after_commit(&self, written: Written, sales: &HashMap<SaleId, Sale>) {
        let rows = u32::try_from(written.orders.len()).unwrap_or(u32::MAX);
        histogram!(WRITER_BATCH).record(f64::from(rows));
        counter!(RECORDS_SKIPPED).increment(u64::try_from(written.skipped).unwrap_or(0));
        for reason in written.dead_letters {
            counter!(DEAD_LETTERS, "reason" => reason).increment(1);
        }
        let now_ms = self.clock.now_ms();
        let mut decided: HashMap<BucketId, Vec<(OrderId, OrderState)>> = HashMap::new();
        for (record, state) in &written.orders {
            counter!(ORDERS, "status" => state.as_str()).increment(1);
            let age_ms = u64::try_from(now_ms.saturating_sub(record.accepted_ms)).unwrap_or(0);
            histogram!(ORDER_PERSIST).record(Duration::from_millis(age_ms).as_secs_f64());
            if let Some(sale) = sales.get(&record.sale_id) {
                let bucket = self.map.bucket_of(record.order_id.shard(), sale.buckets);
                let bucket = BucketId { sale: sale.id.clone(), bucket };
                decided.entry(bucket).or_default().push((record.order_id, *state));
            }
        }
        let inventory = self.inventory.clone();
        self.tasks.spawn(async move {
            for (bucket, decided) in decided {
                if let Err(error) = inventory.settle(&bucket, &decided).await {
                    tracing::debug!(%error, "reservations not marked; polls read MySQL");
                }
            }
        });
    }
}
