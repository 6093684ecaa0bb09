//! How long an order waits for its row: measured lag divided by measured drain rate, per partition.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use metrics::gauge;

use crate::domain::Part;
use crate::metrics::{CONSUMER_LAG, ORDERS_PENDING};
use crate::ports::{Ports, StoreResult};

/// A batch waits for its records and for its commit, also when nothing is ahead of it.
const SHORTEST_MS: u64 = 100;
const LONGEST_MS: u64 = 30_000;
/// Told while records wait and no progress has been seen.
const STALLED_MS: u64 = 2_000;
/// The drain rate is that of the last so many seconds with something to do: long enough for some batches of a slow
/// database, short enough to follow when it turns slow.
const WINDOW: Duration = Duration::from_secs(5);
/// Less says nothing yet; the rate known before holds.
const WINDOW_LEAST: Duration = Duration::from_millis(900);

/// The current estimate of every partition.
pub struct Pace {
    wait_ms: Vec<AtomicU64>,
}

/// What the meter remembers between two rounds.
#[derive(Default)]
pub struct Meter {
    parts: HashMap<Part, Seen>,
}

#[derive(Default)]
struct Seen {
    /// Positions since the partition last had nothing to do, at most [`WINDOW`] old and one more.
    positions: VecDeque<(Instant, i64)>,
    /// Records per second while there was something to do; `None` before the first progress.
    rate: Option<f64>,
}

impl Pace {
    pub fn new(parts: u16) -> Self {
        Self { wait_ms: (0..parts).map(|_| AtomicU64::new(SHORTEST_MS)).collect() }
    }

    /// When to ask again for an order of this partition, in ms.
    pub fn poll_after_ms(&self, part: Part) -> u64 {
        self.wait_ms.get(usize::from(part.number())).map_or(STALLED_MS, |wait| wait.load(Ordering::Relaxed))
    }

    /// Measures once. Positions that cannot be read count as stalled.
    ///
    /// # Errors
    /// When the ends of the order log cannot be read; the estimates stay.
    pub async fn measure(&self, meter: &mut Meter, ports: &Ports, now: Instant) -> StoreResult<()> {
        let ends = ports.order_log.ends().await?;
        let positions = ports.orders.positions().await;
        let mut pending_all = 0;
        for (number, end) in (0u16..).zip(ends) {
            let part = Part::new(number);
            let read = positions.get(&part).copied();
            // A position that cannot be read now stands still; the lag behind it is real.
            let position = read.or_else(|| meter.last_position(part)).unwrap_or(end);
            let pending = u32::try_from(end.saturating_sub(position)).unwrap_or(0);
            pending_all += pending;
            gauge!(CONSUMER_LAG, "part" => number.to_string()).set(f64::from(pending));
            let wait_ms = match read {
                Some(position) => estimate_ms(pending, meter.rate(part, position, pending, now)),
                None => STALLED_MS,
            };
            if let Some(wait) = self.wait_ms.get(usize::from(number)) {
                wait.store(wait_ms, Ordering::Relaxed);
            }
        }
        gauge!(ORDERS_PENDING).set(f64::from(pending_all));
        Ok(())
    }
}

impl Meter {
    fn last_position(&self, part: Part) -> Option<i64> {
        Some(self.parts.get(&part)?.positions.back()?.1)
    }

    fn rate(&mut self, part: Part, position: i64, pending: u32, now: Instant) -> Option<f64> {
        let seen = self.parts.entry(part).or_default();
        seen.positions.push_back((now, position));
        // The second oldest decides, so that the window is never shorter than meant.
        while seen.positions.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= WINDOW) {
            seen.positions.pop_front();
        }
        let (since, from) = *seen.positions.front().expect("pushed above");
        let elapsed = now.saturating_duration_since(since);
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

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn the_estimate_is_lag_over_drain_rate_within_its_bounds() {
        let mut meter = Meter::default();
        let (part, start) = (Part::new(0), Instant::now());
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
        let (part, start) = (Part::new(0), Instant::now());
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
    fn a_pause_without_work_does_not_count_as_slowness() {
        let mut meter = Meter::default();
        let (part, start) = (Part::new(0), Instant::now());
        meter.rate(part, 0, 100, start);
        assert_eq!(meter.rate(part, 100, 0, after(start, 1000)), Some(100.0));
        for second in 2..60 {
            assert_eq!(meter.rate(part, 100, 0, after(start, second * 1000)), Some(100.0));
        }
    }
}
