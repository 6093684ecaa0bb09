//! Knows the one process that has the folder.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use crate::clock::{Clock, Moment};
use crate::domain::node::{Node, NodeBeat};
use crate::ports::{Nodes, StoreResult};

/// Serves the one node from memory.
pub struct OwnNode {
    /// The clock.
    pub clock: Clock,
    /// What the process has told of itself, and when.
    pub told: Mutex<Option<(NodeBeat, Moment)>>,
    /// Whether an operator wants it out of service.
    pub is_out: AtomicBool,
}

impl OwnNode {
    fn told(&self) -> std::sync::MutexGuard<'_, Option<(NodeBeat, Moment)>> {
        self.told.lock().expect("no code panics while holding it")
    }
}

#[async_trait]
impl Nodes for OwnNode {
    async fn beat(&self, beat: &NodeBeat) -> StoreResult<bool> {
        *self.told() = Some((beat.clone(), self.clock.monotonic()));
        Ok(self.is_out.load(Ordering::Relaxed))
    }

    async fn wish_out(&self, _: &str, is_out: bool) -> StoreResult<()> {
        self.is_out.store(is_out, Ordering::Relaxed);
        Ok(())
    }

    async fn leave(&self, _: &str) -> StoreResult<()> {
        *self.told() = None;
        Ok(())
    }

    async fn all(&self) -> StoreResult<Vec<Node>> {
        let now = self.clock.monotonic();
        let node = |(beat, at): &(NodeBeat, Moment)| {
            let age_ms = i64::try_from(now.since(*at).as_millis()).unwrap_or(i64::MAX);
            Node { beat: beat.clone(), age_ms }
        };
        Ok(self.told().as_ref().map(node).into_iter().collect())
    }
}
