//! Tests of stock, pools, grants, ledgers and releases.

use super::super::world::{PHONE, id_of, of_rows, row};
use super::super::{Rule, audit};
use super::{books_of, broken, bucket, home_of_phone, rules};
use crate::evidence::{GrantRow, OwedRow, RowState};

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
        books_of(evidence, "u-2").owed.push(OwedRow { order: id_of("u-2", "k") });
    });
}
