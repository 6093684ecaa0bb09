//! What one process remembers of the sales, their stock, the rules of traffic and the writers' pace. Workers keep it
//! fresh, and the shop reads it without I/O.
//!
//! Invariant: a process has one catalog and one pace. A reader of the catalog sees one moment of it, whole.

pub mod catalog;
pub mod figures;
pub mod guards;
pub mod health;
pub mod key_table;
pub mod leaky_bucket;
pub mod notes;
pub mod order_cache;
pub mod pace;
pub mod rulebook;
pub mod streams;
pub mod token_buckets;
pub mod token_leases;

use std::sync::Arc;

use crate::domain::ShardMap;

/// The memory of a process. Cheap to clone.
#[derive(Clone)]
pub struct Memory {
    /// Sales, stock bands and the length of the outboxes.
    pub catalog: Arc<catalog::Catalog>,
    /// How long orders wait for their rows.
    pub pace: Arc<pace::Pace>,
    /// The rules of traffic.
    pub rules: Arc<rulebook::Rulebook>,
    /// The guards of what the shop stands on.
    pub guards: Arc<guards::Guards>,
    /// How the components fared.
    pub health: Arc<health::Health>,
    /// What was read of orders a moment ago.
    pub orders: Arc<order_cache::OrderCache>,
    /// What the process has measured of late.
    pub figures: Arc<figures::Figures>,
    /// When the use of keys and sessions was noted.
    pub notes: Arc<notes::Notes>,
    /// The clients that are told what happens.
    pub streams: Arc<streams::Streams>,
}

impl Memory {
    /// Makes a memory that knows nothing yet but the rules of the configuration.
    pub fn new(
        map: ShardMap,
        rules: rulebook::Rulebook,
        guards: Arc<guards::Guards>,
        orders: order_cache::OrderCache,
        streams: streams::Streams,
    ) -> Self {
        Self {
            catalog: Arc::default(),
            pace: Arc::new(pace::Pace::new(map.parts())),
            rules: Arc::new(rules),
            guards,
            health: Arc::default(),
            orders: Arc::new(orders),
            figures: Arc::default(),
            notes: Arc::default(),
            streams: Arc::new(streams),
        }
    }
}
