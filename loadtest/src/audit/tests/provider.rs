//! Tests of the provider's books.

use super::super::world::{booked, good, id_of, payment};
use super::super::{Rule, audit, notes};
use super::payments::{add, refunded};
use super::{broken, broken_from, row_of};
use crate::evidence::{Booked, Evidence, OrphanRow, PaymentState, RefundState};

fn books(evidence: &mut Evidence) -> &mut Vec<Booked> {
    evidence.provider.as_mut().expect("good has books")
}

/// Books a capture of `u-7`, who has no payment.
fn book(evidence: &mut Evidence) -> &mut Booked {
    let payment = payment(row_of(evidence, "u-7"), 1, PaymentState::Captured);
    books(evidence).push(booked(&payment, 0));
    books(evidence).last_mut().expect("one was booked")
}

fn orphan_of(booked: &Booked, state: Option<RefundState>) -> OrphanRow {
    OrphanRow {
        capture: booked.reference.clone(),
        payment: booked.payment.clone(),
        amount: booked.amount,
        currency: booked.currency.clone(),
        state,
    }
}

#[test]
fn a_capture_that_nobody_took() {
    broken(&[Rule::CaptureNotTaken], |evidence| {
        book(evidence);
    });
    broken(&[Rule::CaptureNotTaken], |evidence| book(evidence).payment = "no id of ours".to_owned());
    broken(&[Rule::CaptureNotTaken], |evidence| {
        book(evidence);
        add(evidence, "u-7", 1, PaymentState::Closed);
    });
    broken(&[], |evidence| {
        let booked = book(evidence).clone();
        evidence.orphans.push(orphan_of(&booked, None));
    });
}

#[test]
fn a_capture_of_an_open_payment_is_on_its_way() {
    for state in [PaymentState::Opening, PaymentState::Open, PaymentState::Closing] {
        let mut evidence = good();
        book(&mut evidence);
        add(&mut evidence, "u-7", 1, state);
        assert_eq!(audit(&evidence), [], "{state:?}");
        assert!(notes(&evidence).iter().any(|note| note.starts_with("1 captures are booked")), "{state:?}");
    }
}

#[test]
fn captures_of_other_sales_and_deployments_are_passed_over() {
    broken(&[], |evidence| book(evidence).deployment = "staging".to_owned());
    broken(&[], |evidence| book(evidence).deployment.clear());
    broken(&[], |evidence| {
        let elsewhere = id_of("u-7", "of another sale");
        book(evidence).payment = elsewhere.payment(1);
        evidence.other_sales.insert(elsewhere);
    });
}

#[test]
fn a_captured_payment_that_is_not_booked_so() {
    broken(&[Rule::CaptureNotBooked], |evidence| books(evidence).clear());
    broken(&[Rule::CaptureNotBooked], |evidence| books(evidence)[0].amount -= 1);
    broken(&[Rule::CaptureNotBooked], |evidence| books(evidence)[0].currency = "USD".to_owned());
    broken(&[Rule::CaptureNotBooked], |evidence| {
        books(evidence)[0].payment = id_of("u-7", "k").payment(1);
    });
}

#[test]
fn a_refund_that_the_buyer_never_got() {
    broken_from(refunded(), &[Rule::RefundNotBooked], |evidence| books(evidence)[0].refunded -= 1);
    broken_from(refunded(), &[], |evidence| {
        books(evidence)[0].refunded = 0;
        evidence.refunds[0].state = RefundState::Sent;
    });
}

#[test]
fn an_orphan_that_was_never_paid_back() {
    let orphan = |refunded: i64| {
        move |evidence: &mut Evidence| {
            let booked = book(evidence);
            booked.refunded = refunded;
            let orphan = orphan_of(booked, Some(RefundState::Done));
            evidence.orphans.push(orphan);
        }
    };
    broken(&[], orphan(19_900));
    broken(&[Rule::RefundNotBooked], orphan(0));
    broken(&[Rule::RefundNotBooked], |evidence| {
        orphan(19_900)(evidence);
        books(evidence).truncate(1);
    });
}

#[test]
fn money_that_came_back_without_being_owed() {
    broken(&[Rule::RefundUnasked], |evidence| books(evidence)[0].refunded = 5);
    broken(&[Rule::CaptureNotTaken, Rule::RefundUnasked], |evidence| {
        let booked = book(evidence);
        booked.refunded = booked.amount;
    });
}

#[test]
fn books_that_were_not_read_are_noted() {
    let mut evidence = good();
    evidence.provider = None;
    assert!(notes(&evidence).iter().any(|note| note.contains("books were not read")));
    evidence.payments.clear();
    assert!(!notes(&evidence).iter().any(|note| note.contains("books were not read")));
}
