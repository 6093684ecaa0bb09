//! Checks the order rows: where they stand, what they say, and their moves.

use std::collections::{BTreeMap, BTreeSet};

use super::index::Index;
use super::{Findings, Rule};
use crate::evidence::{Action, OrderRow, RowState};
use crate::ids::{OrderId, yyyymm};
use crate::order_life;

/// How long after an operator's pause or end an order may still be accepted: the buckets are told one after the other,
/// and the audit log has another clock than the buckets.
const SHUT_WITHIN_MS: i64 = 5_000;
/// How far that clock may be ahead when a sale is resumed.
const CLOCKS_APART_MS: i64 = 5_000;

/// Checks the place, the content and the moves of every row.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    let mut places: BTreeMap<OrderId, Vec<&OrderRow>> = BTreeMap::new();
    for row in &index.evidence.rows {
        places.entry(row.id).or_default().push(row);
        check_place(index, row, found);
        check_content(index, row, found);
    }
    for (id, rows) in places.iter().filter(|(_, rows)| rows.len() > 1) {
        let seen: Vec<String> =
            rows.iter().map(|row| format!("shard {} orders_{}", row.place.shard, row.yyyymm)).collect();
        found.add(Rule::DuplicateOrder, format!("{id} stands in {}", seen.join(" and ")));
    }
    check_shut(index, found);
    check_moves(index, found);
    check_expiry(index, found);
}

fn check_place(index: &Index<'_>, row: &OrderRow, found: &mut Findings) {
    let layout = index.evidence.layout;
    let at = row.place.shard;
    let of_user = layout.shard_of(&row.user);
    found.check(at == row.id.shard() && at == of_user, Rule::WrongShard, || {
        format!("{} in shard {at}; its id names {}, its buyer {of_user}", row.id, row.id.shard())
    });
    let named = row.id.month();
    let in_month = named == index.month && row.yyyymm == yyyymm(named);
    found.check(in_month, Rule::WrongMonth, || {
        let (named, sale) = (yyyymm(named), yyyymm(index.month));
        format!("{} in orders_{}; its id names {named}, its sale {sale}", row.id, row.yyyymm)
    });
    let owner = index.evidence.servers.get(usize::from(layout.instance_of(at)));
    found.check(owner.is_some_and(|server| **server == *row.place.server), Rule::WrongInstance, || {
        format!("{} of shard {at} on {}; owned by {owner:?}", row.id, row.place.server)
    });
}

fn check_content(index: &Index<'_>, row: &OrderRow, found: &mut Findings) {
    let item = index.item(&row.sku);
    let priced =
        item.is_some_and(|item| (item.unit_price, &item.currency) == (row.unit_price, &row.currency));
    found.check(priced, Rule::PriceDiffers, || {
        let item = item.map(|item| format!("{} {}", item.unit_price, item.currency));
        format!("{} {}: row {} {}, item {item:?}", row.id, row.sku, row.unit_price, row.currency)
    });
    let has_reason = row.reason.is_some();
    found.check((row.state == RowState::Rejected) == has_reason, Rule::ReasonDiffers, || {
        format!("{} is {} with reason {:?}", row.id, row.state.as_str(), row.reason)
    });
    let sale = &index.evidence.sale;
    found.check(row.accepted_ms >= sale.starts_ms, Rule::AcceptedBeforeOpening, || {
        format!("{} was accepted {} ms before the opening", row.id, sale.starts_ms - row.accepted_ms)
    });
    found.check(row.accepted_ms < sale.ends_ms, Rule::AcceptedAfterEnd, || {
        format!("{} was accepted {} ms after the end", row.id, row.accepted_ms - sale.ends_ms)
    });
    let due_ms = row.created_ms + sale.payment_window_ms;
    let was_never_due =
        row.expires_ms == row.created_ms && matches!(row.state, RowState::Cancelled | RowState::Rejected);
    found.check(row.expires_ms == due_ms || was_never_due, Rule::ExpiryDiffers, || {
        format!("{} is due at {}, and {due_ms} is one window after its row", row.id, row.expires_ms)
    });
}

/// Checks that nothing was accepted while operators had the sale shut.
fn check_shut(index: &Index<'_>, found: &mut Findings) {
    let sale = &index.evidence.sale;
    let shut = shut_times(&sale.actions, sale.is_shut().then_some(sale.read_ms));
    for row in &index.evidence.rows {
        let during = shut.iter().find(|(from, to)| (*from..*to).contains(&row.accepted_ms));
        found.check(during.is_none(), Rule::AcceptedWhileShut, || {
            format!("{} was accepted at {}, shut was {during:?}", row.id, row.accepted_ms)
        });
    }
}

/// Lists the times in which a sale was certainly shut, from the first ms to the one after the last. `until_ms` is when
/// the sale was seen shut; `None` when it was seen selling. It may have been resumed since.
fn shut_times(actions: &[Action], until_ms: Option<i64>) -> Vec<(i64, i64)> {
    let mut times = Vec::new();
    let mut since = None;
    for action in actions {
        match action.word.as_str() {
            "pause" | "end" => since = since.or(Some(action.at_ms)),
            "resume" => {
                times.extend(since.take().map(|at_ms| (at_ms, action.at_ms - CLOCKS_APART_MS)));
            }
            _ => {}
        }
    }
    times.extend(since.zip(until_ms));
    times.into_iter().map(|(from, to)| (from + SHUT_WITHIN_MS, to)).filter(|(from, to)| from < to).collect()
}

fn check_moves(index: &Index<'_>, found: &mut Findings) {
    let mut moves: BTreeMap<OrderId, Vec<(&str, u16)>> = BTreeMap::new();
    for step in &index.evidence.moves {
        moves.entry(step.order).or_default().push((&step.kind, step.place.shard));
    }
    for (id, row) in &index.rows {
        let seen = moves.get(id).map_or(&[][..], Vec::as_slice);
        let kinds: BTreeSet<&str> = seen.iter().map(|(kind, _)| *kind).collect();
        let in_place = seen.iter().all(|(_, shard)| *shard == row.place.shard);
        let once = kinds.len() == seen.len();
        let expected = order_life::moves_to(row.state.as_str()).contains(&kinds);
        found.check(in_place && once && expected, Rule::MovesDiffer, || {
            format!("{id} is {} with moves (kind, shard) {seen:?}", row.state.as_str())
        });
    }
    for (id, seen) in moves.iter().filter(|(id, _)| !index.rows.contains_key(id)) {
        found.add(Rule::MoveWithoutRow, format!("{id} has moves {seen:?} and no row"));
    }
}

fn check_expiry(index: &Index<'_>, found: &mut Findings) {
    for step in index.evidence.moves.iter().filter(|step| step.kind == RowState::Expired.as_str()) {
        let due_ms = index.rows.get(&step.order).map(|row| row.expires_ms);
        let is_early = due_ms.is_some_and(|due_ms| step.at_ms < due_ms);
        found.check(!is_early, Rule::ExpiredEarly, || {
            format!("{} expired at {}, its payment was due at {due_ms:?}", step.order, step.at_ms)
        });
    }
}
