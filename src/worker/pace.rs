//! Measures for every partition how long an order waits for its row: the lag divided by the drain rate.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use super::driver::{Progress, Task};
use crate::clock::{Clock, Moment};
use crate::domain::{Part, Position};
use crate::memory::pace::{Pace, SHORTEST_MS, STALLED_MS};
use crate::metrics::{CONSUMER_LAG, ORDERS_PENDING, PARTITION_STALLED};
use crate::ports::{OrderLog, Positions, StoreResult, all_read};

/// The longest estimate, in ms.
const LONGEST_MS: u64 = 30_000;
/// The time over which the drain rate is measured, while there is something to do. It is long enough for some batches
/// of a slow database, and short enough to follow a database that turns slow.
const WINDOW: Duration = Duration::from_secs(5);
/// The least time that says something about the rate. Before that, the rate that was known before holds.
const WINDOW_LEAST: Duration = Duration::from_millis(900);

/// The task that measures lag and drain rate of every partition.
pub struct PaceMeter {
    order_log: Arc<dyn OrderLog>,
    positions: Arc<dyn Positions>,
    parts: Vec<Part>,
    pace: Arc<Pace>,
    clock: Clock,
    period: Duration,
    meter: Mutex<Meter>,
}

impl PaceMeter {
    /// Makes a meter of all partitions that has measured nothing yet.
    pub fn new(
        order_log: Arc<dyn OrderLog>,
        positions: Arc<dyn Positions>,
        parts: Vec<Part>,
        pace: Arc<Pace>,
        clock: Clock,
        period: Duration,
    ) -> Self {
        Self { order_log, positions, parts, pace, clock, period, meter: Mutex::default() }
    }
}

#[async_trait]
impl Task for PaceMeter {
    fn name(&self) -> &'static str {
        "pace"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Measures all partitions once. A partition that is halted, or whose offsets or position cannot be read, counts as
    /// stalled.
    ///
    /// # Errors
    /// When the offsets of some cannot be read. Of these those count that were read last.
    async fn run_once(&self) -> StoreResult<Progress> {
        let read = self.order_log.offsets_in_reach(&self.parts).await;
        let positions = self.positions.positions().await;
        let now = self.clock.monotonic();
        let mut meter = self.meter.lock().expect("no code panics while holding it");
        let mut pending_all = 0;
        for part in &self.parts {
            let is_read = meter.note_offsets(*part, read.as_ref().ok().and_then(|read| read.get(part)));
            let Some(offsets) = meter.last_offsets(*part) else {
                self.pace.set(*part, STALLED_MS);
                continue;
            };
            let read = positions.get(part);
            // A position that cannot be read now is taken as standing still, because the lag behind it is real.
            let behind = match read {
                Some(position) => position.behind(&offsets),
                None => offsets.end.saturating_sub(meter.last_position(*part).unwrap_or(offsets.end)),
            };
            let pending = u32::try_from(behind).unwrap_or(0);
            // This process alone may not be able to read it, while the orders have their rows.
            pending_all += read.map_or(0, |_| pending);
            gauge!(CONSUMER_LAG, "part" => part.number().to_string()).set(f64::from(pending));
            let stalled = meter.stalled(*part, read.map(|position| position.next_offset), pending, now);
            gauge!(PARTITION_STALLED, "part" => part.number().to_string()).set(stalled.as_secs_f64());
            let wait_ms = match read {
                Some(Position { next_offset, halt: None, .. }) if is_read => {
                    estimate_ms(pending, meter.rate(*part, *next_offset, pending, now))
                }
                _ => STALLED_MS,
            };
            self.pace.set(*part, wait_ms);
        }
        gauge!(ORDERS_PENDING).set(f64::from(pending_all));
        all_read(&self.parts, &read?)?;
        Ok(Progress::of(usize::try_from(pending_all).unwrap_or(usize::MAX)))
    }
}

/// What the meter remembers between two rounds.
#[derive(Default)]
struct Meter {
    parts: HashMap<Part, Seen>,
}

/// What the meter remembers of one partition.
#[derive(Default)]
struct Seen {
    /// Positions since the partition last had nothing to do: those of the last [`WINDOW`], and one more.
    positions: VecDeque<(Moment, i64)>,
    /// Records per second while there was something to do; `None` before it was measured once.
    rate: Option<f64>,
    /// The position that was seen last, and since when it stands there while records wait.
    stands: Option<(i64, Moment)>,
    /// The offsets that were read last.
    offsets: Option<Range<i64>>,
}

impl Meter {
    /// Notes which offsets a partition has, and answers whether they could be read.
    fn note_offsets(&mut self, part: Part, read: Option<&Range<i64>>) -> bool {
        if let Some(read) = read {
            self.parts.entry(part).or_default().offsets = Some(read.clone());
        }
        read.is_some()
    }

    /// Answers the offsets that were read last.
    fn last_offsets(&self, part: Part) -> Option<Range<i64>> {
        self.parts.get(&part)?.offsets.clone()
    }

    /// Answers the position that was read last.
    fn last_position(&self, part: Part) -> Option<i64> {
        Some(self.parts.get(&part)?.positions.back()?.1)
    }

    /// Answers for how long a partition has stood still while records wait in it. A position that cannot be read now
    /// counts as the one that was read last.
    fn stalled(&mut self, part: Part, position: Option<i64>, pending: u32, now: Moment) -> Duration {
        let seen = self.parts.entry(part).or_default();
        let position = position.or(seen.stands.map(|(position, _)| position)).unwrap_or_default();
        match seen.stands {
            Some((stood_at, since)) if stood_at == position && pending > 0 => now.since(since),
            _ => {
                seen.stands = Some((position, now));
                Duration::ZERO
            }
        }
    }

    /// Notes a position, and answers the drain rate in records per second; `None` before it was measured once.
    fn rate(&mut self, part: Part, position: i64, pending: u32, now: Moment) -> Option<f64> {
        let seen = self.parts.entry(part).or_default();
        seen.positions.push_back((now, position));
        // The age of the second oldest decides, so that dropping the oldest never makes the window too short.
        while seen.positions.get(1).is_some_and(|(at, _)| now.since(*at) >= WINDOW) {
            seen.positions.pop_front();
        }
        let (since, from) = *seen.positions.front().expect("pushed above");
        let elapsed = now.since(since);
        let done = u32::try_from(position.saturating_sub(from)).unwrap_or(0);
        // An idle partition says nothing about how fast it would drain.
        let has_worked = done > 0 || pending > 0;
        if has_worked && elapsed >= WINDOW_LEAST {
            seen.rate = Some(f64::from(done) / elapsed.as_secs_f64());
        }
        if pending == 0 {
            seen.positions.clear();
            seen.positions.push_back((now, position));
        }
        seen.rate
    }
}

/// Answers the wait, in ms, that a lag and a drain rate make.
fn estimate_ms(pending: u32, rate: Option<f64>) -> u64 {
    if pending == 0 {
        return SHORTEST_MS;
    }
    match rate {
        Some(rate) if rate > 0.0 => {
            let wait = Duration::try_from_secs_f64(f64::from(pending) / rate).unwrap_or(Duration::MAX);
            u64::try_from(wait.as_millis()).unwrap_or(LONGEST_MS).clamp(SHORTEST_MS, LONGEST_MS)
        }
        _ => STALLED_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{OrderId, OrderRecord};
    use crate::ports::{LogIdentity, Offsets, OrderLogReader, Wake};

    fn after(start: Moment, ms: u64) -> Moment {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn the_estimate_is_lag_over_drain_rate_within_its_bounds() {
        let mut meter = Meter::default();
        let (part, start) = (Part::new(0), Clock::manual(0).monotonic());
        assert_eq!(meter.rate(part, 0, 1000, start), None);
        let rate = meter.rate(part, 500, 4000, after(start, 1000));
        assert_eq!(rate, Some(500.0));
        assert_eq!(estimate_ms(4000, rate), 8000);
        assert_eq!(estimate_ms(0, rate), SHORTEST_MS);
        assert_eq!(estimate_ms(1, rate), SHORTEST_MS);
        assert_eq!(estimate_ms(u32::MAX, rate), LONGEST_MS);
        assert_eq!(estimate_ms(10, None), STALLED_MS);
    }

    #[test]
    fn the_rate_follows_a_database_that_turns_slow_within_the_window() {
        let mut meter = Meter::default();
        let (part, start) = (Part::new(0), Clock::manual(0).monotonic());
        let mut rate = None;
        for half_second in 0..40u32 {
            // A thousand a second for ten seconds, then ten.
            let position =
                if half_second <= 20 { half_second * 500 } else { 10_000 + (half_second - 20) * 5 };
            rate = meter.rate(part, i64::from(position), 500, after(start, u64::from(half_second) * 500));
            if half_second == 20 {
                assert_eq!(rate, Some(1000.0));
            }
        }
        assert_eq!(rate, Some(10.0));
    }

    #[test]
    fn a_partition_stalls_while_records_wait_and_its_position_stands() {
        let mut meter = Meter::default();
        let (part, start) = (Part::new(0), Clock::manual(0).monotonic());
        let seconds = |meter: &mut Meter, at_ms, position, pending| {
            meter.stalled(part, position, pending, after(start, at_ms)).as_secs()
        };
        assert_eq!(seconds(&mut meter, 0, Some(5), 1), 0);
        assert_eq!(seconds(&mut meter, 9_000, Some(5), 1), 9);
        assert_eq!(seconds(&mut meter, 10_000, None, 1), 10, "a position that cannot be read stands");
        assert_eq!(seconds(&mut meter, 11_000, Some(6), 1), 0, "it moved");
        assert_eq!(seconds(&mut meter, 20_000, Some(6), 0), 0, "nothing waits");
        assert_eq!(seconds(&mut meter, 21_000, Some(6), 3), 1, "and then something does");
    }

    #[test]
    fn a_pause_without_work_does_not_count_as_slowness() {
        let mut meter = Meter::default();
        let (part, start) = (Part::new(0), Clock::manual(0).monotonic());
        meter.rate(part, 0, 100, start);
        assert_eq!(meter.rate(part, 100, 0, after(start, 1000)), Some(100.0));
        for second in 2..60 {
            assert_eq!(meter.rate(part, 100, 0, after(start, second * 1000)), Some(100.0));
        }
    }
    /// A log of two partitions, of which some are out of reach.
    struct Log(Mutex<Offsets>);

    #[async_trait]
    impl OrderLog for Log {
        async fn append(&self, _: OrderId, _: Vec<u8>) -> StoreResult<()> {
            unreachable!("nothing is appended")
        }

        async fn append_imported(&self, _: &[OrderRecord]) -> StoreResult<()> {
            unreachable!("nothing is appended")
        }

        async fn identity(&self) -> StoreResult<LogIdentity> {
            unreachable!("nobody asks")
        }

        async fn offsets_in_reach(&self, _: &[Part]) -> StoreResult<Offsets> {
            Ok(self.0.lock().expect("held by nobody").clone())
        }

        async fn flush(&self, _: Duration) -> StoreResult<()> {
            Ok(())
        }

        fn reader(&self, _: Wake) -> StoreResult<Box<dyn OrderLogReader>> {
            unreachable!("nobody reads")
        }
    }

    /// All partitions are written up to an offset.
    struct At(i64);

    #[async_trait]
    impl Positions for At {
        async fn positions(&self) -> HashMap<Part, Position> {
            let at = Position { next_offset: self.0, log: None, halt: None };
            [0, 1].map(|number| (Part::new(number), at)).into()
        }

        async fn replace(&self, _: Part, _: &Position, _: &Position) -> StoreResult<bool> {
            unreachable!("nothing is moved")
        }
    }

    #[tokio::test]
    async fn a_partition_that_cannot_be_read_hides_no_other_one() {
        let (parts, clock) = ([0, 1].map(Part::new), Clock::manual(0));
        let log = Arc::new(Log(Mutex::new([(parts[0], 0..5), (parts[1], 0..5)].into())));
        let pace = Arc::new(Pace::new(2));
        let (positions, period) = (Arc::new(At(5)), Duration::from_secs(1));
        let meter =
            PaceMeter::new(log.clone(), positions, parts.to_vec(), pace.clone(), clock.clone(), period);
        assert_eq!(meter.run_once().await.expect("measured").done, 0);
        *log.0.lock().expect("held by nobody") = [(parts[0], 0..9)].into();
        assert!(meter.run_once().await.is_err(), "one is out of reach");
        clock.advance_ms(40_000);
        assert!(meter.run_once().await.is_err());
        let mut meter = meter.meter.lock().expect("held by nobody");
        let mut stalled = |part, pending| meter.stalled(part, Some(5), pending, clock.monotonic()).as_secs();
        assert_eq!(stalled(parts[0], 4), 40, "it is seen to stand still");
        assert!(pace.poll_after_ms(parts[1]) >= STALLED_MS);
    }
}
