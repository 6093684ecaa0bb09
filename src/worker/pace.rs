//! Measures for every partition how long an order waits for its row: the lag divided by the drain rate.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use super::driver::{Progress, Task};
use crate::clock::{Clock, Moment};
use crate::domain::{Part, Position};
use crate::memory::pace::{Pace, SHORTEST_MS, STALLED_MS};
use crate::metrics::{CONSUMER_LAG, ORDERS_PENDING, PARTITION_STALLED};
use crate::ports::{OrderLog, Positions, StoreResult};

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

    /// Measures all partitions once. A partition that is halted, or whose position cannot be read, counts as stalled.
    /// When the log cannot be read, all do.
    async fn run_once(&self) -> StoreResult<Progress> {
        let offsets = match self.order_log.offsets(&self.parts).await {
            Ok(offsets) => offsets,
            Err(error) => {
                // Orders that are accepted now wait for the log as well as for the writers.
                self.parts.iter().for_each(|part| self.pace.set(*part, STALLED_MS));
                return Err(error);
            }
        };
        let positions = self.positions.positions().await;
        let now = self.clock.monotonic();
        let mut meter = self.meter.lock().expect("no code panics while holding it");
        let mut pending_all = 0;
        for (part, offsets) in &offsets {
            let read = positions.get(part);
            // A position that cannot be read now is taken as standing still, because the lag behind it is real.
            let behind = match read {
                Some(position) => position.behind(offsets),
                None => offsets.end.saturating_sub(meter.last_position(*part).unwrap_or(offsets.end)),
            };
            let pending = u32::try_from(behind).unwrap_or(0);
            pending_all += pending;
            gauge!(CONSUMER_LAG, "part" => part.number().to_string()).set(f64::from(pending));
            let stalled = meter.stalled(*part, read.map(|position| position.next_offset), pending, now);
            gauge!(PARTITION_STALLED, "part" => part.number().to_string()).set(stalled.as_secs_f64());
            let wait_ms = match read {
                Some(Position { next_offset, halt: None, .. }) => {
                    estimate_ms(pending, meter.rate(*part, *next_offset, pending, now))
                }
                _ => STALLED_MS,
            };
            self.pace.set(*part, wait_ms);
        }
        gauge!(ORDERS_PENDING).set(f64::from(pending_all));
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
}

impl Meter {
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
}
