//! Tells what this process is and does, so that operators and other processes know that it is there, and hears whether
//! an operator wants it out of service.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::domain::node::{NodeBeat, NodeLoad};
use crate::memory::rulebook::Rulebook;
use crate::ports::{Nodes, StoreResult};

/// The task that tells of this process.
pub struct TellNode {
    /// Where it is told.
    pub nodes: Arc<dyn Nodes>,
    /// What stays the same.
    pub node: NodeBeat,
    /// The rules that the process follows.
    pub rulebook: Arc<Rulebook>,
    /// Answers what the process did in its last second.
    pub load: Box<dyn Fn() -> NodeLoad + Send + Sync>,
    /// Answers whether the process goes away.
    pub is_leaving: Box<dyn Fn() -> bool + Send + Sync>,
    /// Takes the process out of service as an operator wants it, or back.
    pub take_out: Box<dyn Fn(bool) + Send + Sync>,
    /// Time between two times.
    pub period: Duration,
}

#[async_trait]
impl Task for TellNode {
    fn name(&self) -> &'static str {
        "node_beat"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Tells once.
    async fn run_once(&self) -> StoreResult<Progress> {
        let (rules_version, draining) = (self.rulebook.version(), (self.is_leaving)());
        let beat = NodeBeat { rules_version, draining, load: (self.load)(), ..self.node.clone() };
        let is_out = self.nodes.beat(&beat).await?;
        (self.take_out)(is_out);
        Ok(Progress::of(0))
    }
}
