//! What a run leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::buyers::{Ending, Fault};
use crate::journal::Entry;

/// What a run leaves.
#[derive(Debug, Default)]
pub struct Harvest {
    /// Every click of the schedule and its answer, in the order of the schedule.
    pub entries: Vec<Entry>,
    /// With polling: from the intended click until its buyer saw the order decided, in µs.
    pub decided_us: Vec<u64>,
    /// With polling: buyers who gave up asking.
    pub undecided: u64,
    /// From the start to the last answer to a click of the schedule.
    pub took: Duration,
    /// What buyers did afterwards; `None` when they were to do nothing.
    pub after: Option<Aftermath>,
}

/// What buyers did after the clicks of the schedule, and what came of it.
#[derive(Debug, Default)]
pub struct Aftermath {
    /// The number of orders, by how they ended for their buyers.
    pub endings: BTreeMap<Ending, u64>,
    /// The number of buyers without an ending, by what kept them from it.
    pub faults: BTreeMap<String, u64>,
    /// Orders that were accepted at a second chance.
    pub came_back: u64,
    /// Every click of a second chance and its answer, in the order of the answers.
    pub returns: Vec<Entry>,
    /// Clicks of second chances that could not be sent.
    pub unsent: u64,
    /// From the start until the last buyer was done.
    pub took: Duration,
}

/// Something that happened after the clicks of the schedule.
#[derive(Debug)]
pub enum Happened {
    /// A buyer is done.
    Ended(Result<Ending, Fault>),
    /// A buyer who was refused came again. `None` means that the click could not be sent.
    CameAgain(Option<Box<Entry>>),
    /// A buyer who was refused has an order.
    CameBack,
}

impl Harvest {
    /// Returns every click that was sent, and its answer.
    pub fn into_journal(self) -> Vec<Entry> {
        let mut journal = self.entries;
        journal.extend(self.after.into_iter().flat_map(|after| after.returns));
        journal
    }
}

impl Aftermath {
    /// Notes what happened so long after the start.
    pub fn note(&mut self, happened: Happened, since_start: Duration) {
        self.took = since_start;
        match happened {
            Happened::Ended(Ok(ending)) => *self.endings.entry(ending).or_default() += 1,
            Happened::Ended(Err(fault)) => *self.faults.entry(fault.to_string()).or_default() += 1,
            Happened::CameAgain(Some(entry)) => self.returns.push(*entry),
            Happened::CameAgain(None) => self.unsent += 1,
            Happened::CameBack => self.came_back += 1,
        }
    }
}
