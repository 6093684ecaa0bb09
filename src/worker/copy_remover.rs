//! Removes the copies of orders that have changed, and goes on until they are gone.
//!
//! A change does not wait for it when Redis is slow, and does not fail with it: what is not known to be removed is
//! owed, and tried again. What a process owes when it is killed is removed by the builder of views, for every step of
//! an order.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Signal, Task};
use crate::clock::Clock;
use crate::domain::OrderId;
use crate::memory::order_cache::OrderCache;
use crate::ports::{FORGOTTEN_MAX, OrderCopies, StoreResult};

/// How long a change waits for the removal of copies.
const PATIENCE: Duration = Duration::from_millis(10);
/// Most orders whose copies are owed: 16 MB of ids. Copies of more of them are as old as copies get.
const OWED_MAX: usize = 1_000_000;
/// The longest pause between two rounds that remove what is owed.
const PERIOD: Duration = Duration::from_secs(1);

/// The remover of a process.
pub struct CopyRemover {
    copies: Arc<dyn OrderCopies>,
    /// What this process remembers, perhaps of a copy that is removed later.
    cache: Arc<OrderCache>,
    owed: Mutex<BTreeSet<OrderId>>,
    /// Whether the last removal has failed, so that changes need not wait for the next one.
    is_failing: AtomicBool,
    /// Wakes it.
    pub signal: Signal,
    clock: Clock,
}

impl CopyRemover {
    /// Makes it. Somebody has to run it, woken by its signal.
    pub fn new(copies: Arc<dyn OrderCopies>, cache: Arc<OrderCache>, clock: Clock) -> Self {
        let (is_failing, signal) = (AtomicBool::new(false), Signal::default());
        Self { copies, cache, owed: Mutex::default(), is_failing, signal, clock }
    }

    /// Removes the copies of orders that have changed, at once or soon.
    pub async fn remove(&self, orders: &[OrderId]) {
        let is_tried = !self.is_failing.load(Ordering::Relaxed);
        if !(is_tried && matches!(self.clock.timeout(PATIENCE, self.try_remove(orders)).await, Ok(Ok(())))) {
            self.owe(orders);
        }
    }

    /// Removes the copies of orders as [`Self::remove`] does, and waits as long as that takes.
    pub async fn remove_patiently(&self, orders: &[OrderId]) {
        if self.try_remove(orders).await.is_err() {
            self.owe(orders);
        }
    }

    /// Removes the copies of orders soon.
    pub fn owe(&self, orders: &[OrderId]) {
        let mut owed = self.owed();
        for order in orders {
            if owed.len() < OWED_MAX {
                owed.insert(*order);
            } else if !owed.contains(order) {
                tracing::error!(%order, "a copy is not removed, and past for up to ten minutes");
            }
        }
        self.signal.wake();
    }

    /// Removes what is owed, until nothing is or Redis does not answer.
    pub async fn finish(&self) {
        while self.run_once().await.is_ok_and(|progress| progress.done > 0) {}
    }

    fn owed(&self) -> MutexGuard<'_, BTreeSet<OrderId>> {
        self.owed.lock().expect("no code panics while holding it")
    }

    async fn try_remove(&self, orders: &[OrderId]) -> StoreResult<()> {
        for some in orders.chunks(FORGOTTEN_MAX) {
            let removed = self.copies.forget(some).await;
            self.is_failing.store(removed.is_err(), Ordering::Relaxed);
            removed?;
            some.iter().for_each(|order| self.cache.forget(*order));
        }
        Ok(())
    }
}

#[async_trait]
impl Task for CopyRemover {
    fn name(&self) -> &'static str {
        "copy_remover"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    /// Removes what is owed. Answers how many copies these were.
    ///
    /// # Errors
    /// When Redis does not answer: they are owed on.
    async fn run_once(&self) -> StoreResult<Progress> {
        // Taken out before, so that what is owed once more meanwhile stays.
        let orders: Vec<OrderId> = {
            let mut owed = self.owed();
            std::iter::from_fn(|| owed.pop_first()).take(FORGOTTEN_MAX).collect()
        };
        if orders.is_empty() {
            return Ok(Progress::of(0));
        }
        if let Err(error) = self.try_remove(&orders).await {
            self.owed().extend(orders);
            return Err(error);
        }
        let again_in = (!self.owed().is_empty()).then_some(Duration::ZERO);
        Ok(Progress { done: orders.len(), again_in })
    }
}
