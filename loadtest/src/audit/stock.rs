//! Units: stock, pools, grants, ledgers and live orders must all tell the same story.

use std::collections::BTreeMap;

use super::index::Index;
use super::{Findings, Rule};
use crate::evidence::{GrantRow, InstanceBooks, ItemFacts, LedgerRow, RowState};

pub fn check(index: &Index<'_>, found: &mut Findings) {
    for item in &index.evidence.sale.items {
        let live: i64 = units(index, item, None, |state| state.is_live());
        found.check(live <= item.stock, Rule::SoldOverStock, || {
            format!("{}: {live} live units of a stock of {}", item.sku, item.stock)
        });
        check_pool(index, item, found);
        for (instance, books) in (0u16..).zip(&index.evidence.books) {
            check_ledger(index, item, instance, books, found);
        }
    }
    check_released(index, found);
}

/// Units of the item's rows in a state, on one instance or on all.
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

fn check_pool(index: &Index<'_>, item: &ItemFacts, found: &mut Findings) {
    let home = index.evidence.layout.home_of(&item.sku);
    let mut pools = Vec::new();
    for (instance, books) in (0u16..).zip(&index.evidence.books) {
        pools.extend(books.pools.iter().filter(|pool| pool.sku == item.sku).map(|pool| (instance, pool)));
    }
    let is_opened = matches!(index.evidence.sale.state.as_str(), "preheated" | "paused");
    let is_sold = index.evidence.rows.iter().any(|row| row.sku == item.sku);
    if pools.is_empty() && !is_opened && !is_sold {
        return;
    }
    let expected = matches!(pools.as_slice(), [(at, pool)] if *at == home && pool.stock == item.stock);
    found.check(expected, Rule::PoolDiffers, || {
        let seen: Vec<String> = pools.iter().map(|(at, pool)| format!("{} on {at}", pool.stock)).collect();
        format!("{}: pools {seen:?}, expected {} on its home {home}", item.sku, item.stock)
    });
    for (at, pool) in &pools {
        found.check((0..=pool.stock).contains(&pool.granted), Rule::PoolOvergranted, || {
            format!("{} on {at}: granted {} of {}", item.sku, pool.granted, pool.stock)
        });
        let books = &index.evidence.books[usize::from(*at)];
        let given: i64 = grants(books, item).map(|grant| grant.units).sum();
        found.check(given == pool.granted, Rule::GrantsUnbalanced, || {
            format!("{} on its home {at}: pool granted {}, its grants say {given}", item.sku, pool.granted)
        });
    }
    if index.is_quiet() {
        check_both_sides(index, item, home, found);
    }
}

fn grants<'a>(books: &'a InstanceBooks, item: &'a ItemFacts) -> impl Iterator<Item = &'a GrantRow> {
    books.grants.iter().filter(|grant| grant.sku == item.sku)
}

/// A grant between two instances is a row on each, with the same units.
fn check_both_sides(index: &Index<'_>, item: &ItemFacts, home: u16, found: &mut Findings) {
    let all = &index.evidence.books;
    let Some(at_home) = all.get(usize::from(home)) else {
        return;
    };
    let key = |grant: &GrantRow| (grant.id.clone(), grant.taker);
    let given: BTreeMap<_, i64> = grants(at_home, item).map(|grant| (key(grant), grant.units)).collect();
    let mut applied: BTreeMap<_, i64> = BTreeMap::new();
    for (instance, books) in (0u16..).zip(all) {
        let own = grants(books, item).filter(|grant| grant.taker == instance);
        applied.extend(own.map(|grant| (key(grant), grant.units)));
    }
    for ((id, taker), units) in &given {
        let there = applied.get(&(id.clone(), *taker)).copied();
        found.check(there == Some(*units), Rule::GrantsUnbalanced, || {
            format!("{}: grant of {units} to {taker} was applied as {there:?}", item.sku)
        });
    }
    for ((id, taker), units) in &applied {
        found.check(given.contains_key(&(id.clone(), *taker)), Rule::GrantsUnbalanced, || {
            format!("{}: {taker} applied {units} units that the home {home} never gave", item.sku)
        });
    }
}

fn check_ledger(
    index: &Index<'_>,
    item: &ItemFacts,
    instance: u16,
    books: &InstanceBooks,
    found: &mut Findings,
) {
    let absent = LedgerRow { sku: item.sku.clone(), allotted: 0, held: 0, sold: 0 };
    let ledger = books.ledger.iter().find(|row| row.sku == item.sku).unwrap_or(&absent);
    let LedgerRow { allotted, held, sold, .. } = *ledger;
    found.check(held >= 0 && sold >= 0 && held + sold <= allotted, Rule::LedgerOverAllotment, || {
        format!("{} on {instance}: held {held} + sold {sold} of {allotted} allotted", item.sku)
    });
    let awaiting = units(index, item, Some(instance), |state| state == RowState::AwaitingPayment);
    let paid = units(index, item, Some(instance), |state| state == RowState::Paid);
    found.check((held, sold) == (awaiting, paid), Rule::LedgerDiffers, || {
        format!(
            "{} on {instance}: ledger held {held} sold {sold}, orders awaiting {awaiting} paid {paid}",
            item.sku
        )
    });
    let own: i64 = grants(books, item).filter(|grant| grant.taker == instance).map(|grant| grant.units).sum();
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
