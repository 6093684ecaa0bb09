//! What a bucket of the inventory is filled with when it is rebuilt of what the databases have (step 17).
//!
//! Invariant: the units that are for sale in all buckets, those that are under way and those of all live orders add up
//! to no more than the stock. Where the databases cannot say, a unit is not for sale.
//!
//! While a bucket waits for a database that is down, nobody knows what it has. The others get what the databases that
//! answer may still sell by themselves then, and the bucket gets the rest when it is rebuilt.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{Reference, SkuId, UserId};
use super::inventory_model::{Bucket, Hold};
use super::money::Quantity;
use super::order_id::OrderId;
use super::order_life::OrderState;
use super::reservation::Fingerprint;
use super::sale::Sale;
use super::shard::ShardMap;

/// What the databases have of a sale.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// Its orders: those that have a row, and those whose records are dead letters that nobody has decided.
    pub orders: Vec<TrueOrder>,
    /// Units of refunded orders that nobody may buy.
    pub withheld: BTreeMap<SkuId, i64>,
    /// Units that no order has in these databases, in their pools and ledgers. Those on their way between databases are
    /// not among them.
    pub free: BTreeMap<SkuId, i64>,
    /// Whether these are all databases.
    pub is_whole: bool,
}

/// What the buckets of a sale have that are not rebuilt now.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Elsewhere {
    /// Their units: for sale, under way, or in holds of any kind.
    pub units: BTreeMap<SkuId, i64>,
    /// Whether one of them has lost something, too, so that nobody knows what it has.
    pub is_partly_lost: bool,
}

/// What the databases have of one order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrueOrder {
    /// The order.
    pub id: OrderId,
    /// Its buyer.
    pub user: UserId,
    /// What was bought.
    pub sku: SkuId,
    /// How many units were bought.
    pub quantity: Quantity,
    /// Its state: [`OrderState::Queued`] of a dead letter, `None` for a state that this version does not know.
    pub state: Option<OrderState>,
    /// When it was accepted, ms since 1970.
    pub accepted_ms: i64,
    /// The shop's own name for it.
    pub reference: Option<Reference>,
}

impl Truth {
    /// Counts the units of orders that have no row.
    fn queued(&self, sku: &SkuId) -> i64 {
        let of_sku = |order: &&TrueOrder| order.sku == *sku && order.state == Some(OrderState::Queued);
        self.orders.iter().filter(of_sku).map(|order| i64::from(order.quantity.units())).sum()
    }
}

impl TrueOrder {
    /// Answers whether it may hold its units. An order in a state that this version does not know may.
    fn is_live(&self) -> bool {
        self.state.is_none_or(|state| !state.holds_nothing())
    }

    fn hold(&self) -> Hold {
        Hold {
            state: self.state.unwrap_or(OrderState::AwaitingPayment),
            fingerprint: Fingerprint::of(&self.sku, self.quantity, self.reference.as_ref()),
            quantity: self.quantity,
            reserved_ms: self.accepted_ms,
            sku: self.sku.clone(),
            user: self.user.clone(),
            reference: self.reference.clone(),
            // Its units are for sale again with the bucket. What the inventory is still owed of it changes nothing.
            is_released: !self.is_live(),
        }
    }
}

/// Fills the buckets of a sale that are to be rebuilt. `truth` is that of the databases that have their orders, and of
/// all databases unless other buckets are lost, too.
pub fn fill(
    sale: &Sale,
    map: &ShardMap,
    rebuilt: &BTreeSet<u16>,
    truth: &Truth,
    elsewhere: &Elsewhere,
) -> BTreeMap<u16, Bucket> {
    let mut buckets: BTreeMap<u16, Bucket> =
        rebuilt.iter().map(|bucket| (*bucket, Bucket::default())).collect();
    // Units of live orders, by bucket and SKU.
    let mut live: BTreeMap<(u16, SkuId), i64> = BTreeMap::new();
    for order in &truth.orders {
        let number = map.bucket_of(order.id.shard(), sale.buckets);
        let Some(bucket) = buckets.get_mut(&number) else { continue };
        let held = bucket.buyers.entry(order.user.clone()).or_default();
        if order.is_live() {
            *held += order.quantity.units();
            *live.entry((number, order.sku.clone())).or_default() += i64::from(order.quantity.units());
        }
        if matches!(order.state, Some(OrderState::Cancelled | OrderState::Expired)) {
            *bucket.unpaid.entry(order.user.clone()).or_default() += 1;
        }
        bucket.orders.insert(order.id, order.hold());
    }
    for item in &sale.items {
        let of = |units: &BTreeMap<SkuId, i64>| units.get(&item.sku_id).copied().unwrap_or(0);
        let live_in = |bucket: u16| live.get(&(bucket, item.sku_id.clone())).copied().unwrap_or(0);
        let all_live: i64 = rebuilt.iter().map(|bucket| live_in(*bucket)).sum();
        let mut left = i64::from(item.stock) - of(&truth.withheld) - all_live - of(&elsewhere.units);
        // What a database that is down withholds is not known. The others give no more than what they have.
        let free = of(&truth.free) - truth.queued(&item.sku_id);
        if !truth.is_whole {
            left = left.min(free);
        }
        if elsewhere.is_partly_lost {
            // What another lost bucket has is not known either, or what is on its way to it.
            let shares: i64 = rebuilt.iter().map(|bucket| i64::from(sale.bucket_stock(item, *bucket))).sum();
            left = left.min(free - of(&elsewhere.units)).min(shares - all_live);
        }
        left = left.max(0);
        // Each bucket gets what it would have of its own share, and the first ones what remains.
        for (number, bucket) in &mut buckets {
            let share = i64::from(sale.bucket_stock(item, *number)) - live_in(*number);
            let units = share.clamp(0, left);
            left -= units;
            bucket.stock.insert(item.sku_id.clone(), u32::try_from(units).unwrap_or(0));
        }
        if let Some(units) = buckets.values_mut().next().and_then(|bucket| bucket.stock.get_mut(&item.sku_id))
        {
            *units = units.saturating_add(u32::try_from(left).unwrap_or(0));
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{IdempotencyKey, Item, Money, SaleId, SaleState};

    fn sale(buckets: u16, stock: u32) -> Sale {
        let price = Money::new(100, "CNY").expect("a price");
        let sku_id = SkuId::parse("phone").expect("a slug");
        Sale {
            id: SaleId::parse("drop").expect("a slug"),
            name: "Drop".to_owned(),
            state: SaleState::Preheated,
            starts_ms: 1,
            ends_ms: 2,
            buyer_limit: 9,
            unpaid_max: 3,
            access: crate::domain::Access::default(),
            payment_window_ms: 1,
            buckets,
            epoch: 1,
            in_place: true,
            version: 1,
            items: vec![Item { sku_id, name: "Phone".to_owned(), stock, price }],
        }
    }

    fn order(map: &ShardMap, sale: &Sale, (user, units, state): (u16, u32, usize)) -> TrueOrder {
        let states = [
            Some(OrderState::Queued),
            Some(OrderState::AwaitingPayment),
            Some(OrderState::Paid),
            Some(OrderState::Cancelled),
            Some(OrderState::Expired),
            Some(OrderState::Refunded),
            Some(OrderState::Rejected),
            None,
        ];
        let user = UserId::parse(&format!("u{user}")).expect("a user");
        let key = IdempotencyKey::parse(&format!("k{units}-{state}")).expect("a key");
        TrueOrder {
            id: OrderId::derive(map.shard_of(&user), sale.month(), &sale.id, &user, &key),
            user,
            sku: sale.items[0].sku_id.clone(),
            quantity: Quantity::new(units).expect("a quantity"),
            state: states[state],
            accepted_ms: 7,
            reference: None,
        }
    }

    proptest! {
        #[test]
        fn what_is_for_sale_and_what_is_held_is_no_more_than_the_stock(
            orders in prop::collection::vec((0u16..20, 1u32..=4, 0usize..8), 0..40),
            (stock, withheld, elsewhere) in (0u32..120, 0i64..10, 0i64..10),
            rebuilt in prop::collection::btree_set(0u16..4, 1..=4),
            (free, is_partly_lost, is_whole) in (0i64..60, any::<bool>(), any::<bool>()),
        ) {
            let map = ShardMap::new(8, 4, 2).expect("a map");
            let sale = sale(4, stock);
            let sku = sale.items[0].sku_id.clone();
            let mut truth = Truth::default();
            for wish in orders {
                let order = order(&map, &sale, wish);
                if truth.orders.iter().all(|known| known.id != order.id) {
                    truth.orders.push(order);
                }
            }
            truth.withheld.insert(sku.clone(), withheld);
            truth.free.insert(sku.clone(), free);
            truth.is_whole = is_whole;
            let units = BTreeMap::from([(sku.clone(), elsewhere)]);
            let buckets = fill(&sale, &map, &rebuilt, &truth, &Elsewhere { units, is_partly_lost });
            prop_assert_eq!(buckets.keys().copied().collect::<BTreeSet<_>>(), rebuilt);

            let of = |order: &TrueOrder| buckets.get(&map.bucket_of(order.id.shard(), sale.buckets));
            let here: Vec<&TrueOrder> = truth.orders.iter().filter(|order| of(order).is_some()).collect();
            let live = |order: &&&TrueOrder| order.is_live();
            let held: i64 = here.iter().filter(live).map(|order| i64::from(order.quantity.units())).sum();
            let for_sale: i64 = buckets.values().map(|bucket| i64::from(bucket.stock[&sku])).sum();
            let shares = |bucket: &u16| i64::from(sale.bucket_stock(&sale.items[0], *bucket));
            let free = free - truth.queued(&sku);
            let mut left = i64::from(stock) - withheld - held - elsewhere;
            if !is_whole {
                left = left.min(free);
            }
            if is_partly_lost {
                left = left.min(free - elsewhere).min(buckets.keys().map(shares).sum::<i64>() - held);
            }
            prop_assert_eq!(for_sale, left.max(0), "no unit is made, and none that is free is kept back");

            let buyers: u32 = buckets.values().flat_map(|bucket| bucket.buyers.values()).sum();
            prop_assert_eq!(i64::from(buyers), held);
            for order in here {
                let hold = &of(order).expect("here").orders[&order.id];
                prop_assert_eq!(hold.is_released, !order.is_live());
                prop_assert_eq!((&hold.user, hold.quantity, hold.reserved_ms), (&order.user, order.quantity, 7));
            }
            for bucket in buckets.values() {
                // Redis keeps no empty hash, and who has orders must have a field.
                prop_assert!(bucket.orders.values().all(|hold| bucket.buyers.contains_key(&hold.user)));
            }
        }
    }
}
