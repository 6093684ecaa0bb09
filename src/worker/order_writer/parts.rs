//! The parts of the process that a writer needs, and its bounds.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::ShardMap;
use crate::memory::catalog::Catalog;
use crate::ports::{Inventory, OrderLog, OrderWrites, Positions, SaleStore};
use crate::shutdown::Tasks;
use crate::worker::announcer::Announcer;

/// The parts of the process that a writer needs.
#[derive(Clone)]
pub struct Parts {
    /// The log that is read.
    pub order_log: Arc<dyn OrderLog>,
    /// The store that the batches are written to.
    pub order_writes: Arc<dyn OrderWrites>,
    /// The positions, of which one that is not the log's is halted.
    pub positions: Arc<dyn Positions>,
    /// The directory, for sales that the catalog does not know yet.
    pub sales: Arc<dyn SaleStore>,
    /// The inventory, whose holds are marked with what was decided.
    pub inventory: Arc<dyn Inventory>,
    /// Tells whoever listens of orders that got their rows.
    pub announcer: Arc<Announcer>,
    /// The sales as the process knows them.
    pub catalog: Arc<Catalog>,
    /// The clock that says when a batch has waited long enough.
    pub clock: Clock,
    /// The map that says in which bucket a hold is.
    pub map: ShardMap,
    /// The owner of what is spawned beside the runs.
    pub tasks: Tasks,
    /// The bounds.
    pub limits: Limits,
}

/// The bounds of a writer, from `[writer]` of the configuration.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most records of one batch.
    pub batch_records_max: usize,
    /// How long the first record of a batch waits for others.
    pub batch_wait: Duration,
    /// Number of records of one partition, read ahead, at which its delivery is paused.
    pub buffer_records_max: usize,
    /// The pause after a first failure. It doubles with every further one.
    pub retry_first: Duration,
    /// The longest pause after failures.
    pub retry_last: Duration,
}
