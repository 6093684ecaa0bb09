//! Hears which orders other processes have changed, and tells it to whoever listens here.
//!
//! While it hears nothing, or may have missed something, no stream may promise to tell of orders: those that do end,
//! and whoever comes again is told how all orders stand.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::announcer::{OrderText, push};
use super::driver::{Progress, Task};
use crate::memory::order_cache::OrderCache;
use crate::memory::streams::Streams;
use crate::ports::{Announcements, Hearing, StoreResult};

/// The pause before it is tried again to hear something.
const PERIOD: Duration = Duration::from_millis(250);

/// The task that hears.
pub struct AnnouncementReader {
    /// Where it is announced.
    pub announcements: Arc<dyn Announcements>,
    /// Who listens.
    pub streams: Arc<Streams>,
    /// What this process remembers of orders.
    pub cache: Arc<OrderCache>,
    /// Makes what a stream tells of an order.
    pub text: OrderText,
    /// `None` while nothing is heard.
    pub hearing: Mutex<Option<Box<dyn Hearing>>>,
}

#[async_trait]
impl Task for AnnouncementReader {
    fn name(&self) -> &'static str {
        "announcement_reader"
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    /// Waits for an announcement, for a fraction of a second, and tells of its orders.
    ///
    /// # Errors
    /// When nothing is heard. The next run begins to hear anew.
    async fn run_once(&self) -> StoreResult<Progress> {
        let mut place = self.hearing.lock().await;
        let hearing = match place.take() {
            Some(hearing) => Ok(hearing),
            None => {
                // The run before may have been cut off, and nobody knows what came since.
                self.streams.set_hears(false);
                self.announcements.hear().await
            }
        };
        let heard = match hearing {
            Ok(mut hearing) => {
                self.streams.set_hears(true);
                hearing.next().await.map(|told| (hearing, told))
            }
            Err(error) => Err(error),
        };
        let (hearing, told) = heard.inspect_err(|_| self.streams.set_hears(false))?;
        *place = Some(hearing);
        for told in &told {
            self.cache.forget(told.order.id);
            push(&self.streams, told, self.text);
        }
        Ok(Progress { done: told.len(), again_in: Some(Duration::ZERO) })
    }
}
