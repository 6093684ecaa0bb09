//! Reads the time, sleeps, and limits waits. Other modules are handed a [`Clock`] for that, so that a test owns the
//! time. Only the timing of HTTP requests, the threads of the Kafka client and the command line have clocks of their
//! own.

use std::future::Future;
use std::ops::Add;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A moment of the monotonic clock, which never goes back, whatever somebody does to the wall clock. Moments of one
/// clock can be compared. A moment says nothing about a day or an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// Answers how long ago `earlier` was at this moment; zero when it was later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Answers the moment as ns since the clock began; at most 584 years.
    pub fn ns(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

/// A source of wall-clock time (ms since 1970, UTC) and monotonic time, with sleeps and limits on waits. Cheap to
/// clone.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The clocks of the machine.
    System,
    /// A clock that stands still until a test moves it. A task that sleeps on it sleeps until then.
    Manual(Arc<watch::Sender<Manual>>),
    /// A clock whose wall time is corrected. Its clones are corrected together.
    Followed(Arc<Followed>),
}

/// A clock, and by how much its wall time is wrong.
#[derive(Debug)]
pub struct Followed {
    of: Clock,
    offset_ms: AtomicI64,
}

/// What a manual clock shows.
#[derive(Debug, Clone, Copy)]
pub struct Manual {
    now_ms: i64,
    monotonic: Moment,
}

/// The error of a wait that was longer than its limit. It holds the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct TimedOut(pub Duration);

impl Clock {
    /// Makes a clock that a test moves. It begins at `now_ms`.
    pub fn manual(now_ms: i64) -> Self {
        Self::Manual(Arc::new(watch::Sender::new(Manual { now_ms, monotonic: Moment(Duration::ZERO) })))
    }

    /// Makes a clock that runs as this one does and can be corrected. Nothing is corrected yet.
    pub fn follow(self) -> Self {
        Self::Followed(Arc::new(Followed { of: self, offset_ms: AtomicI64::new(0) }))
    }

    /// Answers by how many ms the wall time is corrected; 0 for a clock that follows nothing.
    pub fn offset_ms(&self) -> i64 {
        match self {
            Self::Followed(followed) => followed.offset_ms.load(Ordering::Relaxed),
            Self::System | Self::Manual(_) => 0,
        }
    }

    /// Corrects the wall time of a clock that follows. Any other clock is left alone.
    pub fn set_offset_ms(&self, offset_ms: i64) {
        if let Self::Followed(followed) = self {
            followed.offset_ms.store(offset_ms, Ordering::Relaxed);
        }
    }

    /// Answers the wall-clock time in ms since 1970, UTC.
    pub fn now_ms(&self) -> i64 {
        match self {
            Self::System => {
                #[expect(clippy::disallowed_methods, reason = "this is the clock")]
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                // A clock before 1970 or after the year 292 million is none to sell by. At 0 every purchase is too
                // early.
                since.ok().and_then(|elapsed| i64::try_from(elapsed.as_millis()).ok()).unwrap_or(0)
            }
            Self::Manual(shown) => shown.borrow().now_ms,
            Self::Followed(followed) => followed.of.now_ms().saturating_add(self.offset_ms()),
        }
    }

    /// Answers this moment.
    pub fn monotonic(&self) -> Moment {
        static START: OnceLock<Instant> = OnceLock::new();
        match self {
            Self::System => Moment(START.get_or_init(Instant::now).elapsed()),
            Self::Manual(shown) => shown.borrow().monotonic,
            Self::Followed(followed) => followed.of.monotonic(),
        }
    }

    /// Waits until the clock has moved by `pause`.
    pub async fn sleep(&self, pause: Duration) {
        match self {
            Self::System => tokio::time::sleep(pause).await,
            Self::Manual(shown) => {
                let until = shown.borrow().monotonic + pause;
                // A clock that is gone never comes to that moment.
                if shown.subscribe().wait_for(|shown| shown.monotonic >= until).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Self::Followed(followed) => Box::pin(followed.of.sleep(pause)).await,
        }
    }

    /// Does `work`, but gives it up after `limit`. Work that is done by then counts, also when both come at once.
    ///
    /// # Errors
    /// When the work took longer.
    pub async fn timeout<F: Future>(&self, limit: Duration, work: F) -> Result<F::Output, TimedOut> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = self.sleep(limit) => Err(TimedOut(limit)),
        }
    }

    /// Moves a manual clock, and leaves a system clock alone. A step back moves the wall clock only, as a person would.
    pub fn advance_ms(&self, by_ms: i64) {
        if let Self::Manual(shown) = self {
            let passed = Duration::from_millis(u64::try_from(by_ms).unwrap_or(0));
            shown.send_modify(|shown| {
                shown.now_ms = shown.now_ms.saturating_add(by_ms);
                shown.monotonic = shown.monotonic + passed;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manual_clock_wakes_its_sleepers_when_it_is_moved_far_enough() {
        let clock = Clock::manual(1000);
        let moved = async {
            clock.advance_ms(9);
            tokio::task::yield_now().await;
            clock.advance_ms(1);
        };
        tokio::join!(clock.sleep(Duration::from_millis(10)), moved);
        assert_eq!((clock.now_ms(), clock.monotonic().0), (1010, Duration::from_millis(10)));
    }

    #[tokio::test]
    async fn a_wait_ends_at_its_limit_and_not_before() {
        let clock = Clock::manual(0);
        let limit = Duration::from_millis(5);
        assert_eq!(clock.timeout(limit, async { 7 }).await, Ok(7));
        let moved = async { clock.advance_ms(5) };
        let (given_up, ()) = tokio::join!(clock.timeout(limit, std::future::pending::<()>()), moved);
        assert_eq!(given_up, Err(TimedOut(limit)));
    }

    #[test]
    fn a_clock_that_follows_shows_the_corrected_time_in_all_its_clones() {
        let clock = Clock::manual(5000).follow();
        let clone = clock.clone();
        let before = clone.monotonic();
        clock.set_offset_ms(-1500);
        assert_eq!((clone.now_ms(), clone.offset_ms(), clone.monotonic()), (3500, -1500, before));
    }

    #[test]
    fn a_step_back_of_the_wall_clock_is_none_of_the_monotonic_one() {
        let clock = Clock::manual(5000);
        let before = clock.monotonic();
        clock.advance_ms(-3000);
        assert_eq!((clock.now_ms(), clock.monotonic()), (2000, before));
    }
}
