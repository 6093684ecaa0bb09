//! Checks the buyer limit: the live units and the claims of every buyer.

use std::collections::BTreeMap;

use super::index::Index;
use super::{Findings, Rule};
use crate::ids::OrderId;

/// Checks every buyer's live units against the limit and against the claims.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    let limit = index.evidence.sale.buyer_limit;
    let mut live: BTreeMap<&str, i64> = BTreeMap::new();
    for row in index.rows.values().filter(|row| row.state.is_live()) {
        *live.entry(&row.user).or_default() += row.quantity;
    }
    for (user, units) in live.iter().filter(|(_, units)| **units > limit) {
        found.add(Rule::LimitExceeded, format!("{user} holds {units} units, the limit is {limit}"));
    }
    let claimed = check_claims(index, found);
    for row in index.rows.values().filter(|row| row.state.is_live()) {
        let claims = claimed.get(&row.id).copied().unwrap_or(0);
        found.check(claims == row.quantity, Rule::ClaimsDiffer, || {
            format!("{} has {} units and {claims} claims", row.id, row.quantity)
        });
    }
}

/// Checks each claim, and returns how many claims name each order.
fn check_claims(index: &Index<'_>, found: &mut Findings) -> BTreeMap<OrderId, i64> {
    let limit = index.evidence.sale.buyer_limit;
    let mut claimed: BTreeMap<OrderId, i64> = BTreeMap::new();
    for claim in &index.evidence.claims {
        *claimed.entry(claim.order).or_default() += 1;
        let row = index.rows.get(&claim.order);
        let is_held = row.is_some_and(|row| row.state.is_live() && row.user == claim.user);
        found.check(is_held, Rule::ClaimWithoutLiveOrder, || {
            let row = row.map(|row| (row.state.as_str(), &row.user));
            format!("unit {} of {} names {}, which is {row:?}", claim.unit, claim.user, claim.order)
        });
        found.check((0..limit).contains(&claim.unit), Rule::ClaimsDiffer, || {
            format!("{} claims unit {}, the limit is {limit}", claim.user, claim.unit)
        });
        let shard = index.evidence.layout.shard_of(&claim.user);
        found.check(claim.place.shard == shard, Rule::WrongShard, || {
            format!("a claim of {} in shard {}, its buyer is in {shard}", claim.user, claim.place.shard)
        });
    }
    claimed
}
