//! What buyers did after the clicks of the schedule.

use std::collections::BTreeMap;

use serde::Serialize;

use super::figures;
use crate::buyers::Ending;
use crate::crowd::Aftermath;
use crate::journal::Class;

/// What buyers did after the clicks of the schedule, and what came of it.
#[derive(Debug, Serialize)]
pub struct After {
    /// The number of orders, by how they ended for their buyers, also of those with 0. `error` counts the buyers
    /// without an ending.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// What kept buyers from an ending, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Orders that were accepted at a second chance.
    pub came_back: u64,
    /// Clicks of second chances, by the class of their answer, also of those with 0. They are in no other figure.
    pub second_chances: BTreeMap<&'static str, u64>,
    /// Clicks of second chances that could not be sent.
    pub unsent: u64,
    /// From the start until the last buyer was done.
    pub took_ms: f64,
}

impl After {
    /// The word for buyers without an ending.
    pub const ERROR: &str = "error";

    /// Sums up what buyers did.
    pub fn new(aftermath: &Aftermath) -> Self {
        let count = |ending: Ending| aftermath.endings.get(&ending).copied().unwrap_or(0);
        let mut outcomes = BTreeMap::from(Ending::ALL.map(|ending| (ending.as_str(), count(ending))));
        outcomes.insert(Self::ERROR, aftermath.faults.values().sum());
        let mut second_chances: BTreeMap<&'static str, u64> =
            BTreeMap::from(Class::ALL.map(|class| (class.as_str(), 0)));
        for entry in &aftermath.returns {
            *second_chances.entry(entry.class.as_str()).or_default() += 1;
        }
        Self {
            outcomes,
            errors: aftermath.faults.clone(),
            came_back: aftermath.came_back,
            second_chances,
            unsent: aftermath.unsent,
            took_ms: figures::ms(aftermath.took),
        }
    }

    /// Counts the buyers without an ending.
    pub fn errors(&self) -> u64 {
        self.outcomes.get(Self::ERROR).copied().unwrap_or(0)
    }
}
