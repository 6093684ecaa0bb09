//! Reads the order log and writes its orders, one transaction per batch of a partition: steps 8 to 13 of
//! docs/protocol/steps.md.
//!
//! A writer works in steps. A run takes what the log and the databases have answered since the last one, and it begins
//! what can be begun now. Batches of different partitions are written at the same time, batches of one partition one
//! after the other. Invariant: a batch starts at the offset after the last committed record. Whenever that chain breaks
//! (another writer moved the position, the partition was revoked, records were left out), the writer drops what it has
//! read ahead and begins again at the stored position.

mod partition_queue;
mod parts;
mod writing;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;

use super::announcer::Unheard;
use super::driver::{Progress, Signal, Task};
use super::position_watch;
use crate::clock::Moment;
use crate::domain::batch_plan::LogBatch;
use crate::domain::{LogId, Part, Position};
use crate::metrics::WRITER_RETRIES;
use crate::ports::{
    BatchOutcome, Effect, ErrorKind, LogEvent, OrderLogReader, StoreError, StoreResult, TakenOver,
};

use partition_queue::PartitionQueue;
pub use parts::{Limits, Parts};
use writing::Writing;

/// Most records that one run takes from the log.
const TAKEN_MAX: usize = 2_000;
/// How long a writer rests when nobody wakes it. Events and deadlines wake it long before. It is also the time between
/// two looks at the stored positions of partitions that have nothing to do.
const PERIOD: Duration = Duration::from_secs(1);

/// One order writer: a member of the log's readers, with a queue for each partition that is assigned to it.
pub struct OrderWriter {
    parts: Parts,
    signal: Signal,
    // A run has the state for itself, because the driver makes one run at a time.
    state: tokio::sync::Mutex<State>,
    /// Spawned work that is done, in the order in which it ended.
    done: Arc<Mutex<Vec<Done>>>,
}

/// What a writer keeps between two runs.
#[derive(Default)]
struct State {
    /// `None` before the first run, and after the reader broke.
    reader: Option<Box<dyn OrderLogReader>>,
    queues: BTreeMap<Part, PartitionQueue>,
    /// How many queues were ever made.
    lives: u64,
    /// When the stored positions of idle partitions are looked at next; `None` before the first run.
    look_at: Option<Moment>,
}

/// The end of spawned work.
enum Done {
    /// The work of one queue.
    Queue {
        part: Part,
        /// The life of the queue for which it was begun. A partition that was revoked and assigned again has another
        /// queue.
        life: u64,
        work: Work,
    },
    /// The stored positions were read, for the queues that were idle when that began.
    Look { idle: Vec<Idle>, found: HashMap<Part, Position> },
}

/// A queue that had nothing to do, with its life and the position that it was at.
struct Idle {
    part: Part,
    life: u64,
    next_offset: i64,
}

/// Spawned work with its result.
enum Work {
    /// The stored position was read, and compared with the log that there is now.
    Position(StoreResult<(TakenOver, LogId)>),
    /// A batch was written, or not.
    Batch(LogBatch, StoreResult<BatchOutcome>, Option<Unheard>),
}

impl OrderWriter {
    /// Makes a writer that joins the readers in its first run. `signal` is woken when there may be something to do.
    pub fn new(parts: Parts, signal: Signal) -> Self {
        Self { parts, signal, state: tokio::sync::Mutex::default(), done: Arc::default() }
    }

    /// Takes the spawned work that is done.
    fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut self.done.lock().expect("no code panics while holding it"))
    }

    /// Spawns `work` beside the runs, and wakes the writer when it is done.
    fn begin(&self, part: Part, life: u64, work: impl Future<Output = Work> + Send + 'static) {
        let (done, signal) = (self.done.clone(), self.signal.clone());
        self.parts.tasks.spawn(async move {
            let work = work.await;
            done.lock().expect("no code panics while holding it").push(Done::Queue { part, life, work });
            signal.wake();
        });
    }

    /// Begins to read the stored positions, when that is due. An operator may have moved one, or it was halted, and an
    /// idle queue would learn that from its next batch only.
    fn look(&self, queues: &BTreeMap<Part, PartitionQueue>, look_at: &mut Option<Moment>, now: Moment) {
        let due = look_at.get_or_insert(now + PERIOD);
        if now < *due {
            return;
        }
        let idle = queues.iter().filter_map(|(part, queue)| {
            Some(Idle { part: *part, life: queue.life, next_offset: queue.idle_at()? })
        });
        let idle: Vec<Idle> = idle.collect();
        *due = now + PERIOD;
        if idle.is_empty() {
            return;
        }
        let (positions, done, signal) =
            (self.parts.positions.clone(), self.done.clone(), self.signal.clone());
        self.parts.tasks.spawn(async move {
            let found = positions.positions().await;
            done.lock().expect("no code panics while holding it").push(Done::Look { idle, found });
            signal.wake();
        });
    }
}

#[async_trait]
impl Task for OrderWriter {
    fn name(&self) -> &'static str {
        "order_writer"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    /// Takes what was answered since the last run, and begins what can be begun now.
    ///
    /// # Errors
    /// When the readers cannot be joined, or the reader is beyond repair. The next run joins anew.
    async fn run_once(&self) -> StoreResult<Progress> {
        let mut state = self.state.lock().await;
        let state = &mut *state;
        let mut reader = match state.reader.take() {
            Some(reader) => reader,
            None => {
                // What an earlier reader delivered says nothing about what this one delivers.
                state.queues.clear();
                self.parts.order_log.reader(self.signal.as_wake())?
            }
        };
        let events = reader.take(TAKEN_MAX).await?;
        let now = self.parts.clock.monotonic();
        let taken = events.len();
        for event in events {
            note(event, &mut state.queues, &mut state.lives, now, &self.parts.limits);
        }
        let done = self.take_done();
        let finished = done.len();
        for done in done {
            let (part, life, work) = match done {
                Done::Queue { part, life, work } => (part, life, work),
                Done::Look { idle, found } => {
                    compare(&idle, &found, &mut state.queues);
                    continue;
                }
            };
            // The result is of no use when its queue is gone, or is another one by now.
            let Some(queue) = state.queues.get_mut(&part).filter(|queue| queue.life == life) else {
                continue;
            };
            match work {
                Work::Position(stored) => self.start(part, queue, stored, reader.as_mut()),
                Work::Batch(batch, outcome, unheard) => {
                    self.finish(part, queue, (batch, unheard), outcome, reader.as_mut());
                }
            }
        }
        self.look(&state.queues, &mut state.look_at, now);
        let mut due: Option<Moment> = (taken >= TAKEN_MAX).then_some(now);
        for (part, queue) in &mut state.queues {
            self.ask_position(*part, queue, now);
            self.press_back(*part, queue, reader.as_mut());
            self.dispatch(*part, queue, now);
            due = due.into_iter().chain(queue.due(now, self.parts.limits.batch_wait)).min();
        }
        // It is put back last: a run that panics on the way has the next one join anew.
        state.reader = Some(reader);
        Ok(Progress { done: taken + finished, again_in: due.map(|due| due.since(now)) })
    }

    /// Waits for the batches that were begun, then leaves the readers. So the batches are over before another writer
    /// takes the partitions over.
    async fn leave(&self) {
        let mut state = self.state.lock().await;
        let Some(reader) = state.reader.take() else { return };
        loop {
            for done in self.take_done() {
                let Done::Queue { part, life, .. } = done else { continue };
                if let Some(queue) = state.queues.get_mut(&part).filter(|queue| queue.life == life) {
                    queue.busy = false;
                }
            }
            if !state.queues.values().any(|queue| queue.busy) {
                break;
            }
            self.signal.woken().await;
        }
        // Nobody here will find out what became of their batches.
        state.queues.clear();
        reader.leave().await;
    }
}

impl OrderWriter {
    /// Begins to read the position of a queue that has none. That goes beside the runs, because an instance that is
    /// down must not hold up the partitions of the others.
    fn ask_position(&self, part: Part, queue: &mut PartitionQueue, now: Moment) {
        if !queue.needs_position(now) {
            return;
        }
        queue.busy = true;
        let parts = self.parts.clone();
        self.begin(part, queue.life, async move { Work::Position(position(&parts, part).await) });
    }

    /// Starts a partition at its stored position. Backs off when the position could not be read, or the partition is
    /// halted.
    fn start(
        &self,
        part: Part,
        queue: &mut PartitionQueue,
        stored: StoreResult<(TakenOver, LogId)>,
        reader: &mut dyn OrderLogReader,
    ) {
        match stored {
            Ok((TakenOver { position: Position { halt: Some(halt), .. }, .. }, _)) => {
                tracing::debug!(part = part.number(), halt = halt.as_str(), "partition is halted");
                self.back_off(queue);
            }
            Ok((TakenOver { position: Position { next_offset, .. }, fences }, log)) => {
                tracing::info!(part = part.number(), position = next_offset, "partition is sought");
                // The position may have moved over a batch of which nobody was told.
                queue.unheard = None;
                queue.start_at(next_offset, log, fences);
                reader.seek(part, next_offset);
            }
            Err(error) => {
                tracing::warn!(%error, part = part.number(), "partition waits for its position");
                self.back_off(queue);
            }
        }
    }

    /// Lets a queue try nothing for a while.
    fn back_off(&self, queue: &mut PartitionQueue) {
        let now = self.parts.clock.monotonic();
        queue.back_off(now, self.parts.limits.retry_first, self.parts.limits.retry_last);
    }

    /// Pauses the delivery of a partition whose queue is full, and resumes it when half of the queue is free.
    fn press_back(&self, part: Part, queue: &mut PartitionQueue, reader: &mut dyn OrderLogReader) {
        let limit = self.parts.limits.buffer_records_max;
        match (queue.paused, queue.buffered()) {
            (false, buffered) if buffered >= limit => reader.pause(part),
            (true, buffered) if buffered <= limit / 2 => reader.resume(part),
            _ => return,
        }
        queue.paused = !queue.paused;
    }

    /// Begins to write the next batch of a queue, when it has one.
    fn dispatch(&self, part: Part, queue: &mut PartitionQueue, now: Moment) {
        let limits = &self.parts.limits;
        let Some(batch) = queue.next_batch(part, now, limits.batch_records_max, limits.batch_wait) else {
            return;
        };
        let (writing, tasks) = (Writing::of(&self.parts), self.parts.tasks.clone());
        let announcer = self.parts.announcer.clone();
        self.begin(part, queue.life, async move {
            let attempt = batch.clone();
            // The batch is written in a task of its own, because a panic must not leave the queue waiting for ever.
            let written = tasks.spawn(async move { writing.write(&attempt).await }).await;
            let outcome = written.unwrap_or_else(|panicked| {
                let source = Box::new(panicked);
                let (kind, effect) = (ErrorKind::Broken, Effect::Unknown);
                Err(StoreError { kind, effect, context: "write batch", source })
            });
            let is_unknown = outcome.as_ref().is_err_and(|error| error.effect == Effect::Unknown);
            Work::Batch(batch, outcome, is_unknown.then(|| Unheard::of(announcer)))
        });
    }

    /// Takes the outcome of a batch.
    fn finish(
        &self,
        part: Part,
        queue: &mut PartitionQueue,
        (batch, unheard): (LogBatch, Option<Unheard>),
        outcome: StoreResult<BatchOutcome>,
        reader: &mut dyn OrderLogReader,
    ) {
        match outcome {
            Ok(BatchOutcome::Written(written)) => {
                queue.written(written.next_offset);
                // It is written by this attempt, so by none before.
                queue.unheard.take().into_iter().for_each(Unheard::settle);
                reader.publish_position(part, written.next_offset);
            }
            Ok(BatchOutcome::PositionMoved { stored }) => {
                tracing::warn!(part = part.number(), ?stored, "the position was moved or halted");
                // Listeners were told that they may have missed something.
                queue.unheard.take().into_iter().for_each(Unheard::settle);
                queue.lose_position();
            }
            Err(error) => {
                tracing::warn!(%error, part = part.number(), records = batch.records.len(), "batch not written");
                queue.put_back(batch);
                match (&queue.unheard, unheard) {
                    (None, unheard) => queue.unheard = unheard,
                    (Some(_), again) => again.into_iter().for_each(Unheard::settle),
                }
                self.back_off(queue);
            }
        }
    }
}

/// Applies an event of the reader to the queues.
fn note(
    event: LogEvent,
    queues: &mut BTreeMap<Part, PartitionQueue>,
    lives: &mut u64,
    now: Moment,
    limits: &Limits,
) {
    match event {
        LogEvent::Assigned { part } => {
            tracing::info!(part = part.number(), "partition assigned");
            *lives += 1;
            // The queue is a new one, because nothing of an earlier life may get into this one.
            queues.insert(part, PartitionQueue::new(*lives));
        }
        LogEvent::Revoked { part } => {
            tracing::info!(part = part.number(), "partition revoked");
            queues.remove(&part);
        }
        LogEvent::Record { part, record } => {
            if let Some(queue) = queues.get_mut(&part)
                && let Err(gap) = queue.push(record, now)
            {
                counter!(WRITER_RETRIES, "reason" => "gap").increment(1);
                let part = part.number();
                tracing::warn!(part, ?gap, "records left out; read again from the stored position");
            }
        }
        LogEvent::Sought { part } => tracing::info!(part = part.number(), "partition starts"),
        LogEvent::NotSought { part } => {
            if let Some(queue) = queues.get_mut(&part) {
                queue.not_sought(now, limits.retry_first, limits.retry_last);
            }
        }
    }
}

/// Lets the queues that are idle still lose their position, when the stored one is another one or is halted.
fn compare(idle: &[Idle], found: &HashMap<Part, Position>, queues: &mut BTreeMap<Part, PartitionQueue>) {
    for Idle { part, life, next_offset } in idle {
        let Some(queue) = queues.get_mut(part).filter(|queue| queue.life == *life) else { continue };
        let Some(stored) = found.get(part) else { continue };
        let is_moved = stored.next_offset != *next_offset || stored.halt.is_some();
        if is_moved && queue.idle_at() == Some(*next_offset) {
            tracing::warn!(part = part.number(), ?stored, "the position was moved or halted");
            queue.lose_position();
        }
    }
}

/// Takes a partition over, and compares its position with the log that there is now. A position that is not one of that
/// log is halted, because orders that were accepted may be in no log any more.
async fn position(parts: &Parts, part: Part) -> StoreResult<(TakenOver, LogId)> {
    let TakenOver { position, fences } = parts.order_writes.take_over(part).await?;
    let log = parts.order_log.identity().await?.id;
    let offsets = parts.order_log.offsets(&[part]).await?;
    let offsets =
        offsets.get(&part).ok_or_else(|| StoreError::broken("compare position", "no such partition"))?;
    let position = position_watch::compare(parts.positions.as_ref(), part, position, (log, offsets)).await?;
    Ok((TakenOver { position, fences }, log))
}
