//! Takes the figures of this process every second, and adds what it counts of attempts to what all processes do.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::clock::{Clock, Moment};
use crate::domain::attempts::{AttemptCounter, Attempts};
use crate::domain::figure::FigureTaker;
use crate::memory::figures::Figures;
use crate::ports::{AttemptCounts, StoreResult};

/// The sampler of a process.
pub struct FigureSampler {
    /// Answers what the process measures, as Prometheus reads it.
    pub exposition: Box<dyn Fn() -> String + Send + Sync>,
    /// Where figures are kept.
    pub figures: Arc<Figures>,
    /// Where attempts are counted.
    pub attempts: Arc<dyn AttemptCounts>,
    /// The clock of the process.
    pub clock: Clock,
    /// What the sampler remembers.
    pub memory: Mutex<Memory>,
    /// Time between two samples.
    pub period: Duration,
}

/// What a sampler remembers of its last run.
#[derive(Default)]
pub struct Memory {
    taker: FigureTaker,
    counter: AttemptCounter,
    taken: Option<Moment>,
}

impl FigureSampler {
    /// Takes a sample, and answers the attempts that are new in it.
    fn sample(&self) -> Attempts {
        let text = (self.exposition)();
        let mut memory = self.memory.lock().expect("no code panics while holding it");
        let now = self.clock.monotonic();
        let passed = memory.taken.replace(now).map_or(self.period, |before| now.since(before));
        let seconds = passed.as_secs_f64().max(f64::EPSILON);
        self.figures.keep(self.clock.now_ms(), memory.taker.take(&text, seconds));
        memory.counter.new_in(&text)
    }
}

#[async_trait]
impl Task for FigureSampler {
    fn name(&self) -> &'static str {
        "figure_sampler"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Takes a sample.
    ///
    /// # Errors
    /// When the attempts could not be added. They are missing in the sums of all processes then, as those of a process
    /// are that dies: the sums are for people who look, and no book.
    async fn run_once(&self) -> StoreResult<Progress> {
        let new = self.sample();
        if !new.is_empty() {
            self.attempts.add(&new).await?;
        }
        Ok(Progress::of(new.len()))
    }
}
