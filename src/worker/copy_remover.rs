//! Removes the copies of orders that have changed, and goes on until they are gone.
//!
//! A change does not wait for it when Redis is slow, and does not fail with it: what is not known to be removed is
//! owed, and tried again. What a process owes when it dies is removed by the builder of views, for every step of an
//! order.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::domain::OrderId;
use crate::ports::{FORGOTTEN_MAX, OrderCopies, StoreResult};

/// How long a change waits for the removal of copies.
const PATIENCE: Duration = Duration::from_millis(10);
/// Most orders whose copies are owed: 16 MB of ids. Copies of more of them are as old as copies get.
const OWED_MAX: usize = 1_000_000;
/// The pause between two rounds that remove what is owed.
const PERIOD: Duration = Duration::from_millis(250);

/// The remover of a process.
pub struct CopyRemover {
    copies: Arc<dyn OrderCopies>,
    owed: Mutex<BTreeSet<OrderId>>,
    clock: Clock,
}

impl CopyRemover {
    /// Makes it. Somebody has to run it.
    pub fn new(copies: Arc<dyn OrderCopies>, clock: Clock) -> Self {
        Self { copies, owed: Mutex::default(), clock }
    }

    /// Removes the copies of orders that have changed, at once or later.
    pub async fn remove(&self, orders: &[OrderId]) {
        // While some are owed, Redis does not answer.
        if !self.is_owing()
            && self.clock.timeout(PATIENCE, self.try_remove(orders)).await.is_ok_and(|done| done.is_ok())
        {
            return;
        }
        self.owe(orders);
    }

    /// Removes the copies of orders later.
    pub fn owe(&self, orders: &[OrderId]) {
        let mut owed = self.owed.lock().expect("no code panics while holding it");
        let room = OWED_MAX.saturating_sub(owed.len());
        if room < orders.len() {
            tracing::error!(
                orders = orders.len() - room,
                "copies are not removed, and past for up to ten minutes"
            );
        }
        owed.extend(orders.iter().take(room));
    }

    fn is_owing(&self) -> bool {
        !self.owed.lock().expect("no code panics while holding it").is_empty()
    }

    async fn try_remove(&self, orders: &[OrderId]) -> StoreResult<()> {
        for some in orders.chunks(FORGOTTEN_MAX) {
            self.copies.forget(some).await?;
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
            let mut owed = self.owed.lock().expect("no code panics while holding it");
            std::iter::from_fn(|| owed.pop_first()).take(FORGOTTEN_MAX).collect()
        };
        if orders.is_empty() {
            return Ok(Progress::of(0));
        }
        if let Err(error) = self.copies.forget(&orders).await {
            self.owe(&orders);
            return Err(error);
        }
        let again_in = self.is_owing().then_some(Duration::ZERO);
        Ok(Progress { done: orders.len(), again_in })
    }
}
