//! Removes what is old and no book: events of settled sales, dead letters that were decided, rows of the audit log.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;

use super::driver::{Progress, Task};
use super::event_publisher::EventPublisher;
use crate::clock::Clock;
use crate::domain::subscription::SubscriptionState;
use crate::domain::{Instance, SaleId};
use crate::metrics::FORGOTTEN;
use crate::ports::{Retention, Settling, StoreResult, Subscriptions, VIEWS};

/// Rows that go in one statement, so that no lock is held for long.
const ROWS_MAX: u32 = 1000;
/// The pause while there is more.
const PAUSE: Duration = Duration::from_secs(1);

/// The ages after which rows go, in ms; 0 for never.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// Of events.
    pub events_ms: i64,
    /// Of dead letters, since they were decided.
    pub dead_letters_ms: i64,
    /// Of rows of the audit log.
    pub audit_log_ms: i64,
}

/// The task that removes what is old. Any number of processes may have one.
pub struct Housekeeping {
    /// What goes.
    pub retention: Arc<dyn Retention>,
    /// Which sales are settled.
    pub settling: Arc<dyn Settling>,
    /// Who else reads events.
    pub subscriptions: Arc<dyn Subscriptions>,
    /// The instances.
    pub instances: Vec<Instance>,
    /// Whether events are passed on to a topic, which has to have them before they go.
    pub has_topic: bool,
    /// The clock of the process.
    pub clock: Clock,
    /// When rows go.
    pub ages: Ages,
    /// Time between two rounds.
    pub period: Duration,
}

impl Housekeeping {
    fn before_ms(&self, age_ms: i64) -> Option<i64> {
        (age_ms > 0).then(|| self.clock.now_ms() - age_ms)
    }

    /// Removes events of every instance. Answers how many rows went.
    async fn events(&self, before_ms: i64) -> StoreResult<u64> {
        let settled: Vec<SaleId> = self.settling.settled().await?.into_iter().map(|(sale, _)| sale).collect();
        let mut readers = vec![VIEWS.to_owned()];
        readers.extend(self.has_topic.then(|| EventPublisher::READER.to_owned()));
        let subscriptions = self.subscriptions.all().await?;
        let active = subscriptions.iter().filter(|one| one.state == SubscriptionState::Active);
        readers.extend(active.map(|subscription| subscription.id.reader()));
        let read_by: Vec<&str> = readers.iter().map(String::as_str).collect();
        let mut gone = 0;
        for at in &self.instances {
            gone += self.retention.forget_events(*at, before_ms, (&read_by, &settled), ROWS_MAX).await?;
        }
        Ok(gone)
    }

    async fn letters(&self, before_ms: i64) -> StoreResult<u64> {
        let mut gone = 0;
        for at in &self.instances {
            gone += self.retention.forget_letters(*at, before_ms, ROWS_MAX).await?;
        }
        Ok(gone)
    }

    async fn audit_log(&self, before_ms: i64) -> StoreResult<u64> {
        self.retention.forget_audit_log(before_ms, ROWS_MAX).await
    }
}

#[async_trait]
impl Task for Housekeeping {
    fn name(&self) -> &'static str {
        "housekeeping"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Removes a piece of what is old.
    ///
    /// # Errors
    /// The first failure of a store. The other kinds were tried all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let (mut done, mut has_more, mut failure) = (0, false, Ok(()));
        let mut note = |kind: &'static str, removed: StoreResult<u64>| match removed {
            Ok(gone) => {
                counter!(FORGOTTEN, "kind" => kind).increment(gone);
                done += usize::try_from(gone).unwrap_or(usize::MAX);
                has_more |= gone >= u64::from(ROWS_MAX);
            }
            Err(error) if failure.is_ok() => failure = Err(error),
            Err(_) => {}
        };
        if let Some(before_ms) = self.before_ms(self.ages.events_ms) {
            note("events", self.events(before_ms).await);
        }
        if let Some(before_ms) = self.before_ms(self.ages.dead_letters_ms) {
            note("dead_letters", self.letters(before_ms).await);
        }
        if let Some(before_ms) = self.before_ms(self.ages.audit_log_ms) {
            note("audit_log", self.audit_log(before_ms).await);
        }
        failure.map(|()| Progress { done, again_in: has_more.then_some(PAUSE) })
    }
}
