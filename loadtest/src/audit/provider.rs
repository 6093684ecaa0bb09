//! Checks the payment provider's books against payments, refunds and orphans, when the books were read.
//!
//! A capture that our rows do not know yet is on its way as long as its payment has no final answer, because the shop
//! asks about such payments. A refund counts as paid back only when its row says so.

use std::collections::{BTreeMap, BTreeSet};

use super::index::Index;
use super::payments::Money;
use super::{Findings, Rule};
use crate::evidence::{Booked, OrphanRow, PaymentRow, RefundRow, RefundState};
use crate::ids::OrderId;

/// The books, sorted for look-ups by the rules.
struct ProviderBooks<'a> {
    money: Money<'a>,
    /// What is booked, by the provider's ids of the captures.
    booked: BTreeMap<&'a str, &'a Booked>,
    /// The payments that name a capture, by its id.
    payments: BTreeMap<&'a str, &'a PaymentRow>,
    /// The orphans, by the ids of their captures.
    orphans: BTreeMap<&'a str, &'a OrphanRow>,
    /// The ids of payments without a final answer.
    unsettled: BTreeSet<String>,
    /// The deployments that ask for this sale's payments.
    deployments: BTreeSet<&'a str>,
}

impl<'a> ProviderBooks<'a> {
    /// Sorts the evidence. `None` means that the books were not read.
    fn new(index: &Index<'a>) -> Option<Self> {
        let evidence = index.evidence;
        let booked = evidence.provider.as_ref()?;
        let payments = &evidence.payments;
        let unsettled = payments.iter().filter(|payment| !payment.state.is_final());
        let captured = payments.iter().filter_map(|payment| Some((payment.capture.as_deref()?, payment)));
        Some(Self {
            money: Money::new(evidence),
            booked: booked.iter().map(|booked| (booked.reference.as_str(), booked)).collect(),
            payments: captured.collect(),
            orphans: evidence.orphans.iter().map(|orphan| (orphan.capture.as_str(), orphan)).collect(),
            unsettled: unsettled.map(|payment| payment.order.payment(payment.attempt)).collect(),
            deployments: payments.iter().map(|payment| payment.deployment.as_str()).collect(),
        })
    }

    /// Lists what is booked for this sale, and what is booked for no sale at all.
    fn ours<'b>(&'b self, index: &'b Index<'a>) -> impl Iterator<Item = &'a Booked> + 'b {
        self.booked.values().copied().filter(move |booked| {
            let order = OrderId::of_payment(&booked.payment);
            let is_elsewhere = order.is_some_and(|order| index.evidence.other_sales.contains(&order));
            self.deployments.contains(booked.deployment.as_str()) && !is_elsewhere
        })
    }

    fn is_taken(&self, booked: &Booked) -> bool {
        let reference = booked.reference.as_str();
        self.payments.contains_key(reference) || self.orphans.contains_key(reference)
    }

    fn is_owed(&self, booked: &Booked) -> bool {
        let payment = self.payments.get(booked.reference.as_str());
        let is_refunded = payment.is_some_and(|payment| self.money.refund_of(payment).is_some());
        is_refunded || self.orphans.contains_key(booked.reference.as_str())
    }
}

/// Checks the books in both directions, when they were read.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    let Some(books) = ProviderBooks::new(index) else { return };
    for booked in books.ours(index) {
        let is_explained = books.is_taken(booked) || books.unsettled.contains(&booked.payment);
        found.check(is_explained, Rule::CaptureNotTaken, || format!("{booked:?}"));
        found.check(booked.refunded == 0 || books.is_owed(booked), Rule::RefundUnasked, || {
            format!("{booked:?}")
        });
    }
    for (capture, payment) in &books.payments {
        check_payment(&books, capture, payment, found);
    }
    for orphan in books.orphans.values().filter(|orphan| orphan.state == Some(RefundState::Done)) {
        let booked = books.booked.get(orphan.capture.as_str());
        found.check(booked.is_some_and(|booked| is_paid_back(booked)), Rule::RefundNotBooked, || {
            format!("{orphan:?} is booked as {booked:?}")
        });
    }
}

/// Checks that a capture that a payment names is booked for it, and that its refund is booked when it is done.
fn check_payment(books: &ProviderBooks<'_>, capture: &str, payment: &PaymentRow, found: &mut Findings) {
    let id = payment.order.payment(payment.attempt);
    let refund = books.money.refund_of(payment);
    let expected = match refund {
        Some(refund) if refund.reason == RefundRow::OTHER_AMOUNT => (refund.amount, &refund.currency),
        _ => (payment.amount, &payment.currency),
    };
    let booked = books.booked.get(capture);
    let is_booked =
        booked.is_some_and(|booked| booked.payment == id && (booked.amount, &booked.currency) == expected);
    found.check(is_booked, Rule::CaptureNotBooked, || {
        format!("{capture} of {id} over {expected:?} is booked as {booked:?}")
    });
    let is_done = refund.is_some_and(|refund| refund.state == RefundState::Done);
    // What is not booked at all is reported already.
    let is_owing = booked.is_some_and(|booked| !is_paid_back(booked));
    found.check(!(is_done && is_owing), Rule::RefundNotBooked, || {
        format!("{id} is refunded, and is booked as {booked:?}")
    });
}

fn is_paid_back(booked: &Booked) -> bool {
    booked.refunded == booked.amount
}

/// Says what of the books was not judged.
pub fn notes(index: &Index<'_>) -> Vec<String> {
    let Some(books) = ProviderBooks::new(index) else {
        let note = "the payment provider's books were not read: no capture was compared with them".to_owned();
        return if index.evidence.payments.is_empty() { Vec::new() } else { vec![note] };
    };
    let on_their_way = books.ours(index).filter(|booked| !books.is_taken(booked));
    match on_their_way.filter(|booked| books.unsettled.contains(&booked.payment)).count() {
        0 => Vec::new(),
        count => vec![format!("{count} captures are booked and not taken yet: their payments are open")],
    }
}
