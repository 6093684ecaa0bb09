//! What a bucket of the inventory is filled with when it is rebuilt of what the databases have (step 17).
//!
//! Invariant: the units that are for sale in all buckets, those that are under way and those of all live orders add up
//! to no more than the stock. Where the databases cannot say, a unit is not for sale.

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

/// Fills the buckets of a sale that are to be rebuilt. `elsewhere` are the units that its other buckets have: for sale,
/// under way, or in holds of any kind.
pub fn fill(
    sale: &Sale,
    map: &ShardMap,
    rebuilt: &BTreeSet<u16>,
    truth: &Truth,
    elsewhere: &BTreeMap<SkuId, i64>,
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
        let mut left = (i64::from(item.stock) - of(&truth.withheld) - of(elsewhere) - all_live).max(0);
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
