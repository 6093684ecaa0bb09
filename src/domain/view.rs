//! The view of a sale: what its events say, in sums. It is built of events alone, so it can be made anew.
//!
//! The events of a partition are counted into [`Counts`], whose sums do not depend on the order in which they come. All
//! else is derived: an order is in the state to which more of its sale's orders went than left it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ids::{SaleId, SkuId};
use super::order_life::OrderState;
use super::shard::Part;
use super::stored_event::{Facts, StoredEvent};

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CountKey {
    /// The SKU.
    pub sku: SkuId,
    /// When: minutes since 1970.
    pub minute: i64,
    /// The word of the step, known to this version or not.
    pub kind: String,
    /// The word of the state before.
    pub from: String,
    /// The word of the state after.
    pub to: String,
    /// Why orders were rejected; empty in every other state.
    pub reason: String,
    /// The currency of the price.
    pub currency: String,
}

/// How much there was of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Orders.
    pub orders: i64,
    /// Their units.
    pub units: i64,
    /// What they cost, in minor units of the currency.
    pub amount: i64,
}

/// The sums of one sale, of one partition or of several.
pub type Counts = BTreeMap<CountKey, Tally>;

/// What the events of one partition say of one sale.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// The sums.
    pub counts: Counts,
    /// The number of the first event of the sale.
    pub first_number: i64,
    /// The number of the last one.
    pub last_number: i64,
    /// How many these are.
    pub events: i64,
}

/// What events say, by their partition and sale.
pub type CountedSales = BTreeMap<(Part, SaleId), Counted>;

impl Tally {
    fn add(&mut self, other: Self) {
        self.orders += other.orders;
        self.units += other.units;
        self.amount = self.amount.saturating_add(other.amount);
    }
}

impl Counted {
    /// Adds what later events of the same partition and sale say.
    pub fn add(&mut self, later: &Self) {
        if self.events == 0 {
            self.first_number = later.first_number;
        }
        self.last_number = later.last_number.max(self.last_number);
        self.events += later.events;
        add_counts(&mut self.counts, &later.counts);
    }
}

/// Adds sums to others.
pub fn add_counts(counts: &mut Counts, more: &Counts) {
    for (key, tally) in more {
        counts.entry(key.clone()).or_default().add(*tally);
    }
}

/// Counts events, ascending in each partition. Answers also how many could not be read: they count for nothing, now and
/// whenever they are counted again.
pub fn count(events: &[StoredEvent]) -> (CountedSales, usize) {
    let (mut sales, mut unreadable) = (CountedSales::new(), 0);
    // Most neighbours are of one row and minute, and have their facts in common.
    for alike in events.chunk_by(|one, next| {
        let is_shared = one.facts.as_ref().zip(next.facts.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
        is_shared && one.part == next.part && minute(one) == minute(next)
    }) {
        let (Some(first), Some(last)) = (alike.first(), alike.last()) else { continue };
        let Some(facts) = &first.facts else {
            unreadable += alike.len();
            continue;
        };
        let orders = i64::try_from(alike.len()).unwrap_or(i64::MAX);
        let counted = sales.entry((first.part, facts.sale.clone())).or_default();
        if counted.events == 0 {
            counted.first_number = first.number;
        }
        counted.last_number = last.number;
        counted.events += orders;
        let units = i64::from(facts.quantity.units()) * orders;
        let tally = Tally { orders, units, amount: facts.amount().saturating_mul(orders) };
        counted.counts.entry(key(facts, minute(first))).or_default().add(tally);
    }
    (sales, unreadable)
}

fn minute(event: &StoredEvent) -> i64 {
    event.at_ms.div_euclid(60_000)
}

fn key(facts: &Facts, minute: i64) -> CountKey {
    CountKey {
        sku: facts.sku.clone(),
        minute,
        kind: facts.kind.clone(),
        from: facts.from.clone(),
        to: facts.to.clone(),
        reason: facts.reason.clone(),
        currency: facts.unit_price.currency().to_owned(),
    }
}

/// Orders and units in one state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InState {
    /// Orders.
    pub orders: i64,
    /// Their units.
    pub units: i64,
}

/// What was taken in one currency, in its minor units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revenue {
    /// The amounts of orders that were paid.
    pub paid: i64,
    /// The amounts of those that were refunded.
    pub refunded: i64,
}

/// What there is of a sale or of one of its SKUs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Orders and units by state. A state in which no order is any more has zeros; one that no order was ever in, and
    /// `queued`, in which orders are before their first event, are not there.
    pub states: BTreeMap<String, InState>,
    /// Rejected orders by reason.
    pub rejected: BTreeMap<String, i64>,
    /// What was taken, by currency.
    pub revenue: BTreeMap<String, Revenue>,
}

/// The steps of one minute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Minute {
    /// Its begin, minutes since 1970.
    pub minute: i64,
    /// The number of steps by their word: the funnel.
    pub steps: BTreeMap<String, i64>,
}

/// The view of a sale. Two views that were built of the same events are equal, and so are their texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaleView {
    /// The sale.
    pub sale_id: SaleId,
    /// How many events it is built of.
    pub events: i64,
    /// What there is of the sale.
    #[serde(flatten)]
    pub totals: Totals,
    /// What there is of each SKU that was bought, ascending by its id.
    pub items: BTreeMap<SkuId, Totals>,
    /// The minutes in which something happened, ascending.
    pub minutes: Vec<Minute>,
}

impl Totals {
    fn add(&mut self, key: &CountKey, tally: Tally) {
        let InState { orders, units } = self.states.entry(key.to.clone()).or_default();
        (*orders, *units) = (*orders + tally.orders, *units + tally.units);
        if key.from != OrderState::Queued.as_str() {
            let InState { orders, units } = self.states.entry(key.from.clone()).or_default();
            (*orders, *units) = (*orders - tally.orders, *units - tally.units);
        }
        if !key.reason.is_empty() {
            *self.rejected.entry(key.reason.clone()).or_default() += tally.orders;
        }
        let paid = OrderState::Paid.as_str();
        if key.to == paid || key.from == paid {
            let revenue = self.revenue.entry(key.currency.clone()).or_default();
            let sum = if key.to == paid { &mut revenue.paid } else { &mut revenue.refunded };
            *sum = sum.saturating_add(tally.amount);
        }
    }
}

impl SaleView {
    /// Makes the view of a sale of its sums.
    pub fn of(sale: &SaleId, counts: &Counts) -> Self {
        let mut view = Self {
            sale_id: sale.clone(),
            events: 0,
            totals: Totals::default(),
            items: BTreeMap::new(),
            minutes: Vec::new(),
        };
        let mut minutes: BTreeMap<i64, BTreeMap<String, i64>> = BTreeMap::new();
        for (key, tally) in counts {
            view.events += tally.orders;
            view.totals.add(key, *tally);
            view.items.entry(key.sku.clone()).or_default().add(key, *tally);
            *minutes.entry(key.minute).or_default().entry(key.kind.clone()).or_default() += tally.orders;
        }
        view.minutes = minutes.into_iter().map(|(minute, steps)| Minute { minute, steps }).collect();
        view
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Makes the events of some orders' steps at a minute. They are one row.
    fn row(
        (number, orders): (i64, usize),
        (minute, sku, units): (i64, &str, u32),
        (kind, from, to): (&str, &str, &str),
    ) -> Vec<StoredEvent> {
        let own = json!({ "order_id": "ord_00000000000000000000000000", "user_id": "u", "accepted_ms": 0 });
        let reason = (to == "rejected").then_some("sold_out");
        let common = json!({
            "sale_id": "drop", "sku_id": sku, "quantity": units, "unit_price": {"amount": 100, "currency": "CNY"},
            "kind": kind, "from": from, "to": to, "reason": reason, "by": "order_writer",
        });
        let row = serde_json::to_vec(&json!({ "common": common, "moves": vec![own; orders] })).expect("JSON");
        let events = i64::try_from(orders).expect("few");
        StoredEvent::of_row(Part::new(0), (number, events), minute * 60_000 + 1, &row).expect("steps")
    }

    fn events() -> Vec<StoredEvent> {
        let (persisted, paid) =
            (("persisted", "queued", "awaiting_payment"), ("paid", "awaiting_payment", "paid"));
        [
            row((1, 1), (10, "phone", 2), persisted),
            row((2, 1), (10, "phone", 1), persisted),
            row((3, 1), (10, "bag", 1), ("rejected", "queued", "rejected")),
            row((4, 1), (11, "phone", 2), paid),
            row((5, 1), (12, "phone", 1), ("cancelled", "awaiting_payment", "cancelled")),
            row((6, 1), (13, "phone", 2), ("refunded", "paid", "refunded")),
            row((7, 1), (13, "phone", 1), ("melted", "cancelled", "melted")),
            row((8, 3), (13, "bag", 3), ("persisted", "queued", "awaiting_payment")),
        ]
        .concat()
    }

    #[test]
    fn a_view_says_where_all_orders_are_and_what_was_taken() {
        let (sales, unreadable) = count(&events());
        let counted = &sales[&(Part::new(0), SaleId::parse("drop").expect("a slug"))];
        assert_eq!((unreadable, counted.first_number, counted.last_number, counted.events), (0, 1, 10, 10));
        let view = SaleView::of(&SaleId::parse("drop").expect("a slug"), &counted.counts);
        let states = &view.totals.states;
        let zero = InState::default();
        assert_eq!(states["melted"], InState { orders: 1, units: 1 }, "a word of a newer version");
        assert_eq!(states["awaiting_payment"], InState { orders: 3, units: 9 }, "a row of three alike");
        assert_eq!((states["paid"], states["cancelled"]), (zero, zero));
        assert_eq!(states["refunded"], InState { orders: 1, units: 2 });
        assert_eq!(view.totals.rejected["sold_out"], 1);
        assert_eq!(view.totals.revenue["CNY"], Revenue { paid: 200, refunded: 200 });
        assert_eq!(view.items[&SkuId::parse("bag").expect("a slug")].states["rejected"].units, 1);
        assert_eq!(view.minutes.len(), 4);
        assert_eq!((view.minutes[0].minute, view.minutes[0].steps["persisted"]), (10, 2));
    }

    #[test]
    fn however_events_are_cut_into_pages_the_view_is_the_same() {
        let all = events();
        let (whole, _) = count(&all);
        for cut in 0..=all.len() {
            let (first, _) = count(&all[..cut]);
            let (second, _) = count(&all[cut..]);
            let mut sum = first;
            for (sale, later) in &second {
                sum.entry(sale.clone()).or_default().add(later);
            }
            assert_eq!(sum, whole, "cut at {cut}");
        }
    }

    #[test]
    fn an_event_that_cannot_be_read_counts_for_nothing() {
        let mut all = events();
        all.extend(row((11, 2), (13, "bag", 0), ("persisted", "queued", "awaiting_payment")));
        let (sales, unreadable) = count(&all);
        assert_eq!((unreadable, sales.values().map(|counted| counted.events).sum::<i64>()), (2, 10));
    }
}
