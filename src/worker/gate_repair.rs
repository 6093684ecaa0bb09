//! Brings the gates of sales to the state that the directory says. An operator's call may have failed to: then the
//! directory says paused, and Redis still sells.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::driver::{Progress, Task};
use crate::clock::Clock;
use crate::memory::catalog::Catalog;
use crate::ports::{ErrorKind, Gates, StoreResult};

/// The task that sets the gates of every sale that sells.
pub struct GateRepair {
    /// The gates.
    pub gates: Arc<dyn Gates>,
    /// The sales.
    pub catalog: Arc<Catalog>,
    /// Says which sales sell.
    pub clock: Clock,
    /// Time between two rounds.
    pub period: Duration,
}

#[async_trait]
impl Task for GateRepair {
    fn name(&self) -> &'static str {
        "gate_repair"
    }

    fn period(&self) -> Duration {
        self.period
    }

    /// Sets the gates of all sales that sell. After a failure the other sales are set all the same.
    async fn run_once(&self) -> StoreResult<Progress> {
        let snapshot = self.catalog.snapshot();
        let (mut done, mut failure) = (0, Ok(()));
        for sale in snapshot.selling(self.clock.now_ms()) {
            let is_lost = snapshot.stock.losses.contains_key(&sale.id);
            match self.gates.set_gates(sale, &[]).await {
                Ok(()) => done += 1,
                // The stock watch has said so, and nothing can be repaired here.
                Err(error) if is_lost && error.kind == ErrorKind::Broken => {}
                Err(error) => failure = Err(error),
            }
        }
        failure.map(|()| Progress::of(done))
    }
}
