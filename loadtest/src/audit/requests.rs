//! Checks the buyers' side: what was answered, against what stands in the stores.

use std::collections::{BTreeMap, BTreeSet};

use super::index::Index;
use super::{Findings, Rule};
use crate::evidence::{OrderRow, RowState};
use crate::ids::OrderId;
use crate::journal::{Class, Entry};
use crate::order_life;

/// Checks the journal's entries of this sale against the rows, when there is a journal.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    let Some(journal) = &index.evidence.journal else {
        return;
    };
    let entries: Vec<&Entry> = journal.iter().filter(|entry| entry.sale == index.evidence.sale.id).collect();
    check_ids(index, &entries, found);
    let mut requests: BTreeMap<OrderId, Vec<&Entry>> = BTreeMap::new();
    for entry in &entries {
        requests.entry(derived(index, entry)).or_default().push(entry);
    }
    check_answers(index, &requests, found);
    requests.values().for_each(|same_key| check_story(same_key, found));
    if index.is_quiet() && index.is_whole_in_redis() {
        check_refusals(index, &entries, found);
    }
    for (id, row) in &index.rows {
        match requests.get(id) {
            Some(same_key) => check_row(row, same_key, found),
            None => found.check(index.evidence.before.contains(id), Rule::RowWithoutRequest, || {
                format!("{id} of {}: nobody asked for it", row.user)
            }),
        }
    }
}

fn derived(index: &Index<'_>, entry: &Entry) -> OrderId {
    let shard = index.evidence.layout.shard_of(&entry.user);
    OrderId::derive(shard, index.month, &entry.sale, &entry.user, &entry.key)
}

/// Checks the ids in the answers: each is the one that its key derives, a key gets one id, and an id has one key.
fn check_ids(index: &Index<'_>, entries: &[&Entry], found: &mut Findings) {
    let mut by_key: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut by_id: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.class.is_accepted()) {
        let id = entry.order_id.as_deref().unwrap_or("");
        let key = (entry.user.as_str(), entry.key.as_str());
        let first_id = *by_key.entry(key).or_insert(id);
        let first_key = *by_id.entry(id).or_insert(key);
        // One fault makes one finding: an id that belongs to another key is not also reported as not derived.
        if first_id != id {
            found.add(Rule::KeyHasTwoOrders, format!("{key:?} got {first_id} and {id}"));
        } else if first_key != key {
            found.add(Rule::KeysShareOrder, format!("{first_key:?} and {key:?} got {id}"));
        } else {
            let expected = derived(index, entry);
            found.check(OrderId::parse(id) == Some(expected), Rule::AnswerIdDiffers, || {
                format!("{key:?} got {id:?}, derived is {expected}")
            });
        }
    }
}

fn check_answers(index: &Index<'_>, requests: &BTreeMap<OrderId, Vec<&Entry>>, found: &mut Findings) {
    for (id, same_key) in requests {
        let accepted = same_key.iter().filter(|entry| entry.class.is_accepted()).count();
        let won = same_key.iter().filter(|entry| entry.class == Class::Won).count();
        found.check(won <= 1, Rule::AcceptedTwice, || {
            format!("{id} of {}: {won} answers that do not say they are replays", same_key[0].user)
        });
        let stands = index.rows.contains_key(id);
        found.check(accepted == 0 || stands || !index.is_quiet(), Rule::AcceptedWithoutRow, || {
            format!("{id} of {} was accepted and has no row", same_key[0].user)
        });
    }
}

/// Checks that the answers to one key tell one story: one time of acceptance, one decision, and no refusal by the stock
/// or the limit of what was answered as accepted before.
fn check_story(same_key: &[&Entry], found: &mut Findings) {
    let accepted = || same_key.iter().filter(|entry| entry.class.is_accepted());
    let Some(first) = accepted().min_by_key(|entry| entry.answered_us()) else { return };
    let user = &first.user;
    let times: BTreeSet<&str> = accepted().filter_map(|entry| entry.accepted_at.as_deref()).collect();
    found.check(times.len() <= 1, Rule::ReplayDiffers, || format!("{user} was accepted at {times:?}"));
    let decided = accepted().filter_map(|entry| entry.order_status.as_deref());
    let decided: BTreeSet<&str> = decided.filter(|status| RowState::parse(status).is_some()).collect();
    let is_one =
        decided.iter().all(|a| decided.iter().all(|b| order_life::leads(a, b) || order_life::leads(b, a)));
    found.check(is_one, Rule::ReplayDiffers, || format!("the order of {user} was {decided:?}"));
    let refused = |entry: &&&Entry| {
        matches!(entry.class, Class::SoldOut | Class::Limited) && entry.sent_us() > first.answered_us()
    };
    if let Some(refused) = same_key.iter().find(refused) {
        let class = refused.class.as_str();
        found.add(Rule::ReplayDiffers, format!("{user} was accepted, and heard {class} afterwards"));
    }
}

/// Returns the units of a SKU that were left all the time: those that are left at the end and did not come back.
fn left(index: &Index<'_>, sku: &str) -> i64 {
    let available: i64 = index.buckets().filter_map(|(_, bucket)| bucket.stock.get(sku)).sum();
    (available - index.returned_units(sku)).max(0)
}

/// Checks the refusals against what was left all the time.
fn check_refusals(index: &Index<'_>, entries: &[&Entry], found: &mut Findings) {
    // An order that was rejected in the end was held when the limit was told.
    let mut held: BTreeMap<&str, i64> = BTreeMap::new();
    for hold in index.buckets().flat_map(|(_, bucket)| bucket.holds.values()) {
        *held.entry(&hold.user).or_default() += hold.quantity;
    }
    let mut given_up: BTreeMap<&str, i64> = BTreeMap::new();
    for row in index.rows.values().filter(|row| matches!(row.state, RowState::Cancelled | RowState::Expired))
    {
        *given_up.entry(&row.user).or_default() += 1;
    }
    // Buyers who come again and again hear it a million times.
    let mut left_of: BTreeMap<&str, i64> = BTreeMap::new();
    for entry in entries {
        let quantity = i64::from(entry.quantity);
        match entry.class {
            Class::SoldOut => {
                let left = *left_of.entry(&entry.sku).or_insert_with(|| left(index, &entry.sku));
                let is_true =
                    if entry.code.as_deref() == Some("fewer_left") { left < quantity } else { left == 0 };
                found.check(is_true, Rule::RefusedThoughLeft, || {
                    let code = entry.code.as_deref().unwrap_or_default();
                    format!(
                        "{} heard {code} for {quantity} of {}, and {left} are left",
                        entry.user, entry.sku
                    )
                });
            }
            Class::Limited => {
                let limit = index.evidence.sale.buyer_limit;
                let held = held.get(entry.user.as_str()).copied().unwrap_or(0);
                found.check(held + quantity > limit, Rule::LimitNotReached, || {
                    format!("{} wanted {quantity}, and holds {held} of {limit}", entry.user)
                });
            }
            Class::Unpaid => {
                let most = index.evidence.sale.unpaid_max;
                let given_up = given_up.get(entry.user.as_str()).copied().unwrap_or(0);
                found.check(most > 0 && given_up >= most, Rule::UnpaidMaxNotReached, || {
                    format!("{} has given up {given_up} orders of {most}", entry.user)
                });
            }
            _ => {}
        }
    }
}

fn check_row(row: &OrderRow, same_key: &[&Entry], found: &mut Findings) {
    let stands = (&row.sku, row.quantity, &row.reference);
    let asked = |entry: &Entry| (&entry.sku, i64::from(entry.quantity), &entry.reference) == stands;
    found.check(same_key.iter().any(|entry| asked(entry)), Rule::RowDiffersFromRequest, || {
        let Entry { sku, quantity, reference, .. } = same_key[0];
        format!("{} is {stands:?}, asked for {:?}", row.id, (sku, quantity, reference))
    });
    found.check(!same_key.iter().all(|entry| entry.class.is_refused()), Rule::RefusedButPersisted, || {
        let answers: Vec<&str> = same_key.iter().map(|entry| entry.class.as_str()).collect();
        format!("{} of {} is {}; answered {answers:?}", row.id, row.user, row.state.as_str())
    });
}
