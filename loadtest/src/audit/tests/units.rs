//! Tests of stock, pools, grants, ledgers and releases.

use super::super::world::{PHONE, id_of, of_rows, row};
use super::super::{Rule, audit};
use super::{books_of, broken, bucket, bucket_of, home_of_phone, rules};
use crate::evidence::{Evidence, GrantRow, OwedRow, RowState};

#[test]
fn more_sold_than_the_stock() {
    // The stores agree with each other, but the pool was opened with more units than the sale's stock.
    let rows = (0..21).map(|n| row(&format!("b-{n}"), "k", PHONE, 1, RowState::AwaitingPayment)).collect();
    let mut evidence = of_rows(rows);
    home_of_phone(&mut evidence).pools.iter_mut().for_each(|pool| pool.stock += i64::from(pool.sku == PHONE));
    // Redis was preheated with the same wrong number.
    for number in 0..2 {
        let available = bucket(&mut evidence, number).stock.get_mut(PHONE).expect("preheated");
        *available = 0;
    }
    let expected = [Rule::SoldOverStock, Rule::PoolDiffers, Rule::RedisStockDiffers];
    assert_eq!(rules(&evidence), expected.into(), "{:#?}", audit(&evidence));
}

#[test]
fn a_pool_that_granted_more_than_it_had() {
    broken(&[Rule::PoolOvergranted, Rule::GrantsUnbalanced], |evidence| {
        home_of_phone(evidence).pools.iter_mut().for_each(|pool| pool.granted += 100);
    });
}

#[test]
fn a_pool_on_the_wrong_instance() {
    broken(&[Rule::PoolDiffers, Rule::GrantsUnbalanced], |evidence| {
        let home = usize::from(evidence.layout.home_of(PHONE));
        let at = evidence.books[home].pools.iter().position(|pool| pool.sku == PHONE).expect("opened");
        let pool = evidence.books[home].pools.remove(at);
        evidence.books[1 - home].pools.push(pool);
    });
}

#[test]
fn a_grant_taken_and_never_applied() {
    broken(&[Rule::GrantNotApplied], |evidence| {
        let taker = 1 - evidence.layout.home_of(PHONE);
        let home = home_of_phone(evidence);
        let stray = GrantRow { id: vec![9], sku: PHONE.to_owned(), taker, units: 1, from_ledger: false };
        home.grants.push(stray);
        home.pools.iter_mut().filter(|pool| pool.sku == PHONE).for_each(|pool| pool.granted += 1);
    });
}

#[test]
fn a_ledger_that_lost_a_unit() {
    broken(&[Rule::LedgerDiffers], |evidence| {
        let ledger = &mut books_of(evidence, "u-0").ledger;
        ledger.iter_mut().filter(|row| row.sku == PHONE).for_each(|row| row.held -= 1);
    });
}

#[test]
fn a_ledger_above_its_allotment() {
    broken(&[Rule::LedgerOverAllotment, Rule::GrantsUnbalanced], |evidence| {
        let ledger = &mut books_of(evidence, "u-0").ledger;
        ledger.iter_mut().filter(|row| row.sku == PHONE).for_each(|row| row.allotted -= 1);
    });
}

#[test]
fn a_release_queued_for_a_live_order() {
    broken(&[Rule::LiveOrderReleased], |evidence| {
        books_of(evidence, "u-2").owed.push(OwedRow { order: id_of("u-2", "k"), restock: true });
    });
}

/// Puts the units of the rejected order back on sale, as the release relay does.
fn release(evidence: &mut Evidence) {
    let id = id_of("u-9", "k2");
    books_of(evidence, "u-9").owed.retain(|owed| owed.order != id);
    let bucket = bucket_of(evidence, "u-9");
    let hold = bucket.holds.get_mut(&id).expect("held");
    hold.released = true;
    *bucket.stock.get_mut(&hold.sku).expect("preheated") += hold.quantity;
}

#[test]
fn units_that_came_back_once_are_right_and_twice_are_not() {
    broken(&[], release);
    broken(&[Rule::RedisStockDiffers], |evidence| {
        release(evidence);
        let bucket = bucket_of(evidence, "u-9");
        let hold = bucket.holds[&id_of("u-9", "k2")].clone();
        *bucket.stock.get_mut(&hold.sku).expect("preheated") += hold.quantity;
    });
}

#[test]
fn units_that_came_back_while_their_row_still_stands_are_right() {
    broken(&[], |evidence| {
        release(evidence);
        books_of(evidence, "u-9").owed.push(OwedRow { order: id_of("u-9", "k2"), restock: true });
    });
}

#[test]
fn units_that_never_come_back() {
    broken(&[Rule::RedisStockDiffers], |evidence| books_of(evidence, "u-9").owed.clear());
}

#[test]
fn the_units_of_a_live_order_on_sale_again() {
    broken(&[Rule::LiveOrderReleased], |evidence| {
        bucket_of(evidence, "u-3").holds.get_mut(&id_of("u-3", "k")).expect("held").released = true;
    });
}
