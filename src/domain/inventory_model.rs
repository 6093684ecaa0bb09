//! One bucket of the inventory as plain rules.
//!
//! The embedded mode decides with these rules. They are also the readable specification of `lua/*.lua`, with which the
//! distributed mode decides. `tests/it/lua_model.rs` gives the scripts and this model the same random commands, and it
//! compares every answer and the whole state. So where the two differ, one of them is a bug. Redis reads its own clock
//! and names its own outbox entries; here the caller gives the time, and entries are named by their number.
//!
//! Invariant: nothing here makes or loses units. The available units and the units of all orders add up to the stock
//! that was put in place. No buyer holds more than the limit that was in force at their last reservation.

mod gate;

use std::collections::BTreeMap;

pub use self::gate::{Gate, GateState, Terms};
use super::ids::{Reference, SaleId, SkuId, UserId};
use super::money::Quantity;
use super::order::Decision;
use super::order_id::OrderId;
use super::order_life::{OrderEvent, OrderState, Step};
use super::reservation::{
    Denial, Fingerprint, OutboxEntryId, Release, ReleaseRequest, Released, Reservation, ReserveRequest,
    Verdict,
};

/// The keys of a bucket. The fields are public, because a test also loses, damages and renews a gate, which no
/// script does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bucket {
    /// The gate; `None` when it is not in place.
    pub gate: Option<Gate>,
    /// Available units of the SKUs that were put in place.
    pub stock: BTreeMap<SkuId, u32>,
    /// Live units of each buyer, over all SKUs.
    pub buyers: BTreeMap<UserId, u32>,
    /// How many orders each buyer has let expire or given up. Who has none is not here.
    pub unpaid: BTreeMap<UserId, u32>,
    /// Every order ever held.
    pub orders: BTreeMap<OrderId, Hold>,
    /// The outbox entries that are left, oldest first.
    pub outbox: Vec<Accepted>,
    /// How many outbox entries were ever made; the next one gets the next number. The number of orders in the entries
    /// that are left has a key of its own in Redis; here it is [`Bucket::outbox_orders`].
    pub entries_made: u64,
}

/// An order as it stands in the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// The state that the order's mark names.
    pub state: OrderState,
    /// What the purchase's body asked for.
    pub fingerprint: Fingerprint,
    /// How many units are held.
    pub quantity: Quantity,
    /// When they were reserved, in ms since 1970.
    pub reserved_ms: i64,
    /// What is held.
    pub sku: SkuId,
    /// For whom it is held.
    pub user: UserId,
    /// The shop's own name for the order.
    pub reference: Option<Reference>,
    /// Whether it was settled: its units left its buyer, and went back on sale if they were to. It has a state without
    /// units then.
    pub is_released: bool,
}

/// What a decision about an order changes besides its hold.
struct Counts<'a> {
    buyers: &'a mut BTreeMap<UserId, u32>,
    unpaid: &'a mut BTreeMap<UserId, u32>,
    gate: &'a mut Option<Gate>,
}

impl Hold {
    /// Takes the state that MySQL says, and takes the units off the buyer when the order holds none in it. `keeps` are
    /// the units that the buyer holds in MySQL. An order that was left unpaid is counted.
    fn decide(&mut self, state: OrderState, keeps: u32, count: &mut Counts<'_>) {
        self.state = state;
        if matches!(state, OrderState::Cancelled | OrderState::Expired) {
            *count.unpaid.entry(self.user.clone()).or_default() += 1;
            if let Some(gate) = count.gate {
                gate.given_up = true;
            }
        }
        if state.holds_nothing()
            && let Some(held) = count.buyers.get_mut(&self.user)
        {
            *held = held.saturating_sub(self.quantity.units()).max(keeps.min(*held));
        }
    }

    /// Answers the hold of the order `id` in the form that the ports use.
    pub fn reservation(&self, sale: &SaleId, id: OrderId) -> Reservation {
        let Self { state, quantity, reserved_ms, .. } = *self;
        let (sku, user, reference) = (self.sku.clone(), self.user.clone(), self.reference.clone());
        Reservation { id, sale: sale.clone(), state, sku, user, quantity, reserved_ms, reference }
    }
}

/// An outbox entry: the orders that one call accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The entry's id.
    pub entry: OutboxEntryId,
    /// The epoch in which the orders were accepted.
    pub epoch: u32,
    /// The orders, in the order of the requests.
    pub orders: Vec<OrderId>,
}

/// What `preheat.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preheated {
    /// The bucket was put in place.
    Created,
    /// A gate of this epoch stands already, whatever its terms and state.
    Exists,
    /// A gate of another epoch stands.
    Conflict,
}

/// What `gate.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateChange {
    /// The gate has the state.
    Set,
    /// The gate was set by a newer version of the sale.
    Older,
    /// There is no gate.
    Missing,
    /// The bucket was never opened, and who asks did not put it in place.
    Placing,
}

impl Bucket {
    /// Puts stock and a gate in place that does not sell yet, unless there is a gate (`preheat.lua`). Stock that was
    /// left without a gate is replaced; orders, buyers and outbox stay.
    pub fn preheat(&mut self, epoch: u32, terms: Terms, stock: &BTreeMap<SkuId, u32>) -> Preheated {
        if let Some(gate) = &self.gate {
            return if gate.epoch == epoch { Preheated::Exists } else { Preheated::Conflict };
        }
        self.stock = stock.clone();
        let sold = !self.orders.is_empty();
        let (state, terms) = (GateState::Placing, Some(terms));
        let given_up = !self.unpaid.is_empty();
        self.gate = Some(Gate {
            epoch,
            state,
            version: None,
            terms,
            sold,
            given_up,
            lost: false,
            is_on_its_run: true,
        });
        Preheated::Created
    }

    /// Sets the gate's state, but never back to what an older version of the sale said (`gate.lua`). A gate that was
    /// never opened is only ended, or opened by who has put it in place (`is_placer`).
    pub fn set_gate(&mut self, state: GateState, version: u64, is_placer: bool) -> GateChange {
        match &mut self.gate {
            None => GateChange::Missing,
            Some(gate) if gate.version.is_some_and(|newest| version < newest) => GateChange::Older,
            Some(gate) if gate.state == GateState::Placing && state != GateState::Ended && !is_placer => {
                gate.version = Some(version);
                GateChange::Placing
            }
            Some(gate) => {
                gate.state = state;
                gate.version = Some(version);
                GateChange::Set
            }
        }
    }

    /// Decides the requests and answers one verdict for each, in order (`reserve.lua`). Each request sees what the ones
    /// before it took. All accepted orders share one outbox entry. A bucket that finds keys missing notes that it lost
    /// them, and so does one that is on another run of its server.
    pub fn reserve(&mut self, batch: &[ReserveRequest], now_ms: i64) -> Vec<Verdict> {
        let admission = self.admit(now_ms);
        self.reserve_admitted(&admission, batch, now_ms)
    }

    /// Answers what every new order of a call hears, as [`Self::admission`] does, and notes that keys are lost.
    ///
    /// # Errors
    /// The denial that every new order gets.
    pub fn admit(&mut self, now_ms: i64) -> Result<Terms, Denial> {
        let terms = self.admission(now_ms)?;
        let has_lost_keys = self.has_lost_keys();
        match &mut self.gate {
            Some(gate) if has_lost_keys || !gate.is_on_its_run => {
                gate.lost = true;
                Err(Denial::KeysLost)
            }
            _ => Ok(terms),
        }
    }

    /// Decides as [`Self::reserve`] does, on a slice of a bucket that has the gate, and of the rest only what the batch
    /// names. Such a slice cannot tell whether keys are missing.
    pub fn reserve_in_slice(&mut self, batch: &[ReserveRequest], now_ms: i64) -> Vec<Verdict> {
        let admission = self.admission(now_ms);
        self.reserve_admitted(&admission, batch, now_ms)
    }

    fn reserve_admitted(
        &mut self,
        admission: &Result<Terms, Denial>,
        batch: &[ReserveRequest],
        now_ms: i64,
    ) -> Vec<Verdict> {
        let entry = OutboxEntryId((self.entries_made + 1).to_string());
        let epoch = self.gate.as_ref().map_or(0, |gate| gate.epoch);
        let mut accepted = Accepted { entry, epoch, orders: Vec::new() };
        let decide = |request| self.reserve_one(admission, request, now_ms, &mut accepted);
        let verdicts = batch.iter().map(decide).collect();
        let sold = !accepted.orders.is_empty();
        if sold {
            self.entries_made += 1;
            self.outbox.push(accepted);
        }
        if let Some(gate) = &mut self.gate {
            gate.sold |= sold;
        }
        verdicts
    }

    /// Answers what the gate says to every new order: its terms when it lets them pass, or why it does not.
    ///
    /// # Errors
    /// The denial that every new order gets.
    pub fn admission(&self, now_ms: i64) -> Result<Terms, Denial> {
        let gate = self.gate.as_ref().ok_or(Denial::GateShut)?;
        let terms = gate.terms.ok_or(Denial::GateShut)?;
        let is_leased = terms.lease_ms <= 0 || now_ms < terms.lease_ms;
        match gate.state {
            GateState::Ended => Err(Denial::Ended),
            _ if now_ms >= terms.closes_ms => Err(Denial::Ended),
            GateState::Paused => Err(Denial::Paused),
            GateState::Placing | GateState::Unknown => Err(Denial::GateShut),
            GateState::Open if !is_leased => Err(Denial::GateShut),
            GateState::Open if now_ms < terms.opens_ms => Err(Denial::NotStarted),
            GateState::Open => Ok(terms),
        }
    }

    /// Answers whether a key is not there that has to be: beside a gate the stock always, the others once an order was
    /// held. Redis keeps no empty hash, so a hash that is empty is a key that is missing.
    pub fn has_lost_keys(&self) -> bool {
        let Some(gate) = &self.gate else { return false };
        let are_gone =
            self.stock.is_empty() || gate.sold && (self.buyers.is_empty() || self.orders.is_empty());
        gate.lost || are_gone
    }

    /// Decides one request. A known order is answered whatever the gate says, because its buyer asks again for an
    /// answer that was lost.
    fn reserve_one(
        &mut self,
        admission: &Result<Terms, Denial>,
        request: &ReserveRequest,
        now_ms: i64,
        accepted: &mut Accepted,
    ) -> Verdict {
        let record = &request.record;
        if let Some(hold) = self.orders.get(&record.order_id) {
            if hold.fingerprint != request.fingerprint {
                return Verdict::Denied(Denial::KeyReused);
            }
            return Verdict::Replayed(hold.reservation(&record.sale_id, record.order_id));
        }
        let Terms { buyer_limit, unpaid_max, .. } = match admission {
            Ok(terms) => *terms,
            Err(denial) => return Verdict::Denied(denial.clone()),
        };
        let unpaid = self.unpaid.get(&record.user_id).copied().unwrap_or(0);
        if unpaid_max > 0 && unpaid >= unpaid_max {
            return Verdict::Denied(Denial::TooManyUnpaid { unpaid });
        }
        let units = record.quantity.units();
        let held = self.buyers.get(&record.user_id).copied().unwrap_or(0);
        if held + units > buyer_limit {
            return Verdict::Denied(Denial::LimitReached { held });
        }
        let orders_seen = u64::try_from(self.orders.len()).unwrap_or(u64::MAX);
        let Some(available) = self.stock.get_mut(&record.sku_id) else {
            return Verdict::Denied(Denial::UnknownSku);
        };
        if *available < units {
            return Verdict::Denied(Denial::SoldOut { available: *available, orders_seen });
        }
        *available -= units;
        accepted.orders.push(record.order_id);
        self.hold(request, held + units, now_ms);
        Verdict::Reserved { outbox_entry: accepted.entry.clone(), reserved_ms: now_ms, epoch: accepted.epoch }
    }

    /// Notes the hold of an accepted order. `held` is what its buyer now holds.
    fn hold(&mut self, request: &ReserveRequest, held: u32, now_ms: i64) {
        let record = &request.record;
        let hold = Hold {
            state: OrderState::Reserved,
            fingerprint: request.fingerprint,
            quantity: record.quantity,
            reserved_ms: now_ms,
            sku: record.sku_id.clone(),
            user: record.user_id.clone(),
            reference: record.reference.clone(),
            is_released: false,
        };
        self.orders.insert(record.order_id, hold);
        self.buyers.insert(record.user_id.clone(), held);
    }

    /// Marks `orders` queued, because the order log has their records (`acknowledge.lua`). Then removes those of
    /// `entries` in which no order is merely reserved, whoever marked the others. Answers how many entries it removed.
    pub fn acknowledge(&mut self, orders: &[OrderId], entries: &[OutboxEntryId]) -> usize {
        for order in orders {
            if let Some(hold) = self.orders.get_mut(order)
                && let Step::Follows(arrow) = hold.state.on(OrderEvent::Acknowledge)
            {
                hold.state = arrow.to;
            }
        }
        let Self { orders, outbox, .. } = self;
        let before = outbox.len();
        outbox.retain(|accepted| {
            let holds = accepted.orders.iter().filter_map(|order| orders.get(order));
            let waits = holds.map(|hold| hold.state).any(|state| state == OrderState::Reserved);
            waits || !entries.contains(&accepted.entry)
        });
        before - outbox.len()
    }

    /// Counts the orders in all outbox entries.
    pub fn outbox_orders(&self) -> usize {
        self.outbox.iter().map(|accepted| accepted.orders.len()).sum()
    }

    /// Marks what MySQL decided, and answers how many orders it marked (`mark_decided.lua`). A hold only moves along
    /// the arrows of an order's life, so that a late mark never hides a newer state. The units of an order that holds
    /// none leave its buyer with the mark, and therefore once.
    pub fn mark_decided(&mut self, decided: &[Decision]) -> usize {
        let Self { orders, buyers, unpaid, gate, .. } = self;
        let mut count = Counts { buyers, unpaid, gate };
        let mut marked = 0;
        for Decision { order, state, buyer_keeps } in decided.iter().filter(|it| !it.state.is_pending()) {
            if let Some(hold) = orders.get_mut(order).filter(|hold| hold.state.leads_to(*state)) {
                hold.decide(*state, buyer_keeps.unwrap_or(0), &mut count);
                marked += 1;
            }
        }
        marked
    }

    /// Takes the units of orders that hold none in MySQL off their buyers, and puts them back on sale if they are to
    /// (`release.lua`). Idempotent.
    pub fn release(&mut self, orders: &[ReleaseRequest]) -> Released {
        if self.gate.is_none() {
            return Released::GateShut;
        }
        if self.has_lost_keys() {
            return Released::KeysLost;
        }
        Released::Each(orders.iter().map(|request| self.release_one(*request)).collect())
    }

    fn release_one(&mut self, ReleaseRequest { decision, restock }: ReleaseRequest) -> Release {
        let Decision { order, state, buyer_keeps } = decision;
        let Self { orders, buyers, unpaid, gate, stock, .. } = self;
        let Some(hold) = orders.get_mut(&order).filter(|hold| !hold.is_released) else {
            return Release::Nothing;
        };
        let is_marked = hold.state == state;
        if !state.holds_nothing() || !(is_marked || hold.state.leads_to(state)) {
            return Release::Contradicted;
        }
        if !is_marked {
            hold.decide(state, buyer_keeps.unwrap_or(0), &mut Counts { buyers, unpaid, gate });
        }
        hold.is_released = true;
        if restock {
            *stock.entry(hold.sku.clone()).or_default() += hold.quantity.units();
        }
        Release::Done
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{IdempotencyKey, Money, Month, OrderRecord, Shard};

    const LIMIT: u32 = 5;

    /// Makes a request from the numbers of user, key and SKU, and a quantity.
    fn request((user, key, sku, units): (u8, u8, u8, u32)) -> ReserveRequest {
        let sale_id = SaleId::parse("drop").expect("slug");
        let user_id = UserId::parse(&format!("user-{user}")).expect("user");
        let key = IdempotencyKey::parse(&format!("key-{key}")).expect("key");
        let sku_id = SkuId::parse(&format!("sku-{sku}")).expect("slug");
        let quantity = Quantity::new(units).expect("quantity");
        let record = OrderRecord {
            v: OrderRecord::VERSION,
            order_id: OrderId::derive(Shard::new(0), Month::new(600), &sale_id, &user_id, &key),
            sale_id,
            sku_id,
            user_id,
            quantity,
            unit_price: Money::new(100, "CNY").expect("money"),
            reference: None,
            epoch: 1,
            accepted_ms: 1,
            awaited: false,
            node: None,
            trace: None,
            decided: None,
        };
        ReserveRequest { fingerprint: Fingerprint::of(&record.sku_id, quantity, None), record }
    }

    proptest! {
        #[test]
        fn units_are_neither_made_nor_lost_and_asking_again_changes_nothing(
            wishes in prop::collection::vec((0u8..6, 0u8..4, 0u8..3, 1u32..=4), 1..40),
            stock in prop::collection::vec(0u32..12, 2),
        ) {
            let stock: BTreeMap<SkuId, u32> = (0..)
                .zip(stock)
                .map(|(n, units): (u8, u32)| (SkuId::parse(&format!("sku-{n}")).expect("slug"), units))
                .collect();
            let terms = Terms { opens_ms: 10, closes_ms: 20, buyer_limit: LIMIT, unpaid_max: 0, lease_ms: 0 };
            let mut bucket = Bucket::default();
            prop_assert_eq!(bucket.preheat(1, terms, &stock), Preheated::Created);
            prop_assert_eq!(bucket.set_gate(GateState::Open, 1, true), GateChange::Set);
            let batch: Vec<ReserveRequest> = wishes.into_iter().map(request).collect();
            bucket.reserve(&batch, 10);

            let units = |chosen: &dyn Fn(&Hold) -> bool| -> u32 {
                bucket.orders.values().filter(|hold| chosen(hold)).map(|hold| hold.quantity.units()).sum()
            };
            for (sku, before) in &stock {
                prop_assert_eq!(bucket.stock[sku] + units(&|hold| hold.sku == *sku), *before);
            }
            for (user, held) in &bucket.buyers {
                prop_assert!(*held <= LIMIT);
                prop_assert_eq!(units(&|hold| hold.user == *user), *held);
            }
            prop_assert_eq!(bucket.outbox_orders(), bucket.orders.len());

            let after = bucket.clone();
            bucket.reserve(&batch, 10);
            prop_assert_eq!(bucket, after);
        }
    }
}
