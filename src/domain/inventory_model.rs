//! One bucket of the inventory as plain rules: what the embedded mode decides with, and the readable
//! specification of `lua/*.lua`, which the distributed mode decides with. `tests/it/lua_model.rs` gives the scripts and this model the same random
//! commands and compares every answer and the whole state, so where the two differ, one of them is a bug.
//! Redis reads its own clock and names its own outbox entries; here the caller gives the time, and entries are
//! named by their number.
//!
//! Invariant: nothing here makes or loses units. What is available plus what orders were given is what was put
//! in place, and no buyer holds more than the limit that was in force at their last reservation.

use std::collections::BTreeMap;

use super::ids::{OrderId, SaleId, SkuId, UserId};
use super::money::Quantity;
use super::order::OrderState;
use super::reservation::{Fingerprint, OutboxEntryId, Reservation, ReserveRequest, Verdict};

/// The six keys of a bucket. Fields are open: a test also loses, damages and renews a gate, which no script
/// does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bucket {
    pub gate: Option<Gate>,
    /// Available units. Only SKUs that were put in place are in it.
    pub stock: BTreeMap<SkuId, u32>,
    /// Live units of each buyer, over all SKUs.
    pub buyers: BTreeMap<UserId, u32>,
    /// Every order ever held.
    pub orders: BTreeMap<OrderId, Hold>,
    /// Oldest first.
    pub outbox: Vec<Accepted>,
    /// How many outbox entries there ever were; the next one gets the next number. The number of orders in those
    /// that are left, which has a key of its own in Redis, is [`Bucket::outbox_orders`].
    pub entries_made: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    pub epoch: u32,
    pub state: GateState,
    /// Version of the sale that set the state last; `None` since it was put in place.
    pub version: Option<u64>,
    /// `None` when one of them cannot be read: such a gate is shut.
    pub terms: Option<Terms>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateState {
    Open,
    Paused,
    Ended,
    /// Anything else: damaged, or written by a newer version.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    pub opens_ms: i64,
    /// Exclusive.
    pub closes_ms: i64,
    pub buyer_limit: u32,
    /// From when on the gate is shut; 0 means that no guard renews a lease for it.
    pub lease_ms: i64,
}

/// An order as it stands in the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub state: OrderState,
    pub fingerprint: Fingerprint,
    pub quantity: Quantity,
    pub reserved_ms: i64,
    pub sku: SkuId,
    pub user: UserId,
}

impl Hold {
    pub fn reservation(&self, sale: &SaleId, id: OrderId) -> Reservation {
        let Self { state, quantity, reserved_ms, .. } = *self;
        let (sku, user) = (self.sku.clone(), self.user.clone());
        Reservation { id, sale: sale.clone(), state, sku, user, quantity, reserved_ms }
    }
}

/// An outbox entry: what one call accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub entry: OutboxEntryId,
    /// The epoch in which it was accepted.
    pub epoch: u32,
    /// In the order of the requests.
    pub orders: Vec<OrderId>,
}

/// What `preheat.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preheated {
    Created,
    /// A gate of this epoch stands already, whatever its terms and state.
    Exists,
    /// A gate of another epoch stands.
    Conflict,
}

/// What `gate.lua` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GateChange {
    Set,
    /// The gate was set by a newer version of the sale.
    Older,
    Missing,
    /// The gate stands in another epoch.
    Conflict,
}

impl Bucket {
    /// `preheat.lua`: puts stock and an open gate in place, unless there is a gate. Stock that was left without
    /// a gate is replaced; orders, buyers and outbox stay.
    pub fn preheat(&mut self, epoch: u32, terms: Terms, stock: &BTreeMap<SkuId, u32>) -> Preheated {
        if let Some(gate) = &self.gate {
            return if gate.epoch == epoch { Preheated::Exists } else { Preheated::Conflict };
        }
        self.stock = stock.clone();
        self.gate = Some(Gate { epoch, state: GateState::Open, version: None, terms: Some(terms) });
        Preheated::Created
    }

    /// `gate.lua`: sets the gate's state, never back to what an older version of the sale said.
    pub fn set_gate(&mut self, epoch: u32, state: GateState, version: u64) -> GateChange {
        match &mut self.gate {
            None => GateChange::Missing,
            Some(gate) if gate.epoch != epoch => GateChange::Conflict,
            Some(gate) if gate.version.is_some_and(|newest| version < newest) => GateChange::Older,
            Some(gate) => {
                gate.state = state;
                gate.version = Some(version);
                GateChange::Set
            }
        }
    }

    /// `reserve.lua`: one verdict per request, in order; each request sees what the ones before it took.
    /// `epoch` is the one the caller believes in.
    pub fn reserve(&mut self, epoch: u32, batch: &[ReserveRequest], now_ms: i64) -> Vec<Verdict> {
        let admission = self.admission(epoch, now_ms);
        let entry = OutboxEntryId((self.entries_made + 1).to_string());
        let mut accepted = Accepted { entry, epoch, orders: Vec::new() };
        let decide = |request| self.reserve_one(&admission, request, now_ms, &mut accepted);
        let verdicts = batch.iter().map(decide).collect();
        if !accepted.orders.is_empty() {
            self.entries_made += 1;
            self.outbox.push(accepted);
        }
        verdicts
    }

    /// What the gate says to every new order: the buyer limit when it lets them pass, or why it does not.
    ///
    /// # Errors
    /// The verdict that every new order gets.
    pub fn admission(&self, epoch: u32, now_ms: i64) -> Result<u32, Verdict> {
        let gate = self.gate.as_ref().ok_or(Verdict::GateShut)?;
        if gate.epoch != epoch {
            return Err(Verdict::StaleEpoch);
        }
        let terms = gate.terms.ok_or(Verdict::GateShut)?;
        let is_leased = terms.lease_ms <= 0 || now_ms < terms.lease_ms;
        match gate.state {
            GateState::Ended => Err(Verdict::Ended),
            _ if now_ms >= terms.closes_ms => Err(Verdict::Ended),
            GateState::Paused => Err(Verdict::Paused),
            GateState::Unknown => Err(Verdict::GateShut),
            GateState::Open if !is_leased => Err(Verdict::GateShut),
            GateState::Open if now_ms < terms.opens_ms => Err(Verdict::NotStarted),
            GateState::Open => Ok(terms.buyer_limit),
        }
    }

    /// A known order is answered whatever the gate says: its buyer asks again for an answer that was lost.
    fn reserve_one(
        &mut self,
        admission: &Result<u32, Verdict>,
        request: &ReserveRequest,
        now_ms: i64,
        accepted: &mut Accepted,
    ) -> Verdict {
        let record = &request.record;
        if let Some(hold) = self.orders.get(&record.order_id) {
            if hold.fingerprint != request.fingerprint {
                return Verdict::KeyReused;
            }
            return Verdict::Replayed(hold.reservation(&record.sale_id, record.order_id));
        }
        let limit = match admission {
            Ok(limit) => *limit,
            Err(verdict) => return verdict.clone(),
        };
        let units = record.quantity.units();
        let held = self.buyers.get(&record.user_id).copied().unwrap_or(0);
        if held + units > limit {
            return Verdict::LimitReached { held };
        }
        let orders_seen = u64::try_from(self.orders.len()).unwrap_or(u64::MAX);
        let Some(available) = self.stock.get_mut(&record.sku_id) else {
            return Verdict::UnknownSku;
        };
        if *available < units {
            return Verdict::SoldOut { available: *available, orders_seen };
        }
        *available -= units;
        accepted.orders.push(record.order_id);
        self.hold(request, held + units, now_ms);
        Verdict::Reserved { outbox_entry: accepted.entry.clone() }
    }

    fn hold(&mut self, request: &ReserveRequest, held: u32, now_ms: i64) {
        let record = &request.record;
        let hold = Hold {
            state: OrderState::Reserved,
            fingerprint: request.fingerprint,
            quantity: record.quantity,
            reserved_ms: now_ms,
            sku: record.sku_id.clone(),
            user: record.user_id.clone(),
        };
        self.orders.insert(record.order_id, hold);
        self.buyers.insert(record.user_id.clone(), held);
    }

    /// `acknowledge.lua`: the order log has the records of `orders`. Then removes those of `entries` in which no
    /// order is merely reserved, whoever marked the others. Answers how many entries it removed.
    pub fn acknowledge(&mut self, orders: &[OrderId], entries: &[OutboxEntryId]) -> usize {
        for order in orders {
            if let Some(hold) = self.orders.get_mut(order).filter(|hold| hold.state == OrderState::Reserved) {
                hold.state = OrderState::Queued;
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

    /// Orders in all outbox entries.
    pub fn outbox_orders(&self) -> usize {
        self.outbox.iter().map(|accepted| accepted.orders.len()).sum()
    }

    /// `settle.lua`: marks what MySQL decided. Answers how many orders it marked; only a pending one is, so
    /// that a late mark never hides a newer state.
    pub fn settle(&mut self, decided: &[(OrderId, OrderState)]) -> usize {
        let mut marked = 0;
        for (order, state) in decided {
            if let Some(hold) = self.orders.get_mut(order).filter(|hold| hold.state.is_pending()) {
                hold.state = *state;
                marked += 1;
            }
        }
        marked
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{IdempotencyKey, Money, Month, OrderRecord, Shard};

    const LIMIT: u32 = 5;

    /// Which user, key, SKU and quantity.
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
            epoch: 1,
            accepted_ms: 1,
            decided: None,
        };
        ReserveRequest { fingerprint: Fingerprint::of(&record.sku_id, quantity), record }
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
            let terms = Terms { opens_ms: 10, closes_ms: 20, buyer_limit: LIMIT, lease_ms: 0 };
            let mut bucket = Bucket::default();
            prop_assert_eq!(bucket.preheat(1, terms, &stock), Preheated::Created);
            let batch: Vec<ReserveRequest> = wishes.into_iter().map(request).collect();
            bucket.reserve(1, &batch, 10);

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
            bucket.reserve(1, &batch, 10);
            prop_assert_eq!(bucket, after);
        }
    }
}
