//! One assigned partition's records between the log and the database.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::domain::Part;
use crate::domain::batch_plan::{LogBatch, LogRecord};

pub struct Lane {
    /// Differs for every assignment in this process.
    pub life: u64,
    /// Whether a batch is being written or the position is being read.
    pub busy: bool,
    pub paused: bool,
    /// Offset after the last committed record; `None` while the stored position is unknown.
    next: Option<i64>,
    /// Offset after the last record read; means nothing without a position.
    expected: i64,
    buffer: VecDeque<LogRecord>,
    /// What was left out when it was read; the records after it are in the log.
    gaps: Vec<Range<i64>>,
    /// When the oldest buffered record came.
    waiting_since: Option<Instant>,
    not_before: Option<Instant>,
    pause: Duration,
}

impl Lane {
    /// A lane without a position: records that come before it has one are not kept.
    pub fn new() -> Self {
        static LIVES: AtomicU64 = AtomicU64::new(0);
        Self {
            life: LIVES.fetch_add(1, Ordering::Relaxed),
            busy: false,
            paused: false,
            next: None,
            expected: 0,
            buffer: VecDeque::new(),
            gaps: Vec::new(),
            waiting_since: None,
            not_before: None,
            pause: Duration::ZERO,
        }
    }

    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    pub fn has_work(&self) -> bool {
        self.busy || !self.buffer.is_empty()
    }

    /// Keeps a record, unless it lies before the position (read ahead of a seek) or there is none.
    ///
    /// # Errors
    /// The offsets before it that were left out, at the first time: a position that moved past orders nobody read
    /// would lose them. The lane is in doubt then, and reads again. What is left out twice is not in the log.
    pub fn push(&mut self, record: LogRecord) -> Result<(), Range<i64>> {
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
        self.waiting_since.get_or_insert_with(Instant::now);
        self.buffer.push_back(record);
        Ok(())
    }

    pub fn needs_position(&self, now: Instant) -> bool {
        self.next.is_none() && !self.busy && self.may_try(now)
    }

    fn may_try(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| now >= at)
    }

    pub fn start_at(&mut self, position: i64) {
        self.clear();
        self.next = Some(position);
        self.expected = position;
        self.gaps.retain(|gap| gap.end > position);
        self.paused = false;
        self.succeeded();
    }

    /// The next batch, when one is full or its first record has waited long enough.
    pub fn next_batch(
        &mut self,
        part: Part,
        now: Instant,
        records_max: usize,
        wait: Duration,
    ) -> Option<LogBatch> {
        let start_offset = self.next?;
        if self.busy || self.buffer.is_empty() || !self.may_try(now) {
            return None;
        }
        let waited = self.waiting_since.is_none_or(|since| now.saturating_duration_since(since) >= wait);
        if self.buffer.len() < records_max && !waited {
            return None;
        }
        let size = self.buffer.len().min(records_max);
        let records: Vec<LogRecord> = self.buffer.drain(..size).collect();
        self.waiting_since = (!self.buffer.is_empty()).then_some(now);
        self.busy = true;
        Some(LogBatch { part, start_offset, records })
    }

    pub fn written(&mut self, next_offset: i64) {
        // In doubt it stays: the stored position is looked up all the same.
        if self.next.is_some() {
            self.next = Some(next_offset);
            self.buffer.retain(|record| record.offset >= next_offset);
        }
        self.succeeded();
    }

    /// The batch in flight failed: it comes again from its start, before everything read since.
    pub fn put_back(&mut self, batch: LogBatch) {
        self.busy = false;
        if self.next.is_some() {
            for record in batch.records.into_iter().rev() {
                self.buffer.push_front(record);
            }
        }
    }

    /// What follows the committed records may be missing: nothing read ahead counts, and the position is looked
    /// up again when the batch in flight is done.
    fn doubt(&mut self) {
        self.next = None;
        self.clear();
    }

    /// Somebody else moved the position: nothing read ahead can be trusted to follow it.
    pub fn lose_position(&mut self) {
        self.busy = false;
        self.doubt();
    }

    pub fn back_off(&mut self, now: Instant, first: Duration, last: Duration) {
        self.busy = false;
        self.pause = (self.pause * 2).clamp(first, last);
        self.not_before = Some(now + self.pause);
    }

    fn succeeded(&mut self) {
        self.busy = false;
        self.pause = Duration::ZERO;
        self.not_before = None;
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.waiting_since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::record::Poison;

    fn record(offset: i64) -> LogRecord {
        LogRecord { offset, payload: Vec::new(), order: Err(Poison::Garbage) }
    }

    fn offsets(batch: &LogBatch) -> Vec<i64> {
        batch.records.iter().map(|record| record.offset).collect()
    }

    fn lane_at(position: i64) -> Lane {
        let mut lane = Lane::new();
        lane.start_at(position);
        lane
    }

    fn push(lane: &mut Lane, offsets: impl IntoIterator<Item = i64>) {
        offsets.into_iter().for_each(|offset| lane.push(record(offset)).expect("no gap"));
    }

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn a_failed_batch_comes_again_before_what_was_read_since() {
        let mut lane = lane_at(10);
        let now = Instant::now();
        push(&mut lane, 10..13);
        let batch = lane.next_batch(Part::new(0), now, 2, NOW).expect("full");
        assert_eq!((batch.start_offset, offsets(&batch)), (10, vec![10, 11]));
        assert!(lane.next_batch(Part::new(0), now, 2, NOW).is_none(), "one batch in flight at a time");
        lane.put_back(batch);
        let again = lane.next_batch(Part::new(0), now, 9, NOW).expect("all");
        assert_eq!((again.start_offset, offsets(&again)), (10, vec![10, 11, 12]));
    }

    #[test]
    fn a_lost_position_drops_everything_until_the_lane_is_sought() {
        let mut lane = lane_at(0);
        push(&mut lane, [0]);
        lane.lose_position();
        assert!(lane.needs_position(Instant::now()));
        push(&mut lane, [1]);
        assert_eq!(lane.buffered(), 0, "records without a position are not kept");
        lane.start_at(5);
        push(&mut lane, [4, 5]);
        let batch = lane.next_batch(Part::new(0), Instant::now(), 9, NOW).expect("one");
        assert_eq!((batch.start_offset, offsets(&batch)), (5, vec![5]));
    }

    #[test]
    fn records_that_were_left_out_are_read_again_after_the_batch_in_flight() {
        let mut lane = lane_at(0);
        push(&mut lane, [0]);
        let batch = lane.next_batch(Part::new(0), Instant::now(), 9, NOW).expect("one");
        push(&mut lane, [1]);
        assert_eq!(lane.push(record(5)), Err(2..5));
        assert!(!lane.needs_position(Instant::now()), "not while a batch is in flight");
        lane.put_back(batch);
        assert_eq!(lane.buffered(), 0);
        assert!(lane.needs_position(Instant::now()));
        lane.start_at(0);
        push(&mut lane, 0..6);
        let batch = lane.next_batch(Part::new(0), Instant::now(), 9, NOW).expect("all");
        assert_eq!(offsets(&batch), (0..6).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_left_out_twice_is_not_in_the_log_and_the_position_moves_past_it() {
        let mut lane = lane_at(0);
        push(&mut lane, [0]);
        assert_eq!(lane.push(record(7)), Err(1..7));
        lane.start_at(0);
        push(&mut lane, [0]);
        assert_eq!(lane.push(record(9)), Err(1..9), "another gap: it was not the log's");
        lane.start_at(0);
        push(&mut lane, [0, 9]);
        assert_eq!(lane.push(record(20)), Err(10..20));
        lane.start_at(0);
        push(&mut lane, [0, 9, 20]);
        let batch = lane.next_batch(Part::new(0), Instant::now(), 9, NOW).expect("three");
        assert_eq!(batch.next_offset(), 21);
    }
}
