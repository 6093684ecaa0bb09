//! Tests of gates, holds and available units.

use super::super::world::{PHONE, good, id_of};
use super::super::{Rule, notes};
use super::{broken, bucket, bucket_of};
use crate::evidence::Evidence;

#[test]
fn a_leaked_unit_in_redis() {
    broken(&[Rule::RedisStockDiffers], |evidence| {
        *bucket(evidence, 0).stock.get_mut(PHONE).expect("preheated") -= 1;
    });
}

#[test]
fn negative_stock_in_one_bucket() {
    broken(&[Rule::RedisStockNegative], |evidence| {
        // The sum over the buckets is right.
        let first = bucket(evidence, 0).stock.get_mut(PHONE).expect("preheated");
        let moved = *first + 1;
        *first = -1;
        *bucket(evidence, 1).stock.get_mut(PHONE).expect("preheated") += moved;
    });
}

#[test]
fn a_buyer_who_holds_more_in_redis_than_in_rows() {
    broken(&[Rule::RedisBuyersDiffer], |evidence| {
        *bucket_of(evidence, "u-3").buyers.get_mut("u-3").expect("a buyer") += 1;
    });
}

#[test]
fn a_buyer_who_was_rejected_keeps_the_units_only_without_a_mark() {
    let keep = |evidence: &mut Evidence| {
        *bucket_of(evidence, "u-9").buyers.get_mut("u-9").expect("a buyer") += 2;
    };
    broken(&[Rule::RedisBuyersDiffer], keep);
    broken(&[], |evidence| {
        keep(evidence);
        bucket_of(evidence, "u-9").holds.get_mut(&id_of("u-9", "k2")).expect("held").state = 'q';
    });
}

#[test]
fn a_hold_that_never_became_a_row() {
    broken(&[Rule::HoldWithoutRow], |evidence| {
        let id = id_of("u-3", "lost");
        let mut hold = bucket_of(evidence, "u-3").holds[&id_of("u-3", "k")].clone();
        (hold.state, hold.user) = ('r', "u-3".to_owned());
        bucket_of(evidence, "u-3").holds.insert(id, hold);
    });
}

#[test]
fn a_live_order_that_redis_forgot() {
    broken(&[Rule::RowWithoutHold], |evidence| {
        bucket_of(evidence, "u-3").holds.remove(&id_of("u-3", "k"));
    });
}

#[test]
fn a_hold_with_another_quantity() {
    broken(&[Rule::RedisHoldDiffers], |evidence| {
        bucket_of(evidence, "u-3").holds.get_mut(&id_of("u-3", "k")).expect("held").quantity = 2;
    });
}

#[test]
fn a_rejected_order_marked_payable_in_redis() {
    broken(&[Rule::RedisStateContradicts], |evidence| {
        bucket_of(evidence, "u-9").holds.get_mut(&id_of("u-9", "k2")).expect("held").state = 'a';
    });
    // A mark that never came is no contradiction: marking is best effort.
    broken(&[], |evidence| {
        bucket_of(evidence, "u-9").holds.get_mut(&id_of("u-9", "k2")).expect("held").state = 'q';
    });
}

#[test]
fn a_gate_of_another_epoch_and_a_gate_that_is_gone() {
    broken(&[Rule::GateDiffers], |evidence| {
        bucket(evidence, 1).gate.insert("epoch".to_owned(), "2".to_owned());
    });
    broken(&[], |evidence| {
        bucket(evidence, 1).gate.insert("epoch".to_owned(), "2".to_owned());
        evidence.sale.rebuilt.insert(1, 2);
    });
    broken(&[Rule::GateDiffers], |evidence| {
        evidence.buckets.as_mut().expect("good has buckets")[1] = None;
    });
}

#[test]
fn a_settled_sale_of_which_keys_are_left() {
    let settle = |evidence: &mut Evidence| evidence.sale.state = "settled".to_owned();
    broken(&[], |evidence| {
        settle(evidence);
        evidence.buckets.as_mut().expect("good has buckets").fill(None);
    });
    broken(&[Rule::LeftAfterSettle], |evidence| {
        settle(evidence);
        evidence.buckets.as_mut().expect("good has buckets")[0] = None;
    });
}

#[test]
fn a_hold_in_the_wrong_bucket() {
    broken(&[Rule::WrongBucket], |evidence| {
        let id = id_of("u-3", "k");
        let number = evidence.layout.bucket_of(id.shard(), 2);
        let hold = bucket(evidence, number).holds.remove(&id).expect("held");
        bucket(evidence, 1 - number).holds.insert(id, hold);
    });
}

#[test]
fn an_entry_that_stays_in_the_outbox() {
    broken(&[Rule::OutboxNotEmpty], |evidence| bucket(evidence, 0).outbox = 1);
}

#[test]
fn a_count_of_outbox_orders_that_went_astray() {
    broken(&[Rule::OutboxCountDiffers], |evidence| bucket(evidence, 0).outbox_orders = 3);
    broken(&[Rule::OutboxCountDiffers], |evidence| bucket(evidence, 0).outbox_orders = -1);
}

#[test]
fn entries_that_were_set_aside_are_noted() {
    let mut evidence = good();
    bucket(&mut evidence, 0).set_aside = 2;
    assert!(notes(&evidence).iter().any(|note| note.contains("2 outbox entries were set aside")));
}
