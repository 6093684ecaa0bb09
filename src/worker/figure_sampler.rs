//! Takes the figures of this process every second, and adds what it counts of attempts to what all processes do.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::clock::{Clock, Moment};
use crate::domain::attempts::{AttemptCounter, Attempts};
use crate::domain::figure::FigureTaker;
use crate::memory::figures::Figures;
use crate::ports::{AttemptCounts, Effect, StoreResult};

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
    /// What was counted and could not be added yet: at most every outcome of every sale.
    waiting: Attempts,
}

impl FigureSampler {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().expect("no code panics while holding it")
    }

    /// Takes a sample, and answers the attempts that are to be added.
    fn sample(&self) -> Attempts {
        let text = (self.exposition)();
        let mut memory = self.memory();
        let now = self.clock.monotonic();
        let passed = memory.taken.replace(now).map_or(self.period, |before| now.since(before));
        let seconds = passed.as_secs_f64().max(f64::EPSILON);
        self.figures.keep(self.clock.now_ms(), memory.taker.take(&text, seconds));
        let mut new = memory.counter.new_in(&text);
        add(&mut new, std::mem::take(&mut memory.waiting));
        new
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
    /// When the attempts could not be added: they wait. Those of which nobody knows whether they were are left out.
    async fn run_once(&self) -> StoreResult<Progress> {
        let new = self.sample();
        if new.is_empty() {
            return Ok(Progress::of(0));
        }
        let added = self.attempts.add(&new, self.clock.now_ms()).await;
        if added.as_ref().is_err_and(|error| error.effect == Effect::NotApplied) {
            add(&mut self.memory().waiting, new);
            return added.map(|()| Progress::of(0));
        }
        added.map(|()| Progress::of(new.len()))
    }
}

fn add(sums: &mut Attempts, more: Attempts) {
    for (sale, by_outcome) in more {
        let of_sale = sums.entry(sale).or_default();
        for (outcome, count) in by_outcome {
            *of_sale.entry(outcome).or_default() += count;
        }
    }
}
