//! Keeps the wall clock of this process on that of the inventory, which decides when a sale opens and closes.
//!
//! A process whose own clock is wrong would show a sale as live too early, keep buyers away too long, and measure ages
//! that are none. So it follows, and says how far off its own clock is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use metrics::gauge;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::metrics::CLOCK_OFFSET;
use crate::ports::{Gates, StoreResult};

/// From this difference on, in ms, somebody should set the clock right.
const ALARM_MS: i64 = 1_000;

/// The task that keeps a clock on the inventory's.
pub struct ClockWatch {
    gates: Arc<dyn Gates>,
    clock: Clock,
    period: Duration,
    was_told: AtomicBool,
}

impl ClockWatch {
    /// Makes the task that corrects `clock`, which follows, in every `period`.
    pub fn new(gates: Arc<dyn Gates>, clock: Clock, period: Duration) -> Self {
        Self { gates, clock, period, was_told: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Task for ClockWatch {
    fn name(&self) -> &'static str {
        "clock_watch"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Compares the clocks once. An answer is from some moment of its round trip, so a difference of at most half of it
    /// says nothing, and the last offset stays.
    async fn run_once(&self) -> StoreResult<Progress> {
        let (began, before_ms) = (self.clock.monotonic(), self.clock.now_ms());
        let theirs_ms = self.gates.now_ms().await?;
        let round_trip = self.clock.monotonic().since(began);
        let half_ms = i64::try_from(round_trip.as_millis() / 2).unwrap_or(0);
        let difference_ms = theirs_ms - (before_ms + half_ms);
        if difference_ms.abs() > half_ms {
            self.clock.set_offset_ms(self.clock.offset_ms() + difference_ms);
        }
        let offset_ms = self.clock.offset_ms();
        let seconds = Duration::from_millis(offset_ms.unsigned_abs()).as_secs_f64();
        gauge!(CLOCK_OFFSET).set(if offset_ms < 0 { -seconds } else { seconds });
        let is_off = offset_ms.abs() >= ALARM_MS;
        if self.was_told.swap(is_off, Ordering::Relaxed) != is_off && is_off {
            tracing::warn!(
                offset_ms,
                "this machine's clock and the inventory's differ; the inventory's is followed"
            );
        }
        Ok(Progress::of(1))
    }
}
