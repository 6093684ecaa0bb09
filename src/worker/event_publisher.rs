//! Passes events on to their topic.
//!
//! Invariant: the reader `topic` moves on only behind events that the topic has. So a process that dies passes some of
//! them on again, and leaves none out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use metrics::counter;

use super::driver::{Progress, Task};
use super::event_reader::EventReader;
use crate::domain::Instance;
use crate::metrics::EVENTS_PUBLISHED;
use crate::ports::{EventTopic, StoreResult};

/// The publisher of a process. Any number of processes may have one.
pub struct EventPublisher {
    /// The reader `topic`.
    pub reader: EventReader,
    /// The topic.
    pub topic: Arc<dyn EventTopic>,
    /// Time between two rounds.
    pub period: Duration,
}

impl EventPublisher {
    /// The reader's name.
    pub const READER: &str = "topic";

    /// Passes the next events of an instance on. Answers how many, and whether there are more.
    async fn publish(&self, at: Instance) -> StoreResult<(usize, bool)> {
        let Some(unread) = self.reader.unread(at).await? else { return Ok((0, false)) };
        self.topic.publish(&unread.page.events).await?;
        self.reader.done(at, &unread).await?;
        let published = unread.page.events.len();
        counter!(EVENTS_PUBLISHED).increment(u64::try_from(published).unwrap_or(u64::MAX));
        Ok((published, unread.has_more))
    }
}

#[async_trait]
impl Task for EventPublisher {
    fn name(&self) -> &'static str {
        "event_publisher"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Passes the next events of every instance on.
    ///
    /// # Errors
    /// The first failure of an instance. The others were tried all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        self.reader.round(|at| self.publish(at)).await
    }
}
