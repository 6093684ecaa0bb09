//! The evidence, sorted for look-ups by the rules.

use std::collections::{BTreeMap, BTreeSet};

use crate::evidence::{BucketFacts, Evidence, ItemFacts, OrderRow};
use crate::ids::{OrderId, month_of_ms};

/// The evidence, and what the rules look up in it.
pub struct Index<'a> {
    /// The evidence itself.
    pub evidence: &'a Evidence,
    /// The first row of each id. The rules of `rows` find a second one.
    pub rows: BTreeMap<OrderId, &'a OrderRow>,
    /// Orders that hold no units in MySQL, and whose units may not be on sale again. They wait for their release, or
    /// for an operator as a dead letter.
    pub owed: BTreeSet<OrderId>,
    /// (partition, offset) of dead letters.
    dead: BTreeSet<(u16, i64)>,
    /// The month of the sale's start. 0 when it is outside the calendar, and no row can have that month.
    pub month: u16,
    quiet: bool,
}

impl<'a> Index<'a> {
    /// Sorts the evidence.
    pub fn new(evidence: &'a Evidence) -> Self {
        let mut rows = BTreeMap::new();
        for row in &evidence.rows {
            rows.entry(row.id).or_insert(row);
        }
        let mut index = Self {
            evidence,
            rows,
            owed: BTreeSet::new(),
            dead: BTreeSet::new(),
            month: month_of_ms(evidence.sale.starts_ms).unwrap_or(0),
            quiet: false,
        };
        let letters = evidence.books.iter().flat_map(|books| &books.dead_letters);
        index.dead = letters.map(|letter| (letter.part, letter.offset)).collect();
        index.owed = index.owed_orders();
        index.quiet = index.outbox_len() == 0 && index.unread() == 0;
        index
    }

    /// Returns whether nothing of this sale waits in an outbox or in the log.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Finds an item of the sale.
    pub fn item(&self, sku: &str) -> Option<&'a ItemFacts> {
        self.evidence.sale.items.iter().find(|item| item.sku == sku)
    }

    /// Lists the buckets that are in place, with their numbers.
    pub fn buckets(&self) -> impl Iterator<Item = (u16, &'a BucketFacts)> {
        let buckets = self.evidence.buckets.iter().flatten();
        (0u16..).zip(buckets).filter_map(|(number, bucket)| Some((number, bucket.as_ref()?)))
    }

    /// Returns whether every bucket was read and is in place. Only then do sums over them mean something.
    pub fn is_whole_in_redis(&self) -> bool {
        let whole = |buckets: &Vec<Option<BucketFacts>>| {
            buckets.len() == usize::from(self.evidence.sale.buckets) && buckets.iter().all(Option::is_some)
        };
        self.evidence.buckets.as_ref().is_some_and(whole)
    }

    /// Counts the entries of all outboxes.
    pub fn outbox_len(&self) -> u64 {
        self.buckets().map(|(_, bucket)| bucket.outbox).sum()
    }

    /// Counts the records of the sale that are not written yet: those at or after their partition's position.
    pub fn unread(&self) -> usize {
        let records = self.evidence.log.iter().flat_map(|log| &log.records);
        records.filter(|record| record.offset >= self.position(record.part)).count()
    }

    /// Returns the stored position of a partition, or 0 when there is none.
    pub fn position(&self, part: u16) -> i64 {
        self.evidence.books.iter().find_map(|books| books.positions.get(&part).copied()).unwrap_or(0)
    }

    /// Returns whether a record is a dead letter.
    pub fn is_dead_letter(&self, part: u16, offset: i64) -> bool {
        self.dead.contains(&(part, offset))
    }

    /// Sums the units that Redis still holds for owed orders, and that go back on sale. `matches` gets the SKU and the
    /// user of a hold.
    pub fn owed_units(&self, matches: impl Fn(&str, &str) -> bool) -> i64 {
        let owed = self.evidence.books.iter().flat_map(|books| &books.owed);
        let withheld: BTreeSet<OrderId> = owed.filter(|row| !row.restock).map(|row| row.order).collect();
        let holds = self.buckets().flat_map(|(_, bucket)| &bucket.holds);
        holds
            .filter(|(id, hold)| !hold.released && self.owed.contains(id) && matches(&hold.sku, &hold.user))
            .filter(|(id, _)| !withheld.contains(id))
            .map(|(_, hold)| hold.quantity)
            .sum()
    }

    /// Sums the units of a SKU that were held once and are on sale again.
    pub fn returned_units(&self, sku: &str) -> i64 {
        let holds = self.buckets().flat_map(|(_, bucket)| bucket.holds.values());
        holds.filter(|hold| hold.released && hold.sku == sku).map(|hold| hold.quantity).sum()
    }

    fn owed_orders(&self) -> BTreeSet<OrderId> {
        let released = self.evidence.books.iter().flat_map(|books| &books.owed).map(|row| row.order);
        let dead = self.evidence.log.iter().flat_map(|log| &log.records).filter_map(|record| {
            let id = record.order.as_ref()?.id;
            self.is_dead_letter(record.part, record.offset).then_some(id)
        });
        let is_live = |id: &OrderId| self.rows.get(id).is_some_and(|row| row.state.is_live());
        released.chain(dead).filter(|id| !is_live(id)).collect()
    }
}
