//! What one process remembers of the sales, their stock and the writers' pace. Workers keep it fresh, and the shop
//! reads it without I/O.
//!
//! Invariant: a process has one catalog and one pace. A reader of the catalog sees one moment of it, whole.

pub mod catalog;
pub mod health;
pub mod pace;

use std::sync::Arc;

use crate::domain::ShardMap;

/// The memory of a process. Cheap to clone.
#[derive(Clone)]
pub struct Memory {
    /// Sales, stock bands and the length of the outboxes.
    pub catalog: Arc<catalog::Catalog>,
    /// How long orders wait for their rows.
    pub pace: Arc<pace::Pace>,
    /// How the components fared.
    pub health: Arc<health::Health>,
}

impl Memory {
    /// Makes a memory that knows nothing yet.
    pub fn new(map: ShardMap) -> Self {
        Self { catalog: Arc::default(), pace: Arc::new(pace::Pace::new(map.parts())), health: Arc::default() }
    }
}
