//! What listeners were told, beside what stands.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use super::figures::{self, Quantiles};
use crate::evidence::Evidence;
use crate::listeners::Heard;

/// What listeners were told.
#[derive(Debug, Serialize)]
pub struct Push {
    /// Buyers who listened.
    pub listeners: u32,
    /// Streams that were opened, those included that took the place of others.
    pub opened: u64,
    /// The last events of streams, by reason.
    pub byes: BTreeMap<String, u64>,
    /// Streams that ended without a last event or could not be opened, by why.
    pub faults: BTreeMap<String, u64>,
    /// Events of any kind.
    pub events: u64,
    /// Orders of listeners that are decided.
    pub orders: u64,
    /// Those of them whose state nobody told.
    pub lost: u64,
    /// From the stamp of a step, which is taken before its commit, to its arrival: whole milliseconds of one machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_commit: Option<Quantiles>,
}

/// Returns the orders of this run and the states in which they stand, of the users who are asked for.
pub fn standing(evidence: &Evidence, users: &HashSet<String>) -> Vec<(String, String)> {
    let rows =
        evidence.rows.iter().filter(|row| !evidence.before.contains(&row.id) && users.contains(&row.user));
    rows.map(|row| (row.id.to_string(), row.state.as_str().to_owned())).collect()
}

impl Push {
    /// Holds what was told against what stands.
    pub fn new(listeners: u32, standing: &[(String, String)], heard: &Heard, evidence: &Evidence) -> Self {
        let lost = standing.iter().filter(|one| !heard.told.contains_key(*one)).count();
        let steps = evidence.events.events.iter().filter_map(|event| {
            let told_ms = heard.told.get(&(event.order.to_string(), event.to.clone()))?;
            u64::try_from((told_ms - event.at_ms).max(0) * 1000).ok()
        });
        Self {
            listeners,
            opened: heard.opened,
            byes: heard.byes.clone(),
            faults: heard.faults.clone(),
            events: heard.events,
            orders: figures::count(standing.len()),
            lost: figures::count(lost),
            from_commit: Quantiles::of_micros(steps),
        }
    }
}
