//! Runs the workers: each task again and again, woken by its signal or by its timer.
//!
//! The driver owns everything that each task would otherwise have for itself: the period, the pause after a failure,
//! the span, the last result, the metric and the end. A task only decides what one run does.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use metrics::{Counter, counter};
use tokio::sync::Notify;
use tracing::Instrument as _;

use crate::clock::Clock;
use crate::domain::TaskStatus;
use crate::metrics::{PANICS, WORKER_RUNS};
use crate::ports::{StoreError, StoreResult, Wake};
use crate::shutdown::Tasks;

/// The longest pause after failures that follow each other, unless the task's own period is longer. Within it a
/// component that is back is noticed.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A background task. A run takes no input, because it finds in stores and memory what it needs. So it may be run at
/// any time by anybody, and the next run makes up for one that was cut off.
#[async_trait]
pub trait Task: Send + Sync {
    /// Answers the task's word in logs and metrics.
    fn name(&self) -> &'static str;

    /// Answers how long the task rests between two runs when nobody wakes it.
    fn period(&self) -> Duration;

    /// Does what is to be done now. Idempotent.
    ///
    /// # Errors
    /// When something could not be done. The next run tries it again.
    async fn run_once(&self) -> StoreResult<Progress>;

    /// Ends what the runs have begun. The driver calls it once, after the last run.
    async fn leave(&self) {}
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// How much was done, in orders, records or sales; 0 when there was nothing to do.
    pub done: usize,
    /// After what time the next run is due at the latest; `None` leaves it to the period, which bounds it in any case.
    pub again_in: Option<Duration>,
}

impl Progress {
    /// Reports that `done` was done, and that the next run is due after the period.
    pub fn of(done: usize) -> Self {
        Self { done, again_in: None }
    }
}

/// Wakes a task before its period is over. A signal that comes while nobody waits is kept for the next wait. Cheap to
/// clone.
#[derive(Clone, Default)]
pub struct Signal(Arc<Notify>);

impl Signal {
    /// Asks for a run soon. Signals that come before the run count as one.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Waits until it is woken. Returns at once when it was woken since the last wait.
    pub async fn woken(&self) {
        self.0.notified().await;
    }

    /// Answers [`Self::wake`] as a function, for callers that do not know the driver.
    pub fn as_wake(&self) -> Wake {
        let signal = self.clone();
        Arc::new(move || signal.wake())
    }
}

/// Runs tasks until the process stops. Cheap to clone.
#[derive(Clone)]
pub struct Driver {
    clock: Clock,
    tasks: Tasks,
    statuses: Arc<Mutex<Vec<TaskStatus>>>,
}

/// The series of one task, of `seckill_worker_runs_total` and of `seckill_panics_total`.
struct Runs {
    worked: Counter,
    idle: Counter,
    failed: Counter,
    panicked: Counter,
}

impl Runs {
    fn of(task: &'static str) -> Self {
        let series = |result| counter!(WORKER_RUNS, "task" => task, "result" => result);
        let panicked = counter!(PANICS, "in" => task);
        panicked.increment(0);
        Self { worked: series("worked"), idle: series("idle"), failed: series("failed"), panicked }
    }
}

impl Driver {
    /// Makes a driver that runs no task yet. `tasks` own what it starts.
    pub fn new(clock: Clock, tasks: Tasks) -> Self {
        Self { clock, tasks, statuses: Arc::default() }
    }

    /// Runs a task from now on, the first time at once. When the process stops, the task ends after the run that it is
    /// in.
    pub fn start(&self, task: Arc<dyn Task>, signal: Signal) {
        let place = self.enter(task.name());
        let driver = self.clone();
        let span = tracing::info_span!("worker", task = task.name());
        self.tasks.spawn(async move { driver.drive(task.as_ref(), &signal, place).await }.instrument(span));
    }

    /// Answers the state of every task, in the order in which the tasks were started.
    pub fn statuses(&self) -> Vec<TaskStatus> {
        self.statuses.lock().expect("no code panics while holding it").clone()
    }

    /// Enters a task into the list, and answers its place there.
    fn enter(&self, name: &'static str) -> usize {
        let mut statuses = self.statuses.lock().expect("no code panics while holding it");
        statuses.push(TaskStatus { name, last: None, ended_ms: None, failures: 0 });
        statuses.len() - 1
    }

    /// Runs a task until the process stops.
    async fn drive(&self, task: &dyn Task, signal: &Signal, place: usize) {
        let runs = Runs::of(task.name());
        while !self.tasks.is_stopping() {
            let outcome = unbroken(task, &runs.panicked).await;
            match &outcome {
                Ok(progress) if progress.done > 0 => runs.worked.increment(1),
                Ok(_) => runs.idle.increment(1),
                Err(error) => {
                    runs.failed.increment(1);
                    tracing::warn!(%error, "run failed; it is repeated");
                }
            }
            let failures = self.note(place, &outcome);
            let pause = match outcome {
                Ok(progress) => progress.again_in.unwrap_or(task.period()).min(task.period()),
                Err(_) => pause_after(failures, task.period()),
            };
            // After a failure only the timer counts, because a signal that keeps coming must not make this a busy loop.
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                () = signal.woken(), if failures == 0 => {}
                () = self.tasks.stopping() => {}
            }
        }
        task.leave().await;
    }

    /// Notes the result of a run, and answers how many runs have failed since the last one that did not.
    fn note(&self, place: usize, outcome: &StoreResult<Progress>) -> u32 {
        let mut statuses = self.statuses.lock().expect("no code panics while holding it");
        let status = &mut statuses[place];
        status.failures = if outcome.is_ok() { 0 } else { status.failures.saturating_add(1) };
        status.last = Some(outcome.as_ref().map(|progress| progress.done).map_err(ToString::to_string));
        status.ended_ms = Some(self.clock.now_ms());
        status.failures
    }
}

/// Runs a task once. A panic is a run that has failed, and the next one tries it again.
async fn unbroken(task: &dyn Task, panicked: &Counter) -> StoreResult<Progress> {
    AssertUnwindSafe(task.run_once()).catch_unwind().await.unwrap_or_else(|_| {
        panicked.increment(1);
        Err(StoreError::broken("run", "it has panicked: standard error says where".to_owned()))
    })
}

/// Answers the pause after failures: the period, doubled with every failure that follows another, up to [`PAUSE_MAX`].
fn pause_after(failures: u32, period: Duration) -> Duration {
    let doubled = period.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(PAUSE_MAX.max(period))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);
    /// The number of the run that panics, where a task gets so far.
    const PANICS_IN: u32 = 20;

    /// A task whose runs below the number `sound_from` fail.
    struct Counted {
        runs: AtomicU32,
        sound_from: u32,
        left: AtomicU32,
    }

    #[async_trait]
    impl Task for Counted {
        fn name(&self) -> &'static str {
            "counted"
        }

        fn period(&self) -> Duration {
            PERIOD
        }

        async fn run_once(&self) -> StoreResult<Progress> {
            let run = self.runs.fetch_add(1, Ordering::Relaxed);
            assert_ne!(run, PANICS_IN, "deliberate");
            if run < self.sound_from {
                return Err(StoreError::broken("count", "deliberate"));
            }
            Ok(Progress::of(1))
        }

        async fn leave(&self) {
            self.left.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Bench {
        clock: Clock,
        driver: Driver,
        task: Arc<Counted>,
        signal: Signal,
    }

    impl Bench {
        fn start(sound_from: u32) -> Self {
            let clock = Clock::manual(0);
            let driver = Driver::new(clock.clone(), Tasks::on_current_runtime());
            let task = Arc::new(Counted { runs: AtomicU32::new(0), sound_from, left: AtomicU32::new(0) });
            let signal = Signal::default();
            driver.start(task.clone(), signal.clone());
            Self { clock, driver, task, signal }
        }

        /// Lets everything run that can run, and answers how many runs there were.
        async fn runs(&self) -> u32 {
            for _ in 0..16 {
                tokio::task::yield_now().await;
            }
            self.task.runs.load(Ordering::Relaxed)
        }

        async fn after_ms(&self, ms: i64) -> u32 {
            self.clock.advance_ms(ms);
            self.runs().await
        }
    }

    #[tokio::test]
    async fn a_task_runs_at_once_then_by_its_timer_and_by_its_signal() {
        let bench = Bench::start(0);
        assert_eq!(bench.runs().await, 1);
        assert_eq!(bench.after_ms(99).await, 1);
        assert_eq!(bench.after_ms(1).await, 2);
        bench.signal.wake();
        assert_eq!(bench.runs().await, 3);
    }

    #[tokio::test]
    async fn failures_double_the_pause_up_to_a_second_and_no_signal_shortens_it() {
        let bench = Bench::start(6);
        assert_eq!(bench.runs().await, 1);
        for (pause, run) in [(100, 2), (200, 3), (400, 4), (800, 5), (1000, 6)] {
            bench.signal.wake();
            assert_eq!(bench.after_ms(pause - 1).await, run - 1, "before {pause} ms");
            assert_eq!(bench.after_ms(1).await, run);
        }
        assert_eq!(bench.after_ms(1000).await, 8, "the seventh did it, and the signal was kept for it");
        let status = &bench.driver.statuses()[0];
        assert_eq!((status.name, status.failures), ("counted", 0));
        assert_eq!((&status.last, status.ended_ms), (&Some(Ok(1)), Some(bench.clock.now_ms())));
    }

    #[tokio::test]
    async fn a_run_that_panics_has_failed_and_the_next_one_is_made() {
        let bench = Bench::start(0);
        bench.task.runs.store(PANICS_IN, Ordering::Relaxed);
        assert_eq!(bench.runs().await, PANICS_IN + 1);
        let failed = &bench.driver.statuses()[0];
        assert_eq!(failed.failures, 1);
        assert!(matches!(&failed.last, Some(Err(why)) if why.contains("panicked")), "{failed:?}");
        assert_eq!(bench.after_ms(100).await, PANICS_IN + 2);
        assert_eq!(bench.driver.statuses()[0].failures, 0);
    }

    #[tokio::test]
    async fn a_stop_ends_the_task_without_waiting_for_its_timer() {
        let bench = Bench::start(0);
        assert_eq!(bench.runs().await, 1);
        bench.driver.tasks.stop();
        bench.driver.tasks.drained().await;
        assert_eq!(bench.task.left.load(Ordering::Relaxed), 1);
        assert_eq!(bench.task.runs.load(Ordering::Relaxed), 1);
    }
}
