//! The records of one assigned partition, between the log and the database.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Moment;
use crate::domain::batch_plan::{LogBatch, LogRecord};
use crate::domain::{Fences, LogId, Part};
use crate::worker::announcer::Unheard;

/// What part of the wait records get after a batch of a single one, and when somebody waits for one of them.
const SHORT: u32 = 20;
/// How many records are enough for a batch, so that it waits no longer. In a larger one a row costs hardly less, and
/// its rows keep the cores busy for so long that purchases have to wait for one.
const ENOUGH: usize = 128;

/// The records of a partition that were read and are not written yet, and where the partition is.
pub struct PartitionQueue {
    /// A number that is another one for every assignment of a writer.
    pub life: u64,
    /// Whether a batch is being written or the position is being read.
    pub busy: bool,
    /// Whether the reader was told to pause the delivery.
    pub paused: bool,
    /// The batch that failed last, when it may be committed all the same.
    pub unheard: Option<Unheard>,
    /// The offset after the last committed record; `None` while the stored position is unknown.
    next: Option<i64>,
    /// The log that the position belongs to; `None` before the first position.
    log: Option<LogId>,
    /// The fences of the partition, as they were read with the position.
    fences: Arc<Fences>,
    /// The offset after the last record that was read. It means nothing without a position.
    expected: i64,
    /// Records that were read and not handed out, ascending by offset.
    buffer: VecDeque<LogRecord>,
    /// Offsets that were left out once. The record after each of them is in the log.
    gaps: Vec<Range<i64>>,
    /// Since when the buffered records wait: since the first of them came, or since the last batch was handed out.
    waiting_since: Option<Moment>,
    /// The moment before which nothing is tried, because the last attempt failed.
    not_before: Option<Moment>,
    /// The last pause after a failure; zero after a success.
    pause: Duration,
    /// Whether the last batch had one record only.
    was_lone: bool,
    /// Whether somebody waits for the row of a buffered record.
    is_awaited: bool,
}

impl PartitionQueue {
    /// Makes a queue without a position. It does not keep the records that come before it has one.
    pub fn new(life: u64) -> Self {
        Self {
            life,
            busy: false,
            paused: false,
            unheard: None,
            next: None,
            log: None,
            fences: Arc::default(),
            expected: 0,
            buffer: VecDeque::new(),
            gaps: Vec::new(),
            waiting_since: None,
            not_before: None,
            pause: Duration::ZERO,
            was_lone: true,
            is_awaited: false,
        }
    }

    /// Counts the records that were read and not handed out.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Keeps a record, unless it was read before (ahead of a seek) or the queue has no position.
    ///
    /// # Errors
    /// The offsets before the record that were left out, the first time that they are. A position that moved past
    /// orders which nobody read would lose them, so the queue then loses its position and is read again. Offsets that
    /// are left out twice are not in the log.
    pub fn push(&mut self, record: LogRecord, now: Moment) -> Result<(), Range<i64>> {
        if self.next.is_none() || record.offset < self.expected {
            return Ok(());
        }
        let gap = self.expected..record.offset;
        if !gap.is_empty() && !self.gaps.contains(&gap) {
            self.gaps.push(gap.clone());
            self.doubt();
            return Err(gap);
        }
        self.expected = record.offset + 1;
        self.waiting_since.get_or_insert(now);
        self.is_awaited |= is_awaited(&record);
        self.buffer.push_back(record);
        Ok(())
    }

    /// Answers the position of a queue that has nothing to do and waits for records; `None` for any other.
    pub fn idle_at(&self) -> Option<i64> {
        self.next.filter(|_| !self.busy && self.buffer.is_empty())
    }

    /// Answers when the queue has something to do next; `None` while that depends on an event alone.
    pub fn due(&self, now: Moment, wait: Duration) -> Option<Moment> {
        if self.busy {
            return None;
        }
        if self.next.is_none() {
            return self.not_before;
        }
        // Records that were put back have waited before.
        let ready = self.waiting_since.map_or(now, |since| since + self.wait(wait));
        (!self.buffer.is_empty()).then(|| self.not_before.map_or(ready, |not_before| not_before.max(ready)))
    }

    /// Answers how long the first record of a batch waits for others, at most `longest`. Where records come one by one,
    /// a longer wait finds no company for them either; where some come together, a longer wait halves what a row costs.
    fn wait(&self, longest: Duration) -> Duration {
        if self.was_lone || self.is_awaited { longest / SHORT } else { longest }
    }

    /// Answers whether the stored position has to be read now.
    pub fn needs_position(&self, now: Moment) -> bool {
        self.next.is_none() && !self.busy && self.may_try(now)
    }

    /// Answers whether the pause after a failure is over.
    fn may_try(&self, now: Moment) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    /// Begins at the stored position of a log, to which the caller seeks the reader.
    pub fn start_at(&mut self, position: i64, log: LogId, fences: Arc<Fences>) {
        self.clear();
        self.next = Some(position);
        self.log = Some(log);
        self.fences = fences;
        self.expected = position;
        self.gaps.retain(|gap| gap.end > position);
        self.paused = false;
        self.succeeded();
    }

    /// Hands out the next batch, when there are enough records or the first one has waited long enough; `None` while a
    /// batch is in flight.
    pub fn next_batch(
        &mut self,
        part: Part,
        now: Moment,
        records_max: usize,
        wait: Duration,
    ) -> Option<LogBatch> {
        let (start_offset, log) = (self.next?, self.log?);
        if self.busy || self.buffer.is_empty() || !self.may_try(now) {
            return None;
        }
        let waited = self.waiting_since.is_none_or(|since| now.since(since) >= self.wait(wait));
        if self.buffer.len() < records_max.min(ENOUGH) && !waited {
            return None;
        }
        let size = self.buffer.len().min(records_max);
        let records: Vec<LogRecord> = self.buffer.drain(..size).collect();
        self.waiting_since = (!self.buffer.is_empty()).then_some(now);
        self.was_lone = size == 1;
        self.is_awaited = self.buffer.iter().any(is_awaited);
        self.busy = true;
        Some(LogBatch { part, log, start_offset, fences: self.fences.clone(), records })
    }

    /// Notes that the batch in flight is committed, and that the stored position is `next_offset`.
    pub fn written(&mut self, next_offset: i64) {
        // A queue that has lost its position stays without one, and the stored position is read all the same.
        if self.next.is_some() {
            self.next = Some(next_offset);
            self.buffer.retain(|record| record.offset >= next_offset);
        }
        self.succeeded();
    }

    /// Puts back the batch in flight, which failed. It comes again from its start, before everything that was read
    /// since.
    pub fn put_back(&mut self, batch: LogBatch) {
        self.busy = false;
        // They have waited before.
        self.waiting_since = None;
        if self.next.is_some() {
            for record in batch.records.into_iter().rev() {
                self.buffer.push_front(record);
            }
        }
    }

    /// Drops the position and everything that was read ahead, because records that follow the committed ones may be
    /// missing. The stored position is read again when the batch in flight is done.
    fn doubt(&mut self) {
        self.next = None;
        self.clear();
    }

    /// Notes that the reader could not be sought. Nothing is kept until the position was read again.
    pub fn not_sought(&mut self, now: Moment, first: Duration, last: Duration) {
        self.doubt();
        // A batch may be in flight still: it stays the only one.
        self.rest(now, first, last);
    }

    /// Notes that somebody else moved the position, so that nothing that was read ahead is known to follow it.
    pub fn lose_position(&mut self) {
        self.busy = false;
        self.doubt();
    }

    /// Tries nothing for a while: `first` at first, then twice as long as after the failure before, at most `last`.
    pub fn back_off(&mut self, now: Moment, first: Duration, last: Duration) {
        self.busy = false;
        self.rest(now, first, last);
    }

    fn rest(&mut self, now: Moment, first: Duration, last: Duration) {
        self.pause = (self.pause * 2).clamp(first, last);
        self.not_before = Some(now + self.pause);
    }

    /// Ends the pause after failures.
    fn succeeded(&mut self) {
        self.busy = false;
        self.pause = Duration::ZERO;
        self.not_before = None;
    }

    /// Drops what was read ahead.
    fn clear(&mut self) {
        self.buffer.clear();
        self.is_awaited = false;
        self.waiting_since = None;
    }
}

/// Answers whether somebody waits for a record's row.
fn is_awaited(record: &LogRecord) -> bool {
    record.order.as_ref().is_ok_and(|order| order.awaited)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::domain::record::Poison;
    use crate::domain::{
        IdempotencyKey, Money, Month, OrderId, OrderRecord, Quantity, SaleId, Shard, SkuId, UserId,
    };

    fn record(offset: i64) -> LogRecord {
        LogRecord { offset, payload: Vec::new(), order: Err(Poison::Garbage) }
    }

    fn log() -> LogId {
        LogId::new([1; 16]).expect("not zeros")
    }

    fn offsets(batch: &LogBatch) -> Vec<i64> {
        batch.records.iter().map(|record| record.offset).collect()
    }

    fn queue_at(position: i64) -> PartitionQueue {
        let mut queue = PartitionQueue::new(0);
        queue.start_at(position, log(), Arc::default());
        queue
    }

    fn push(queue: &mut PartitionQueue, offsets: impl IntoIterator<Item = i64>) {
        offsets.into_iter().for_each(|offset| queue.push(record(offset), now()).expect("no gap"));
    }

    const NOW: Duration = Duration::ZERO;

    fn now() -> Moment {
        Clock::manual(0).monotonic()
    }

    #[test]
    fn a_failed_batch_comes_again_before_what_was_read_since() {
        let mut queue = queue_at(10);
        let now = now();
        push(&mut queue, 10..13);
        let batch = queue.next_batch(Part::new(0), now, 2, NOW).expect("full");
        assert_eq!((batch.start_offset, offsets(&batch)), (10, vec![10, 11]));
        assert!(queue.next_batch(Part::new(0), now, 2, NOW).is_none(), "one batch in flight at a time");
        queue.put_back(batch);
        let again = queue.next_batch(Part::new(0), now, 9, NOW).expect("all");
        assert_eq!((again.start_offset, offsets(&again)), (10, vec![10, 11, 12]));
    }

    #[test]
    fn a_failed_batch_is_due_after_its_pause_and_not_after_another_wait() {
        let (now, wait) = (now(), Duration::from_secs(9));
        let (first, last) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut queue = queue_at(0);
        push(&mut queue, [0]);
        let batch = queue.next_batch(Part::new(0), now, 1, wait).expect("full");
        assert_eq!(queue.due(now, wait), None, "not while it is in flight");
        queue.put_back(batch);
        queue.back_off(now, first, last);
        assert_eq!(queue.due(now, wait), Some(now + first));
        assert!(queue.next_batch(Part::new(0), now, 9, wait).is_none());
        assert!(queue.next_batch(Part::new(0), now + first, 9, wait).is_some());
    }

    #[test]
    fn a_record_waits_long_for_company_only_where_there_is_some() {
        let (now, wait) = (now(), Duration::from_millis(100));
        let soon = now + wait / SHORT;
        let mut queue = queue_at(0);
        push(&mut queue, [0]);
        assert_eq!(queue.due(now, wait), Some(soon), "nothing is known of the traffic yet");
        assert!(queue.next_batch(Part::new(0), now, 9, wait).is_none());
        queue.next_batch(Part::new(0), soon, 9, wait).expect("it has waited");
        queue.written(1);
        push(&mut queue, [1, 2]);
        assert_eq!(queue.due(now, wait), Some(soon), "the last one was alone");
        queue.next_batch(Part::new(0), soon, 9, wait).expect("two");
        queue.written(3);
        push(&mut queue, [3]);
        assert_eq!(queue.due(now, wait), Some(now + wait), "two came together");
        assert!(queue.next_batch(Part::new(0), soon, 9, wait).is_none());
        assert!(queue.next_batch(Part::new(0), now, 1, wait).is_some(), "a full batch waits for nothing");
    }

    #[test]
    fn enough_records_wait_for_no_more_and_go_together_with_all_that_are_there() {
        let (now, wait) = (now(), Duration::from_millis(100));
        let mut queue = queue_at(0);
        push(&mut queue, [0, 1]);
        queue.next_batch(Part::new(0), now, 2, wait).expect("full");
        queue.written(2);
        let last = 1 + i64::try_from(ENOUGH).expect("small");
        push(&mut queue, 2..last);
        assert!(queue.next_batch(Part::new(0), now, 500, wait).is_none(), "one is missing");
        push(&mut queue, last..last + 9);
        let batch = queue.next_batch(Part::new(0), now, 500, wait).expect("enough");
        assert_eq!(batch.records.len(), ENOUGH + 8);
    }

    #[test]
    fn a_record_whose_row_somebody_waits_for_takes_the_others_along() {
        let (now, wait) = (now(), Duration::from_millis(100));
        let awaited = |offset| {
            let user = UserId::parse("alice").expect("a user");
            let (sale, sku) =
                (SaleId::parse("drop").expect("a slug"), SkuId::parse("phone").expect("a slug"));
            let key = IdempotencyKey::parse("k").expect("a key");
            let order = OrderRecord {
                v: OrderRecord::VERSION,
                order_id: OrderId::derive(Shard::new(0), Month::new(600), &sale, &user, &key),
                sale_id: sale,
                sku_id: sku,
                user_id: user,
                quantity: Quantity::new(1).expect("one"),
                unit_price: Money::new(1, "CNY").expect("money"),
                reference: None,
                epoch: 1,
                accepted_ms: 0,
                awaited: true,
                node: None,
                trace: None,
                decided: None,
            };
            LogRecord { offset, payload: Vec::new(), order: Ok(order) }
        };
        let mut queue = queue_at(0);
        push(&mut queue, [0, 1]);
        queue.next_batch(Part::new(0), now, 2, wait).expect("full");
        queue.written(2);
        push(&mut queue, [2]);
        assert_eq!(queue.due(now, wait), Some(now + wait));
        queue.push(awaited(3), now).expect("no gap");
        assert_eq!(queue.due(now, wait), Some(now + wait / SHORT));
        let batch = queue.next_batch(Part::new(0), now + wait / SHORT, 9, wait).expect("both");
        assert_eq!(offsets(&batch), [2, 3]);
        queue.written(4);
        push(&mut queue, [4]);
        assert_eq!(queue.due(now, wait), Some(now + wait), "nobody waits for this one");
    }

    #[test]
    fn a_seek_that_failed_leaves_the_batch_in_flight_the_only_one() {
        let (first, last) = (Duration::from_millis(50), Duration::from_secs(2));
        let mut queue = queue_at(0);
        push(&mut queue, [0]);
        queue.next_batch(Part::new(0), now(), 1, NOW).expect("full");
        queue.not_sought(now(), first, last);
        assert!(!queue.needs_position(now() + last), "the batch is in flight");
        queue.written(1);
        assert!(queue.needs_position(now()));
    }

    #[test]
    fn a_lost_position_drops_everything_until_the_queue_is_sought() {
        let mut queue = queue_at(0);
        push(&mut queue, [0]);
        queue.lose_position();
        assert!(queue.needs_position(now()));
        push(&mut queue, [1]);
        assert_eq!(queue.buffered(), 0, "records without a position are not kept");
        queue.start_at(5, log(), Arc::default());
        push(&mut queue, [4, 5]);
        let batch = queue.next_batch(Part::new(0), now(), 9, NOW).expect("one");
        assert_eq!((batch.start_offset, offsets(&batch)), (5, vec![5]));
    }

    #[test]
    fn records_that_were_left_out_are_read_again_after_the_batch_in_flight() {
        let mut queue = queue_at(0);
        push(&mut queue, [0]);
        let batch = queue.next_batch(Part::new(0), now(), 9, NOW).expect("one");
        push(&mut queue, [1]);
        assert_eq!(queue.push(record(5), now()), Err(2..5));
        assert!(!queue.needs_position(now()), "not while a batch is in flight");
        queue.put_back(batch);
        assert_eq!(queue.buffered(), 0);
        assert!(queue.needs_position(now()));
        queue.start_at(0, log(), Arc::default());
        push(&mut queue, 0..6);
        let batch = queue.next_batch(Part::new(0), now(), 9, NOW).expect("all");
        assert_eq!(offsets(&batch), (0..6).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_left_out_twice_is_not_in_the_log_and_the_position_moves_past_it() {
        let mut queue = queue_at(0);
        push(&mut queue, [0]);
        assert_eq!(queue.push(record(7), now()), Err(1..7));
        queue.start_at(0, log(), Arc::default());
        push(&mut queue, [0]);
        assert_eq!(queue.push(record(9), now()), Err(1..9), "another gap: it was not the log's");
        queue.start_at(0, log(), Arc::default());
        push(&mut queue, [0, 9]);
        assert_eq!(queue.push(record(20), now()), Err(10..20));
        queue.start_at(0, log(), Arc::default());
        push(&mut queue, [0, 9, 20]);
        let batch = queue.next_batch(Part::new(0), now(), 9, NOW).expect("three");
        assert_eq!(batch.next_offset(), 21);
    }
}
