//! What the events of a sale say, and what is built of them.

use std::collections::BTreeMap;

use crate::ids::OrderId;

/// One event.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// The partition of its number.
    pub part: u16,
    /// Its number there.
    pub number: i64,
    /// The order.
    pub order: OrderId,
    /// The word of the step.
    pub kind: String,
    /// The word of the state before.
    pub from: String,
    /// The word of the state after.
    pub to: String,
    /// Why the order was rejected.
    pub reason: Option<String>,
    /// What was bought.
    pub sku: String,
    /// The buyer.
    pub user: String,
    /// How many units were bought.
    pub quantity: i64,
    /// The price of one unit, in the smallest unit of its currency.
    pub unit_price: i64,
    /// The currency's code.
    pub currency: String,
    /// The shop's own name for the order.
    pub reference: Option<String>,
    /// When the step was taken, ms since 1970.
    pub at_ms: i64,
}

/// The events of one partition, of all sales.
#[derive(Debug, Clone, Default)]
pub struct EventLog {
    /// The number of the first event of each row that is kept, and how many events the row has; ascending.
    pub rows: Vec<(i64, i64)>,
    /// The number that the next event gets.
    pub next_number: i64,
    /// Rows that cannot be read.
    pub damaged: Vec<i64>,
}

impl EventLog {
    /// Returns whether no event of the partition is gone.
    pub fn is_whole(&self) -> bool {
        self.rows.first().map_or(self.next_number == 1, |(first, _)| *first == 1)
    }
}

/// What is summed up together in a view: SKU, minute, step, state before, state after, reason, currency.
pub type SumKey = (String, i64, String, String, String, String, String);

/// Everything that is known of a sale's events.
#[derive(Debug, Clone, Default)]
pub struct EventFacts {
    /// The events of the sale, ascending by partition and number.
    pub events: Vec<EventRow>,
    /// The partitions.
    pub logs: BTreeMap<u16, EventLog>,
    /// Which event each reader wants next, by its name and partition.
    pub readers: BTreeMap<(String, u16), i64>,
    /// The sums of the sale's view, by partition: orders, units and amount.
    pub sums: BTreeMap<u16, BTreeMap<SumKey, (i64, i64, i64)>>,
    /// Of which events the sums are, by partition: the first, the last, and how many.
    pub marks: BTreeMap<u16, (i64, i64, i64)>,
}

impl EventFacts {
    /// Adds what another server holds.
    pub fn add(&mut self, other: Self) {
        self.events.extend(other.events);
        self.logs.extend(other.logs);
        self.readers.extend(other.readers);
        self.sums.extend(other.sums);
        self.marks.extend(other.marks);
    }
}
