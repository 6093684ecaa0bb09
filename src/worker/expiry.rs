//! Lets orders expire whose payment did not come in time: step 15 of docs/protocol/steps.md.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::{counter, gauge};

use super::driver::{Progress, Task};
use crate::domain::{Instance, Month, OrderId, OrderState, Sale};
use crate::memory::catalog::Catalog;
use crate::metrics::{ORDERS, ORDERS_OVERDUE};
use crate::ports::{ErrorKind, Grace, OrderChanges, Overdue, StoreResult};

/// Most orders that expire in one transaction.
const BATCH_MAX: usize = 500;

/// The sweeper of a process. Any number of processes may have one.
pub struct ExpirySweeper {
    /// The orders.
    pub changes: Arc<dyn OrderChanges>,
    /// The sales, which say in which months there are orders.
    pub catalog: Arc<Catalog>,
    /// Whether overdue orders are only counted.
    pub is_dry_run: bool,
    /// How long unpaid orders are kept.
    pub grace: Grace,
    /// Time between two rounds.
    pub period: Duration,
}

#[async_trait]
impl Task for ExpirySweeper {
    fn name(&self) -> &'static str {
        "expiry_sweeper"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Lets at most 500 orders of every instance expire.
    ///
    /// # Errors
    /// The first failure of an instance. The others were swept all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let months = self.months();
        // An instance that hangs holds up no other one.
        let sweeps = self.changes.instances().into_iter().map(|at| self.sweep(at, &months));
        let (mut done, mut overdue, mut failure) = (0, 0, Ok(()));
        for swept in futures::future::join_all(sweeps).await {
            match swept {
                Ok((found, expired)) => (done, overdue) = (done + expired, overdue + found),
                Err(error) => failure = failure.and(Err(error)),
            }
        }
        gauge!(ORDERS_OVERDUE).set(f64::from(u32::try_from(overdue).unwrap_or(u32::MAX)));
        counter!(ORDERS, "status" => OrderState::Expired.as_str())
            .increment(u64::try_from(done).unwrap_or(u64::MAX));
        let again_in = (done >= BATCH_MAX).then_some(Duration::ZERO);
        failure.map(|()| Progress { done, again_in })
    }
}

impl ExpirySweeper {
    /// Lists the months in which there may be orders. Those of a sale that was imported stand in no inventory.
    fn months(&self) -> Vec<Month> {
        let snapshot = self.catalog.snapshot();
        let sold = snapshot.sales.values().filter(|sale| !sale.state.is_editable());
        sold.map(Sale::month).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Answers how many orders of an instance were found overdue, at most [`BATCH_MAX`], and how many expired.
    async fn sweep(&self, at: Instance, months: &[Month]) -> StoreResult<(usize, usize)> {
        let overdue = Overdue { at, months, grace: self.grace };
        let found = self.changes.overdue(overdue, BATCH_MAX).await?;
        if self.is_dry_run || found.is_empty() {
            return Ok((found.len(), 0));
        }
        match self.changes.expire(at, &found, self.grace).await {
            Err(error) if error.kind == ErrorKind::Broken && found.len() > 1 => {
                Ok((found.len(), self.expire_each(at, &found).await))
            }
            expired => Ok((found.len(), expired?.len())),
        }
    }

    /// Lets orders expire one by one, because one of them is damaged and must not keep the others. Answers how many
    /// expired.
    async fn expire_each(&self, at: Instance, orders: &[OrderId]) -> usize {
        let mut done = 0;
        for order in orders {
            match self.changes.expire(at, &[*order], self.grace).await {
                Ok(expired) => done += expired.len(),
                Err(error) => tracing::error!(%order, %error, "an overdue order cannot expire"),
            }
        }
        done
    }
}
