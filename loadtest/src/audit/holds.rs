//! Checks Redis against what MySQL decided: gates, available units, buyers and holds.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::index::Index;
use super::{Findings, Rule};
use crate::evidence::{BucketFacts, Hold, OrderRow};
use crate::ids::OrderId;
use crate::order_life;

/// Checks every bucket. The sums over all buckets are checked only when all is quiet and every bucket is in place.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    if index.evidence.sale.is_settled() {
        for (number, bucket) in index.buckets() {
            found.add(
                Rule::LeftAfterSettle,
                format!("bucket {number} has a gate {:?} and {} holds", bucket.gate, bucket.holds.len()),
            );
        }
        return;
    }
    let outbox = index.outbox_len();
    found.check(outbox == 0, Rule::OutboxNotEmpty, || format!("{outbox} entries wait for the order log"));
    for (number, bucket) in index.buckets().filter(|_| index.is_quiet()) {
        found.check(bucket.outbox_orders == 0, Rule::OutboxCountDiffers, || {
            format!("bucket {number} counts {} orders in an empty outbox", bucket.outbox_orders)
        });
    }
    check_gates(index, found);
    for (number, bucket) in index.buckets() {
        for (sku, units) in &bucket.stock {
            found.check(*units >= 0, Rule::RedisStockNegative, || {
                format!("{sku} in bucket {number}: {units}")
            });
        }
        for (id, hold) in &bucket.holds {
            check_hold(index, number, id, hold, found);
        }
    }
    if index.is_quiet() && index.is_whole_in_redis() {
        check_stock(index, found);
        check_buyers(index, found);
        check_live_rows(index, found);
    }
}

fn check_gates(index: &Index<'_>, found: &mut Findings) {
    let sale = &index.evidence.sale;
    let state = match sale.state.as_str() {
        "preheated" => "open",
        "paused" => "paused",
        // Before preheating and after the end a sale needs no gate.
        _ => return,
    };
    let expected = [
        ("state", state.to_owned()),
        ("opens_ms", sale.starts_ms.to_string()),
        ("closes_ms", sale.ends_ms.to_string()),
        ("buyer_limit", sale.buyer_limit.to_string()),
    ];
    let Some(buckets) = &index.evidence.buckets else {
        return;
    };
    for (number, bucket) in buckets.iter().enumerate() {
        let Some(bucket) = bucket else {
            found.add(
                Rule::GateDiffers,
                format!("bucket {number} has no gate though the sale is {}", sale.state),
            );
            continue;
        };
        let epoch =
            u16::try_from(number).ok().and_then(|number| sale.rebuilt.get(&number)).unwrap_or(&sale.epoch);
        for (field, value) in expected.iter().chain(&[("epoch", epoch.to_string())]) {
            let seen = bucket.gate.get(*field);
            found.check(seen == Some(value), Rule::GateDiffers, || {
                format!("bucket {number}: {field} is {seen:?}, the sale says {value}")
            });
        }
    }
}

fn check_hold(index: &Index<'_>, number: u16, id: &OrderId, hold: &Hold, found: &mut Findings) {
    let expected = index.evidence.layout.bucket_of(id.shard(), index.evidence.sale.buckets);
    found.check(number == expected, Rule::WrongBucket, || {
        format!("{id} is held in bucket {number}, its shard belongs to {expected}")
    });
    let Some(row) = index.rows.get(id) else {
        let is_explained = index.owed.contains(id) || !index.is_quiet();
        found.check(is_explained, Rule::HoldWithoutRow, || {
            format!("{id} of {} is {:?} in Redis and has no row", hold.user, hold.state)
        });
        return;
    };
    found.check(!(hold.released && row.state.is_live()), Rule::LiveOrderReleased, || {
        format!("{id} is {} and its units are on sale again", row.state.as_str())
    });
    let print = fingerprint(&row.sku, row.quantity, row.reference.as_deref());
    let agrees = (&hold.sku, &hold.user, hold.quantity) == (&row.sku, &row.user, row.quantity);
    found.check(agrees && hold.fingerprint == print, Rule::RedisHoldDiffers, || {
        format!("{id}: {hold:?}, row {} {} x{} {print}", row.user, row.sku, row.quantity)
    });
    found.check(may_stand(hold.state, row), Rule::RedisStateContradicts, || {
        format!("{id} is {:?} in Redis and {} in MySQL", hold.state, row.state.as_str())
    });
}

/// Returns whether a hold may have a state while its order has this row. Marking is best effort, and it
/// moves holds forward only: an older state may stay, and a state that contradicts the row may not appear.
fn may_stand(state: char, row: &OrderRow) -> bool {
    order_life::of_mark(state)
        .is_some_and(|mark| mark.pending || order_life::leads(&mark.state, row.state.as_str()))
}

/// Makes the fingerprint of a purchase: 16 hexadecimal digits over the SKU, the quantity and the reference of its
/// body.
pub fn fingerprint(sku: &str, quantity: i64, reference: Option<&str>) -> String {
    let units = u32::try_from(quantity).unwrap_or(0).to_be_bytes();
    let digest = Sha256::new().chain_update(sku).chain_update(b"\0").chain_update(units);
    let digest = digest.chain_update(reference.unwrap_or("")).finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn check_stock(index: &Index<'_>, found: &mut Findings) {
    for item in &index.evidence.sale.items {
        let in_bucket = |bucket: &BucketFacts| bucket.stock.get(&item.sku).copied().unwrap_or(0);
        let available: i64 = index.buckets().map(|(_, bucket)| in_bucket(bucket)).sum();
        let rows = index.rows.values().filter(|row| row.sku == item.sku && row.state.is_live());
        let live: i64 = rows.map(|row| row.quantity).sum();
        let ledgers = index.evidence.books.iter().flat_map(|books| &books.ledger);
        let withheld: i64 = ledgers.filter(|row| row.sku == item.sku).map(|row| row.withheld).sum();
        let owed = index.owed_units(|sku, _| sku == item.sku);
        let expected = item.stock - live - owed - withheld;
        found.check(available == expected, Rule::RedisStockDiffers, || {
            format!(
                "{}: {available} available, stock {} - live {live} - owed {owed} - withheld {withheld} = {expected}",
                item.sku, item.stock,
            )
        });
    }
}

fn check_buyers(index: &Index<'_>, found: &mut Findings) {
    // Each buyer's units in Redis, the units that should be there, and those that may be there, because a mark is best
    // effort.
    let mut units: BTreeMap<&str, (i64, i64, i64)> = BTreeMap::new();
    for (_, bucket) in index.buckets() {
        for (user, held) in &bucket.buyers {
            units.entry(user).or_default().0 += held;
        }
        for (id, hold) in bucket.holds.iter().filter(|(id, _)| index.owed.contains(id)) {
            let units = units.entry(&hold.user).or_default();
            let is_decided = index.rows.contains_key(id);
            let is_marked = order_life::of_mark(hold.state).is_some_and(|facts| facts.units.is_none());
            let is_pending = order_life::of_mark(hold.state).is_some_and(|facts| facts.pending);
            match (is_decided, is_marked && !is_pending) {
                // A dead letter keeps its units.
                (false, _) => units.1 += hold.quantity,
                (true, false) => units.2 += hold.quantity,
                (true, true) => {}
            }
        }
    }
    for row in index.rows.values().filter(|row| row.state.is_live()) {
        units.entry(&row.user).or_default().1 += row.quantity;
    }
    for (user, (held, expected, unmarked)) in units {
        let is_right = held == expected || held == expected + unmarked;
        found.check(is_right, Rule::RedisBuyersDiffer, || {
            format!("{user}: {held} units in Redis, {expected} should be there, and {unmarked} may be")
        });
    }
}

fn check_live_rows(index: &Index<'_>, found: &mut Findings) {
    for (id, row) in index.rows.iter().filter(|(_, row)| row.state.is_live()) {
        let is_held = index.buckets().any(|(_, bucket)| bucket.holds.contains_key(id));
        found.check(is_held, Rule::RowWithoutHold, || format!("{id} of {}", row.user));
    }
}
