//! Checks the units: stock, pools, grants, ledgers and live orders must all agree.

use std::collections::BTreeSet;

use super::index::Index;
use super::{Findings, Rule};
use crate::evidence::{GrantRow, InstanceBooks, ItemFacts, LedgerRow, RowState};

/// Checks the units of every item on every instance.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    for item in &index.evidence.sale.items {
        let live: i64 = units(index, item, None, |state| state.is_live());
        found.check(live <= item.stock, Rule::SoldOverStock, || {
            format!("{}: {live} live units of a stock of {}", item.sku, item.stock)
        });
        check_pools(index, item, found);
        for (instance, books) in (0u16..).zip(&index.evidence.books) {
            check_ledger(index, item, instance, books, found);
        }
    }
    check_released(index, found);
}

/// Sums the units of the item's rows whose state is wanted, on one instance or on all.
fn units(
    index: &Index<'_>,
    item: &ItemFacts,
    instance: Option<u16>,
    wanted: impl Fn(RowState) -> bool,
) -> i64 {
    let here = |shard: u16| instance.is_none_or(|i| index.evidence.layout.instance_of(shard) == i);
    let rows = index.evidence.rows.iter().filter(|row| row.sku == item.sku && wanted(row.state));
    rows.filter(|row| here(row.place.shard)).map(|row| row.quantity).sum()
}

fn check_pools(index: &Index<'_>, item: &ItemFacts, found: &mut Findings) {
    let layout = index.evidence.layout;
    let is_opened = matches!(index.evidence.sale.state.as_str(), "preheated" | "paused");
    let is_sold = index.evidence.rows.iter().any(|row| row.sku == item.sku);
    let has_pool = |books: &InstanceBooks| books.pools.iter().any(|pool| pool.sku == item.sku);
    if !is_opened && !is_sold && !index.evidence.books.iter().any(has_pool) {
        return;
    }
    for (instance, books) in (0u16..).zip(&index.evidence.books) {
        let pools: Vec<_> = books.pools.iter().filter(|pool| pool.sku == item.sku).collect();
        let share = layout.share_of(&item.sku, item.stock, instance);
        found.check(matches!(pools.as_slice(), [pool] if pool.stock == share), Rule::PoolDiffers, || {
            let stocks: Vec<i64> = pools.iter().map(|pool| pool.stock).collect();
            format!("{} on {instance}: pools of {stocks:?}, expected one of {share}", item.sku)
        });
        let given = given_by(index, instance, item);
        for pool in pools {
            found.check((0..=pool.stock).contains(&pool.granted), Rule::PoolOvergranted, || {
                format!("{} on {instance}: granted {} of {}", item.sku, pool.granted, pool.stock)
            });
            found.check(given == pool.granted, Rule::GrantsUnbalanced, || {
                format!("{} on {instance}: pool granted {}, its grants say {given}", item.sku, pool.granted)
            });
        }
    }
    if index.is_quiet() {
        check_both_sides(index, item, found);
    }
}

fn grants<'a>(books: &'a InstanceBooks, item: &'a ItemFacts) -> impl Iterator<Item = &'a GrantRow> {
    books.grants.iter().filter(|grant| grant.sku == item.sku)
}

/// Sums the units that an instance's pool has given. A grant to another instance has a row on both. A grant to the
/// instance itself has a row that no other instance has.
fn given_by(index: &Index<'_>, instance: u16, item: &ItemFacts) -> i64 {
    let all = || (0u16..).zip(&index.evidence.books);
    let elsewhere: BTreeSet<&Vec<u8>> = all()
        .filter(|(other, _)| *other != instance)
        .flat_map(|(_, books)| grants(books, item).map(|grant| &grant.id))
        .collect();
    let own = all().filter(|(one, _)| *one == instance).flat_map(|(_, books)| grants(books, item));
    own.filter(|grant| grant.taker != instance || !elsewhere.contains(&grant.id))
        .filter(|grant| !grant.from_ledger)
        .map(|grant| grant.units)
        .sum()
}

/// Checks that a grant between two instances is a row on each, with the same units. Without the taker's row nobody can
/// sell them.
fn check_both_sides(index: &Index<'_>, item: &ItemFacts, found: &mut Findings) {
    let all = &index.evidence.books;
    for (instance, books) in (0u16..).zip(all) {
        for given in grants(books, item).filter(|grant| grant.taker != instance) {
            let taker = all.get(usize::from(given.taker));
            let applied = taker.and_then(|books| grants(books, item).find(|grant| grant.id == given.id));
            let (units, taker) = (given.units, given.taker);
            let Some(applied) = applied else {
                let detail = format!("{}: grant of {units} from {instance} to {taker}", item.sku);
                found.add(Rule::GrantNotApplied, detail);
                continue;
            };
            let is_same = (applied.taker, applied.units) == (taker, units);
            found.check(is_same, Rule::GrantsUnbalanced, || {
                format!(
                    "{}: grant of {units} from {instance} to {taker} was applied as {applied:?}",
                    item.sku
                )
            });
        }
    }
}

fn check_ledger(
    index: &Index<'_>,
    item: &ItemFacts,
    instance: u16,
    books: &InstanceBooks,
    found: &mut Findings,
) {
    let absent = LedgerRow { sku: item.sku.clone(), allotted: 0, held: 0, sold: 0, withheld: 0 };
    let ledger = books.ledger.iter().find(|row| row.sku == item.sku).unwrap_or(&absent);
    let LedgerRow { allotted, held, sold, withheld, .. } = *ledger;
    let is_within = held >= 0 && sold >= 0 && withheld >= 0 && held + sold + withheld <= allotted;
    found.check(is_within, Rule::LedgerOverAllotment, || {
        format!(
            "{} on {instance}: held {held} + sold {sold} + withheld {withheld} of {allotted} allotted",
            item.sku
        )
    });
    let refunded = units(index, item, Some(instance), |state| state == RowState::Refunded);
    found.check(withheld <= refunded, Rule::WithheldDiffers, || {
        format!("{} on {instance}: {withheld} units are withheld, {refunded} were refunded", item.sku)
    });
    let awaiting = units(index, item, Some(instance), |state| state.units() == Some("held"));
    let paid = units(index, item, Some(instance), |state| state.units() == Some("sold"));
    found.check((held, sold) == (awaiting, paid), Rule::LedgerDiffers, || {
        format!(
            "{} on {instance}: ledger held {held} sold {sold}, orders awaiting {awaiting} paid {paid}",
            item.sku
        )
    });
    // A grant from a ledger takes units away from its giver's allotment again.
    let own = grants(books, item).map(|grant| match (grant.taker == instance, grant.from_ledger) {
        (true, _) => grant.units,
        (false, true) => -grant.units,
        (false, false) => 0,
    });
    let own: i64 = own.sum();
    found.check(own == allotted, Rule::GrantsUnbalanced, || {
        format!("{} on {instance}: allotted {allotted}, its grants say {own}", item.sku)
    });
}

fn check_released(index: &Index<'_>, found: &mut Findings) {
    for owed in index.evidence.books.iter().flat_map(|books| &books.owed) {
        let is_live = index.rows.get(&owed.order).is_some_and(|row| row.state.is_live());
        found.check(!is_live, Rule::LiveOrderReleased, || format!("{} is live", owed.order));
    }
}
