//! Tests of payments and refunds against their orders.

use super::super::world::{PHONE, booked, good, id_of, of_rows, payment, refund, row};
use super::super::{Rule, audit, notes};
use super::{books_of, broken, broken_from, log, row_of};
use crate::evidence::{
    Evidence, GrantRow, OrphanRow, PaymentRow, PaymentState, RefundRow, RefundState, RowState,
};

/// A sale of one refunded order and one that waits for its payment.
pub fn refunded() -> Evidence {
    let rows = [("u-0", RowState::Refunded), ("u-1", RowState::AwaitingPayment)];
    of_rows(rows.map(|(user, state)| row(user, "k", PHONE, 1, state)).into())
}

/// Adds an attempt of a buyer to pay. What is captured is also booked.
pub fn add<'a>(
    evidence: &'a mut Evidence,
    user: &str,
    attempt: i64,
    state: PaymentState,
) -> &'a mut PaymentRow {
    let payment = payment(row_of(evidence, user), attempt, state);
    if state == PaymentState::Captured {
        evidence.provider.as_mut().expect("good has books").push(booked(&payment, 0));
    }
    evidence.payments.push(payment);
    evidence.payments.last_mut().expect("one was added")
}

/// Finds the only payment of a buyer.
pub fn payment_of<'a>(evidence: &'a mut Evidence, user: &str) -> &'a mut PaymentRow {
    let order = row_of(evidence, user).id;
    evidence.payments.iter_mut().find(|payment| payment.order == order).expect("a buyer who has paid")
}

/// Adds a capture of a buyer who has no payment, and a refund of it.
fn add_refund<'a>(evidence: &'a mut Evidence, user: &str, reason: &str) -> &'a mut RefundRow {
    let payment = add(evidence, user, 1, PaymentState::Captured).clone();
    evidence.refunds.push(refund(&payment, reason, RefundState::Owed));
    evidence.refunds.last_mut().expect("one was added")
}

#[test]
fn a_paid_order_whose_capture_is_missing() {
    broken(&[Rule::PaidWithoutCapture], |evidence| evidence.payments.clear());
    broken(&[Rule::PaidWithoutCapture], |evidence| {
        evidence.provider = None;
        let payment = payment_of(evidence, "u-8");
        (payment.state, payment.capture) = (PaymentState::Closed, None);
    });
}

#[test]
fn a_paid_order_whose_only_capture_is_paid_back() {
    broken(&[Rule::PaidWithoutCapture], |evidence| {
        let payment = payment_of(evidence, "u-8").clone();
        evidence.refunds.push(refund(&payment, "paid_before", RefundState::Owed));
    });
}

#[test]
fn a_refunded_order_that_no_operator_paid_back() {
    broken_from(refunded(), &[], |_| {});
    broken_from(refunded(), &[Rule::PaidWithoutCapture], |evidence| {
        evidence.refunds[0].reason = "order_ended".to_owned();
    });
    broken_from(refunded(), &[Rule::PaidWithoutCapture, Rule::CaptureKept], |evidence| {
        evidence.provider = None;
        evidence.refunds.clear();
    });
}

#[test]
fn a_capture_that_neither_pays_its_order_nor_is_paid_back() {
    broken(&[Rule::CaptureKept], |evidence| {
        add(evidence, "u-7", 1, PaymentState::Captured);
    });
    broken(&[], |evidence| {
        add_refund(evidence, "u-7", "order_ended");
    });
}

#[test]
fn an_order_that_is_paid_twice() {
    broken(&[Rule::PaidTwice], |evidence| {
        add(evidence, "u-8", 2, PaymentState::Captured);
    });
    broken(&[], |evidence| {
        let second = add(evidence, "u-8", 2, PaymentState::Captured).clone();
        evidence.refunds.push(refund(&second, "paid_before", RefundState::Sent));
    });
}

#[test]
fn a_refund_that_is_not_of_its_capture() {
    broken(&[Rule::RefundDiffers], |evidence| add_refund(evidence, "u-7", "order_ended").amount -= 1);
    broken(&[Rule::RefundDiffers], |evidence| {
        add_refund(evidence, "u-7", "order_ended").currency = "USD".to_owned();
    });
    broken(&[Rule::RefundDiffers], |evidence| {
        add_refund(evidence, "u-7", "order_ended").capture = "pi_other".to_owned();
    });
    broken(&[Rule::RefundDiffers], |evidence| {
        let closed = add(evidence, "u-7", 1, PaymentState::Closed).clone();
        evidence.refunds.push(refund(&closed, "order_ended", RefundState::Owed));
    });
    broken(&[Rule::RefundDiffers], |evidence| {
        let lost = payment(row_of(evidence, "u-7"), 1, PaymentState::Captured);
        evidence.refunds.push(refund(&lost, "order_ended", RefundState::Owed));
    });
    broken(&[Rule::RefundDiffers], |evidence| add_refund(evidence, "u-7", "order_ended").place.shard ^= 1);
}

#[test]
fn only_a_refund_of_another_amount_is_one_of_another_amount() {
    broken(&[Rule::RefundDiffers], |evidence| {
        add_refund(evidence, "u-7", RefundRow::OTHER_AMOUNT);
    });
    broken(&[], |evidence| {
        let refund = add_refund(evidence, "u-7", RefundRow::OTHER_AMOUNT);
        refund.amount -= 1;
        let (capture, amount) = (refund.capture.clone(), refund.amount);
        let books = evidence.provider.as_mut().expect("good has books").iter_mut();
        books.filter(|booked| booked.reference == capture).for_each(|booked| booked.amount = amount);
    });
}

#[test]
fn a_payment_that_asks_for_something_else() {
    broken(&[Rule::PaymentDiffers], |evidence| add(evidence, "u-7", 1, PaymentState::Open).amount += 1);
    broken(&[Rule::PaymentDiffers], |evidence| {
        add(evidence, "u-7", 1, PaymentState::Open).currency = "USD".to_owned();
    });
    broken(&[Rule::PaymentDiffers], |evidence| {
        add(evidence, "u-7", 1, PaymentState::Open).id = id_of("u-7", "k").payment(2);
    });
}

#[test]
fn a_payment_that_stands_elsewhere_than_its_order() {
    broken(&[Rule::PaymentWithoutOrder], |evidence| payment_of(evidence, "u-8").place.shard ^= 1);
    broken(&[Rule::PaymentWithoutOrder], |evidence| {
        let nobody = row("u-nobody", "k", PHONE, 1, RowState::AwaitingPayment);
        evidence.payments.push(payment(&nobody, 1, PaymentState::Closed));
    });
}

#[test]
fn an_order_with_two_open_payments() {
    broken(&[], |evidence| {
        add(evidence, "u-7", 1, PaymentState::Closed);
        add(evidence, "u-7", 2, PaymentState::Opening);
    });
    broken(&[Rule::PaymentsOpen], |evidence| {
        add(evidence, "u-7", 1, PaymentState::Closing);
        add(evidence, "u-7", 2, PaymentState::Open);
    });
}

#[test]
fn attempts_with_a_gap() {
    broken(&[Rule::AttemptsDiffer], |evidence| {
        add(evidence, "u-7", 2, PaymentState::Open);
    });
    broken(&[Rule::AttemptsDiffer], |evidence| {
        add(evidence, "u-7", 1, PaymentState::Closed);
        add(evidence, "u-7", 3, PaymentState::Closed);
    });
}

/// Makes everything cost nothing.
fn free(evidence: &mut Evidence) {
    evidence.sale.items.iter_mut().for_each(|item| item.unit_price = 0);
    evidence.rows.iter_mut().for_each(|row| row.unit_price = 0);
    let records = log(evidence).records.iter_mut().filter_map(|record| record.order.as_mut());
    records.for_each(|order| order.unit_price = 0);
    evidence.payments.clear();
    evidence.refunds.clear();
    evidence.provider = None;
}

#[test]
fn an_order_that_costs_nothing_needs_no_payment_and_has_none() {
    for state in [RowState::Paid, RowState::Refunded] {
        broken_from(of_rows(vec![row("u-0", "k", PHONE, 1, state)]), &[], free);
    }
    broken(&[], free);
    broken(&[Rule::PaymentForNothing], |evidence| {
        free(evidence);
        add(evidence, "u-7", 1, PaymentState::Closed);
    });
}

#[test]
fn an_ended_order_that_can_be_paid() {
    for state in [RowState::Cancelled, RowState::Expired] {
        let ended = || of_rows(vec![row("u-0", "k", PHONE, 1, state)]);
        for open in [PaymentState::Opening, PaymentState::Open] {
            broken_from(ended(), &[Rule::EndedOrderPayable], |evidence| {
                add(evidence, "u-0", 1, open);
            });
        }
        // The provider has not answered yet.
        broken_from(ended(), &[], |evidence| {
            add(evidence, "u-0", 1, PaymentState::Closing);
        });
    }
}

#[test]
fn a_captured_payment_without_capture_and_a_closed_one_with_it() {
    broken(&[Rule::CaptureDiffers], |evidence| {
        evidence.provider = None;
        payment_of(evidence, "u-8").capture = None;
    });
    broken(&[Rule::CaptureDiffers], |evidence| {
        evidence.provider = None;
        add(evidence, "u-7", 1, PaymentState::Closed).capture = Some("pi_7".to_owned());
    });
}

fn orphan_of(payment: &PaymentRow, state: Option<RefundState>) -> OrphanRow {
    OrphanRow {
        capture: payment.capture.clone().expect("captured"),
        payment: payment.id.clone(),
        amount: payment.amount,
        currency: payment.currency.clone(),
        state,
    }
}

#[test]
fn a_capture_that_belongs_to_two() {
    broken(&[Rule::CaptureShared], |evidence| {
        evidence.provider = None;
        let capture = payment_of(evidence, "u-8").capture.clone();
        let second = payment(row_of(evidence, "u-8"), 2, PaymentState::Captured);
        let second = PaymentRow { capture, ..second };
        evidence.refunds.push(refund(&second, "paid_before", RefundState::Owed));
        evidence.payments.push(second);
    });
    broken(&[Rule::CaptureShared], |evidence| {
        let payment = payment_of(evidence, "u-8").clone();
        evidence.orphans.push(orphan_of(&payment, Some(RefundState::Owed)));
    });
    // It was found, and is about to be forgotten.
    broken(&[], |evidence| {
        let payment = payment_of(evidence, "u-8").clone();
        evidence.orphans.push(orphan_of(&payment, None));
    });
}

/// Keeps the units of the refunded order back instead of putting them on sale.
fn withhold(evidence: &mut Evidence) {
    let instance = evidence.layout.instance_of(evidence.layout.shard_of("u-0"));
    let books = books_of(evidence, "u-0");
    books.owed.iter_mut().for_each(|owed| owed.restock = false);
    books.ledger.iter_mut().filter(|ledger| ledger.sku == PHONE).for_each(|ledger| {
        ledger.allotted += 1;
        ledger.withheld += 1;
    });
    books.pools.iter_mut().filter(|pool| pool.sku == PHONE).for_each(|pool| pool.granted += 1);
    let id = b"of the refunded order".to_vec();
    books.grants.push(GrantRow { id, sku: PHONE.to_owned(), taker: instance, units: 1, from_ledger: false });
}

#[test]
fn units_of_a_refunded_order_may_be_withheld_and_no_others() {
    broken_from(refunded(), &[], withhold);
    let awaiting = of_rows(vec![row("u-0", "k", PHONE, 1, RowState::AwaitingPayment)]);
    broken_from(awaiting, &[Rule::WithheldDiffers, Rule::RedisStockDiffers], withhold);
}

#[test]
fn what_waits_for_somebody_is_noted() {
    let mut evidence = good();
    let payment = payment_of(&mut evidence, "u-8").clone();
    let orphan =
        |capture: &str, state| OrphanRow { capture: capture.to_owned(), ..orphan_of(&payment, state) };
    evidence.orphans = vec![orphan("pi_1", None), orphan("pi_2", Some(RefundState::Failed))];
    add_refund(&mut evidence, "u-7", "order_ended");
    assert_eq!(audit(&evidence), []);
    let notes = notes(&evidence);
    for expected in ["1 refunds have failed", "1 refunds are on their way", "1 captures wait"] {
        assert!(notes.iter().any(|note| note.starts_with(expected)), "{expected}: {notes:?}");
    }
}
