//! Tests of the buyers' side: answers, requests, and what is read over HTTP.

use super::super::world::{PHONE, SALE, id_of, of_rows, row};
use super::super::{Rule, audit};
use super::{broken, bucket, http, journal, rules};
use crate::evidence::{BucketFacts, Evidence, RowState};
use crate::journal::Class;

#[test]
fn an_accepted_order_that_is_nowhere() {
    broken(&[Rule::AcceptedWithoutRow], |evidence| {
        let mut lost = journal(evidence)[0].clone();
        lost.user = "u-lost".to_owned();
        lost.order_id = Some(id_of("u-lost", "k").to_string());
        journal(evidence).push(lost);
    });
}

#[test]
fn an_answer_with_an_underived_id() {
    broken(&[Rule::AnswerIdDiffers], |evidence| {
        let id = id_of("u-1", "other-key").to_string();
        journal(evidence)[1].order_id = Some(id);
    });
}

#[test]
fn the_same_key_with_two_ids() {
    broken(&[Rule::KeyHasTwoOrders], |evidence| {
        let replay = journal(evidence).iter_mut().find(|entry| entry.class == Class::Replayed);
        replay.expect("one").order_id = Some(id_of("u-0", "k9").to_string());
    });
}

#[test]
fn two_keys_with_one_id() {
    broken(&[Rule::KeysShareOrder], |evidence| {
        let shared = journal(evidence)[0].order_id.clone();
        journal(evidence)[1].order_id = shared;
    });
}

#[test]
fn a_double_click_accepted_twice() {
    broken(&[Rule::AcceptedTwice], |evidence| {
        let replay = journal(evidence).iter_mut().find(|entry| entry.class == Class::Replayed);
        replay.expect("one").class = Class::Won;
    });
}

#[test]
fn an_order_that_nobody_asked_for() {
    broken(&[Rule::RowWithoutRequest], |evidence| journal(evidence).retain(|entry| entry.user != "u-5"));
    // An order that stood before the run needs no request in the journal.
    broken(&[], |evidence| {
        evidence.before.insert(id_of("u-5", "k"));
        journal(evidence).retain(|entry| entry.user != "u-5");
    });
}

#[test]
fn an_order_of_another_sku_than_asked_for() {
    broken(&[Rule::RowDiffersFromRequest], |evidence| {
        for entry in journal(evidence).iter_mut().filter(|entry| entry.user == "u-5") {
            entry.sku = "case".to_owned();
        }
    });
}

#[test]
fn a_buyer_told_that_nothing_was_taken_whose_order_stands() {
    broken(&[Rule::RefusedButPersisted], |evidence| {
        for entry in journal(evidence).iter_mut().filter(|entry| entry.user == "u-5") {
            (entry.class, entry.order_id) = (Class::Shed, None);
        }
    });
    // When there was no answer, nothing was promised.
    broken(&[], |evidence| {
        for entry in journal(evidence).iter_mut().filter(|entry| entry.user == "u-5") {
            (entry.class, entry.order_id) = (Class::Unknown, None);
        }
    });
}

/// Adds a refusal of `u-4`, who holds one of two units of a SKU that is not sold out.
fn refused(evidence: &mut Evidence, class: Class, code: &str, quantity: u32) {
    let mut entry = journal(evidence)[4].clone();
    assert_eq!(entry.user, "u-4");
    (entry.class, entry.code, entry.quantity) = (class, Some(code.to_owned()), quantity);
    (entry.key, entry.order_id, entry.accepted_at) = ("k2".to_owned(), None, None);
    journal(evidence).push(entry);
}

#[test]
fn a_buyer_told_that_units_are_gone_which_are_left() {
    broken(&[Rule::RefusedThoughLeft], |evidence| refused(evidence, Class::SoldOut, "sold_out", 1));
    broken(&[Rule::RefusedThoughLeft], |evidence| refused(evidence, Class::SoldOut, "fewer_left", 2));
    broken(&[], |evidence| refused(evidence, Class::SoldOut, "fewer_left", 50));
}

#[test]
fn units_that_came_back_were_gone_when_it_was_said() {
    let rows = (0..5).map(|n| row(&format!("u-{n}"), "k", PHONE, 4, RowState::Rejected)).collect();
    let mut evidence = of_rows(rows);
    refused(&mut evidence, Class::SoldOut, "sold_out", 1);
    for number in 0..2 {
        let BucketFacts { holds, stock, .. } = bucket(&mut evidence, number);
        for hold in holds.values_mut() {
            hold.released = true;
            *stock.get_mut(&hold.sku).expect("preheated") += hold.quantity;
        }
    }
    evidence.books.iter_mut().for_each(|books| books.owed.clear());
    assert_eq!(audit(&evidence), []);
}

#[test]
fn a_buyer_refused_at_a_limit_that_is_not_reached() {
    broken(&[Rule::LimitNotReached], |evidence| refused(evidence, Class::Limited, "limit_reached", 1));
    broken(&[], |evidence| refused(evidence, Class::Limited, "limit_reached", 2));
}

#[test]
fn a_buyer_refused_for_unpaid_orders_that_were_not_given_up() {
    let heard = |evidence: &mut Evidence| refused(evidence, Class::Unpaid, "too_many_unpaid", 1);
    broken(&[Rule::UnpaidMaxNotReached], heard);
    let rows = (0..5).map(|n| row(&format!("u-{n}"), "k", PHONE, 1, RowState::Cancelled)).collect();
    let mut evidence = of_rows(rows);
    heard(&mut evidence);
    assert_eq!(rules(&evidence), [Rule::UnpaidMaxNotReached].into());
    evidence.sale.unpaid_max = 1;
    assert_eq!(audit(&evidence), []);
}

#[test]
fn a_replay_that_tells_another_story() {
    let replay = |evidence: &mut Evidence| {
        let at = journal(evidence).iter().position(|entry| entry.class == Class::Replayed).expect("one");
        journal(evidence).remove(at)
    };
    broken(&[Rule::ReplayDiffers], |evidence| {
        let mut told = replay(evidence);
        told.accepted_at = Some("2026-05-15T00:00:07.000Z".to_owned());
        journal(evidence).push(told);
    });
    broken(&[Rule::ReplayDiffers], |evidence| {
        journal(evidence)[0].order_status = Some("awaiting_payment".to_owned());
        let mut told = replay(evidence);
        told.order_status = Some("rejected".to_owned());
        journal(evidence).push(told);
    });
    broken(&[], |evidence| {
        journal(evidence)[0].order_status = Some("awaiting_payment".to_owned());
        let mut told = replay(evidence);
        told.order_status = Some("paid".to_owned());
        journal(evidence).push(told);
    });
    broken(&[Rule::ReplayDiffers], |evidence| {
        let mut told = replay(evidence);
        (told.class, told.code) = (Class::Limited, Some("limit_reached".to_owned()));
        (told.at_us, told.quantity, told.order_id) = (5_000, 2, None);
        journal(evidence).push(told);
    });
}

#[test]
fn a_shop_that_lies_to_shoppers() {
    broken(&[Rule::HttpOrderDiffers], |evidence| http(evidence).orders[0].status = "queued".to_owned());
    broken(&[Rule::HttpListIncomplete], |evidence| http(evidence).lists[0].orders.clear());
    broken(&[], |evidence| {
        // There is a next page, which may hold it.
        http(evidence).lists[0].orders.clear();
        http(evidence).lists[0].complete = false;
    });
    broken(&[Rule::HttpOrderLeaks], |evidence| http(evidence).strangers[0].1 = 200);
}

#[test]
fn another_sale_in_the_journal_is_passed_over() {
    broken(&[], |evidence| {
        let mut other = journal(evidence)[0].clone();
        other.sale = format!("{SALE}-2");
        journal(evidence).push(other);
    });
}
