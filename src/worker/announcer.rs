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

    /// Announces what waits, until nothing does or nobody hears.
    pub async fn finish(&self) {
        while self.run_once().await.is_ok_and(|progress| progress.done > 0) {}
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
