//! Tells whoever listens how orders stand that this process has changed: its own streams at once, and all other
//! processes as soon as it can.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;

use super::driver::{Progress, Signal, Task};
use crate::domain::Order;
use crate::memory::streams::Streams;
use crate::metrics::ANNOUNCEMENTS_LOST;
use crate::ports::{ANNOUNCED_MAX, Announcements, StoreResult, Told};
use crate::trace::{Kind, Span};

/// Most orders that wait to be announced: about 30 MB. Of more it is told that they were missed.
const WAITING_MAX: usize = 100_000;
/// The longest pause between two announcements of what waits.
const PERIOD: Duration = Duration::from_secs(1);

/// Makes what a stream tells of an order: JSON, one line.
pub type OrderText = fn(&Order) -> Arc<str>;

/// The announcer of a process.
pub struct Announcer {
    streams: Arc<Streams>,
    /// `None` where one process is all.
    announcements: Option<Arc<dyn Announcements>>,
    text: OrderText,
    waiting: Mutex<VecDeque<Told>>,
    /// Whether others have to be told that something was missed.
    missed: AtomicBool,
    /// Wakes it.
    pub signal: Signal,
}

/// Tells the streams of this process how an order stands.
pub fn push(streams: &Streams, told: &Told, text: OrderText) {
    let listeners = streams.tell_order(&told.order, text);
    // It is a step of the trace where somebody was told.
    if listeners > 0 {
        let mut span = Span::follow(told.trace, "push", Kind::Producer);
        span.set("seckill.streams", || listeners);
    }
}

impl Announcer {
    /// Makes it. Somebody has to run it, woken by its signal.
    pub fn new(
        streams: Arc<Streams>,
        announcements: Option<Arc<dyn Announcements>>,
        text: OrderText,
    ) -> Self {
        let (waiting, missed, signal) = (Mutex::default(), AtomicBool::new(false), Signal::default());
        Self { streams, announcements, text, waiting, missed, signal }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Told>> {
        self.waiting.lock().expect("no code panics while holding it")
    }

    /// Tells how orders stand now. Waits for nobody.
    pub fn tell(&self, orders: impl IntoIterator<Item = impl Into<Told>>) {
        let told: Vec<Told> = orders.into_iter().map(Into::into).collect();
        told.iter().for_each(|told| push(&self.streams, told, self.text));
        if self.announcements.is_none() || told.is_empty() {
            return;
        }
        let lost = {
            let mut waiting = self.waiting();
            waiting.extend(told);
            let lost = waiting.len().saturating_sub(WAITING_MAX);
            waiting.drain(..lost);
            lost
        };
        counter!(ANNOUNCEMENTS_LOST).increment(u64::try_from(lost).unwrap_or(u64::MAX));
        if lost > 0 {
            self.missed.store(true, Ordering::Relaxed);
        }
        self.signal.wake();
    }

    /// Says that orders may have changed of which this process cannot tell: nobody knows whether a change was made. The
    /// streams of orders end, here and elsewhere, and begin anew with how all stand.
    pub fn miss(&self) {
        self.streams.miss();
        if self.announcements.is_some() {
            self.missed.store(true, Ordering::Relaxed);
            self.signal.wake();
        }
    }

    /// Announces what waits, until nothing does or nobody hears. Answers whether all was told.
    pub async fn finish(&self) -> bool {
        loop {
            match self.run_once().await {
                Ok(progress) if progress.done > 0 => {}
                told => return told.is_ok(),
            }
        }
    }
}

/// A change of orders of which nobody knows whether it was made. Unless that is found out, listeners are told that they
/// may have missed it, when this is dropped.
pub struct Unheard(Option<Arc<Announcer>>);

impl Unheard {
    /// Takes note of one.
    pub fn of(announcer: Arc<Announcer>) -> Self {
        Self(Some(announcer))
    }

    /// Notes that it was not made, and has nobody told.
    pub fn settle(mut self) {
        self.0 = None;
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        if let Some(announcer) = &self.0 {
            announcer.miss();
        }
    }
}

#[async_trait]
impl Task for Announcer {
    fn name(&self) -> &'static str {
        "announcer"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    /// Announces what waits, the oldest first.
    ///
    /// # Errors
    /// When nobody may have heard it: it waits on.
    async fn run_once(&self) -> StoreResult<Progress> {
        let Some(announcements) = &self.announcements else { return Ok(Progress::of(0)) };
        if self.missed.swap(false, Ordering::Relaxed) {
            let told = announcements.announce_missed().await;
            told.inspect_err(|_| self.missed.store(true, Ordering::Relaxed))?;
        }
        let some: Vec<Told> = {
            let mut waiting = self.waiting();
            let some = waiting.len().min(ANNOUNCED_MAX);
            waiting.drain(..some).collect()
        };
        if some.is_empty() {
            return Ok(Progress::of(0));
        }
        if let Err(error) = announcements.announce(&some).await {
            let mut waiting = self.waiting();
            some.into_iter().rev().for_each(|told| waiting.push_front(told));
            return Err(error);
        }
        let again_in = (!self.waiting().is_empty()).then_some(Duration::ZERO);
        Ok(Progress { done: some.len(), again_in })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::clock::Clock;
    use crate::ports::{Hearing, StoreError};

    /// Counts how often it is told that something was missed.
    #[derive(Default)]
    struct Missed(AtomicUsize);

    #[async_trait]
    impl Announcements for Missed {
        async fn announce(&self, _: &[Told]) -> StoreResult<()> {
            Ok(())
        }

        async fn announce_missed(&self) -> StoreResult<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }

        async fn hear(&self) -> StoreResult<Box<dyn Hearing>> {
            Err(StoreError::broken("hear", "nobody speaks"))
        }
    }

    #[tokio::test]
    async fn what_nobody_knows_of_is_missed_unless_it_is_found_out() {
        let missed = Arc::new(Missed::default());
        let streams = Arc::new(Streams::of_nobody(Clock::manual(0)));
        let announcer = Arc::new(Announcer::new(streams, Some(missed.clone()), |_| Arc::from("")));
        let told = async || {
            announcer.run_once().await.expect("told");
            missed.0.load(Ordering::Relaxed)
        };
        Unheard::of(announcer.clone()).settle();
        assert_eq!(told().await, 0, "it was not made");
        drop(Unheard::of(announcer.clone()));
        assert_eq!(told().await, 1);
    }
}
