//! What of a sale still waits in outboxes and in the log.

use std::collections::BTreeMap;

use crate::evidence::PartitionFacts;

/// What still waits.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Entries of the outboxes.
    pub outbox: u64,
    /// Of the records that were in the log when the outboxes were empty, those that are not written yet. `None` while
    /// the outboxes are not empty.
    pub missing: Option<i64>,
    /// Orders whose units wait to go back on sale.
    pub releases: i64,
}

/// Counts the records between the stored positions and the ends of the log.
pub fn behind(target: &[PartitionFacts], stored: &BTreeMap<u16, i64>) -> i64 {
    let behind = (0u16..).zip(target).map(|(part, facts)| {
        // An empty partition needs no position.
        let position = stored.get(&part).copied().unwrap_or(facts.low);
        (facts.end - position).max(0)
    });
    behind.sum()
}
