//! Tests of the buyers' side: answers, requests, and what is read over HTTP.

use super::super::Rule;
use super::super::world::{SALE, id_of};
use super::{broken, http, journal};
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
fn a_buyer_told_sold_out_whose_order_stands() {
    broken(&[Rule::RefusedButPersisted], |evidence| {
        for entry in journal(evidence).iter_mut().filter(|entry| entry.user == "u-5") {
            (entry.class, entry.order_id) = (Class::SoldOut, None);
        }
    });
    // When there was no answer, nothing was promised.
    broken(&[], |evidence| {
        for entry in journal(evidence).iter_mut().filter(|entry| entry.user == "u-5") {
            (entry.class, entry.order_id) = (Class::Unknown, None);
        }
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
