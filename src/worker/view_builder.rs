//! Builds the views of sales of their events, and has copies of orders removed that have changed.
//!
//! Invariant: what events say is added in the transaction that moves the reader behind them. So every event counts
//! once, however often a process dies.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::copy_remover::CopyRemover;
use super::driver::{Progress, Task};
use super::event_reader::EventReader;
use crate::domain::stored_event::Facts;
use crate::domain::{Instance, OrderId, OrderState, StoredEvent, view};
use crate::ports::{StoreResult, Views};

/// The builder of a process. Any number of processes may have one.
pub struct ViewBuilder {
    /// The reader [`crate::ports::VIEWS`].
    pub reader: EventReader,
    /// The views.
    pub views: Arc<dyn Views>,
    /// Removes the copies of orders, where there are any.
    pub remover: Option<Arc<CopyRemover>>,
    /// Time between two rounds.
    pub period: Duration,
}

impl ViewBuilder {
    /// Adds what the next events of an instance say. Answers how many these are, and whether there are more.
    async fn build(&self, at: Instance) -> StoreResult<(usize, bool)> {
        let Some(unread) = self.reader.unread(at).await? else { return Ok((0, false)) };
        self.forget_copies(&unread.page.events).await;
        let (sales, unreadable) = view::count(&unread.page.events);
        if unreadable > 0 {
            tracing::error!(unreadable, "events that this version cannot read are in no view");
        }
        // Another process or a rebuild has moved the reader: the next run begins where it is.
        let is_added = self.views.add(at, (unread.from(), &unread.page.next), &sales).await?;
        Ok((if is_added { unread.page.events.len() } else { 0 }, unread.has_more || !is_added))
    }

    /// Removes the copies of orders that took a step after their first one. Who took the step has done so, unless the
    /// process died over it.
    async fn forget_copies(&self, events: &[StoredEvent]) {
        let Some(remover) = &self.remover else { return };
        let is_first = |facts: &Arc<Facts>| facts.from == OrderState::Queued.as_str();
        let changed = events.iter().filter(|event| !event.facts.as_ref().is_some_and(is_first));
        let orders: Vec<OrderId> = changed.map(|event| event.order).collect();
        if !orders.is_empty() {
            remover.remove_patiently(&orders).await;
        }
    }
}

#[async_trait]
impl Task for ViewBuilder {
    fn name(&self) -> &'static str {
        "view_builder"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Adds what the next events of every instance say.
    ///
    /// # Errors
    /// The first failure of an instance. The others were tried all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        self.reader.round(|at| self.build(at)).await
    }
}
