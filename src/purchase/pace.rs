//! How long an order waits for its row: measured lag divided by measured drain rate, per partition.

use std::collections::HashMap;
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
/// Weight of the newest measurement of the drain rate.
const NEWEST: f64 = 0.3;

/// The current estimate of every partition.
pub struct Pace {
    wait_ms: Vec<AtomicU64>,
}

/// What the meter remembers between two rounds.
#[derive(Default)]
pub struct Meter {
    parts: HashMap<Part, Seen>,
}

struct Seen {
    position: i64,
    at: Instant,
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
        self.parts.get(&part).map(|seen| seen.position)
    }

    fn rate(&mut self, part: Part, position: i64, pending: u32, now: Instant) -> Option<f64> {
        let seen = self.parts.entry(part).or_insert(Seen { position, at: now, rate: None });
        let elapsed = now.saturating_duration_since(seen.at);
        if elapsed < Duration::from_millis(50) {
            return seen.rate;
        }
        let done = u32::try_from(position.saturating_sub(seen.position)).unwrap_or(0);
        let newest = f64::from(done) / elapsed.as_secs_f64();
        // An idle partition says nothing about how fast it would drain.
        if done > 0 && (pending > 0 || seen.rate.is_none()) {
            seen.rate = Some(seen.rate.map_or(newest, |rate| rate * (1.0 - NEWEST) + newest * NEWEST));
        } else if pending > 0 {
            seen.rate = seen.rate.map(|rate| rate * (1.0 - NEWEST));
        }
        (seen.position, seen.at) = (position, now);
        seen.rate
    }
}

fn estimate_ms(pending: u32, rate: Option<f64>) -> u64 {
    if pending == 0 {
        return SHORTEST_MS;
    }
    match rate {
        Some(rate) if rate >= 1.0 => {
            let wait = Duration::try_from_secs_f64(f64::from(pending) / rate).unwrap_or(Duration::MAX);
            u64::try_from(wait.as_millis()).unwrap_or(LONGEST_MS).clamp(SHORTEST_MS, LONGEST_MS)
        }
        _ => STALLED_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_lag_over_drain_rate_within_its_bounds() {
        let mut meter = Meter::default();
        let (part, start) = (Part::new(0), Instant::now());
        assert_eq!(meter.rate(part, 0, 1000, start), None);
        let rate = meter.rate(part, 500, 4000, start + Duration::from_secs(1));
        assert_eq!(rate, Some(500.0));
        assert_eq!(estimate_ms(4000, rate), 8000);
        assert_eq!(estimate_ms(0, rate), SHORTEST_MS);
        assert_eq!(estimate_ms(1, rate), SHORTEST_MS);
        assert_eq!(estimate_ms(u32::MAX, rate), LONGEST_MS);
        assert_eq!(estimate_ms(10, None), STALLED_MS);
    }
}
