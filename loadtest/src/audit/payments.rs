//! Checks the money: every capture pays one order or is paid back, and payments, refunds and orders fit each other.

use std::collections::BTreeMap;

use super::index::Index;
use super::{Findings, Rule};
use crate::evidence::{Evidence, OrderRow, PaymentRow, PaymentState, RefundRow, RefundState, RowState};
use crate::ids::OrderId;

/// Payments and refunds, sorted for look-ups by the rules.
pub struct Money<'a> {
    /// The payments of each order, ascending by attempt.
    payments: BTreeMap<OrderId, Vec<&'a PaymentRow>>,
    /// The refunds, by order and attempt.
    refunds: BTreeMap<(OrderId, i64), &'a RefundRow>,
}

impl<'a> Money<'a> {
    /// Sorts the evidence.
    pub fn new(evidence: &'a Evidence) -> Self {
        let mut payments: BTreeMap<OrderId, Vec<&PaymentRow>> = BTreeMap::new();
        for payment in &evidence.payments {
            payments.entry(payment.order).or_default().push(payment);
        }
        payments.values_mut().for_each(|same_order| same_order.sort_by_key(|payment| payment.attempt));
        let refunds = evidence.refunds.iter().map(|refund| ((refund.order, refund.attempt), refund));
        Self { payments, refunds: refunds.collect() }
    }

    /// Lists the payments of an order, ascending by attempt.
    fn of(&self, order: OrderId) -> &[&'a PaymentRow] {
        self.payments.get(&order).map(Vec::as_slice).unwrap_or_default()
    }

    /// Finds the refund of what a payment has captured.
    pub fn refund_of(&self, payment: &PaymentRow) -> Option<&'a RefundRow> {
        self.refunds.get(&(payment.order, payment.attempt)).copied()
    }
}

/// Checks payments and refunds against their orders and against each other.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    let money = Money::new(index.evidence);
    for (id, payments) in &money.payments {
        match index.rows.get(id) {
            Some(row) => check_payments(row, payments, found),
            None => found.add(Rule::PaymentWithoutOrder, format!("{id} has {} and no row", states(payments))),
        }
    }
    for row in index.rows.values() {
        check_captures(row, &money, found);
    }
    for refund in &index.evidence.refunds {
        check_refund(&money, refund, found);
    }
    check_references(index.evidence, found);
}

/// Lists what an operator should look at.
pub fn notes(evidence: &Evidence) -> Vec<String> {
    let count = |wanted: &[RefundState]| {
        let refunds = evidence.refunds.iter().map(|refund| refund.state);
        let orphans = evidence.orphans.iter().filter_map(|orphan| orphan.state);
        refunds.chain(orphans).filter(|state| wanted.contains(state)).count()
    };
    let waiting = evidence.orphans.iter().filter(|orphan| orphan.state.is_none()).count();
    let counts = [
        (count(&[RefundState::Failed]), "refunds have failed and wait for an operator"),
        (count(&[RefundState::Owed, RefundState::Sent]), "refunds are on their way"),
        (waiting, "captures wait for a payment that explains them"),
    ];
    counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect()
}

/// Returns what an order costs, in the smallest unit of its currency.
fn cost_of(row: &OrderRow) -> i64 {
    row.unit_price.saturating_mul(row.quantity)
}

fn states(payments: &[&PaymentRow]) -> String {
    let state = |payment: &&PaymentRow| format!("payment {} {}", payment.attempt, payment.state.as_str());
    payments.iter().map(state).collect::<Vec<_>>().join(", ")
}

/// Checks the payments of an order that has a row.
fn check_payments(row: &OrderRow, payments: &[&PaymentRow], found: &mut Findings) {
    let (id, state) = (row.id, row.state.as_str());
    for payment in payments {
        found.check(payment.place == row.place, Rule::PaymentWithoutOrder, || {
            let (here, there) = (&payment.place, &row.place);
            format!("{} stands in {here:?}, its order in {there:?}", id.payment(payment.attempt))
        });
        let asked = (payment.id.as_str(), payment.amount, payment.currency.as_str());
        let own = id.payment(payment.attempt);
        let expected = (own.as_str(), cost_of(row), row.currency.as_str());
        found.check(asked == expected, Rule::PaymentDiffers, || {
            format!("{id} asks for {asked:?}, expected {expected:?}")
        });
    }
    let is_ended = matches!(row.state, RowState::Cancelled | RowState::Expired);
    let is_payable =
        |payment: &&PaymentRow| matches!(payment.state, PaymentState::Opening | PaymentState::Open);
    found.check(!is_ended || !payments.iter().any(is_payable), Rule::EndedOrderPayable, || {
        format!("{id} is {state} with {}", states(payments))
    });
    let open = payments.iter().filter(|payment| !payment.state.is_final()).count();
    found.check(open <= 1, Rule::PaymentsOpen, || format!("{id} has {}", states(payments)));
    let attempts: Vec<i64> = payments.iter().map(|payment| payment.attempt).collect();
    let in_turn = (1..).zip(&attempts).all(|(nth, attempt)| nth == *attempt);
    found.check(in_turn, Rule::AttemptsDiffer, || format!("{id} has the payments {attempts:?}"));
    found.check(cost_of(row) > 0, Rule::PaymentForNothing, || {
        format!("{id} costs nothing and has {}", states(payments))
    });
}

/// Checks that the captures of an order pay it, or are paid back.
fn check_captures(row: &OrderRow, money: &Money<'_>, found: &mut Findings) {
    let payments = money.of(row.id);
    let (mut kept, mut returned) = (0, 0);
    for payment in payments.iter().filter(|payment| payment.state == PaymentState::Captured) {
        match money.refund_of(payment) {
            None => kept += 1,
            Some(refund) if refund.reason == RefundRow::OPERATOR => returned += 1,
            Some(_) => {}
        }
    }
    let seen = || {
        let (id, state) = (row.id, row.state.as_str());
        format!(
            "{id} is {state} with [{}]: {kept} captures kept, {returned} paid back by an operator",
            states(payments)
        )
    };
    let is_paid_for = match row.state {
        RowState::Paid => kept > 0,
        RowState::Refunded => returned == 1,
        _ => true,
    };
    found.check(is_paid_for || cost_of(row) == 0, Rule::PaidWithoutCapture, seen);
    found.check(kept <= 1, Rule::PaidTwice, seen);
    found.check(kept == 0 || row.state == RowState::Paid, Rule::CaptureKept, seen);
}

/// Checks a refund against its payment. What was captured is paid back, and that is another amount only when this is
/// the reason.
fn check_refund(money: &Money<'_>, refund: &RefundRow, found: &mut Findings) {
    let payment = money.of(refund.order).iter().find(|payment| payment.attempt == refund.attempt);
    let fits = |payment: &&PaymentRow| {
        let is_asked = (refund.amount, &refund.currency) == (payment.amount, &payment.currency);
        payment.state == PaymentState::Captured
            && payment.place == refund.place
            && payment.capture.as_deref() == Some(refund.capture.as_str())
            && is_asked != (refund.reason == RefundRow::OTHER_AMOUNT)
    };
    found.check(payment.is_some_and(fits), Rule::RefundDiffers, || format!("{refund:?}, {payment:?}"));
}

/// Checks the provider's ids of the captures.
fn check_references(evidence: &Evidence, found: &mut Findings) {
    let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for payment in &evidence.payments {
        let is_captured = payment.state == PaymentState::Captured;
        found.check(is_captured == payment.capture.is_some(), Rule::CaptureDiffers, || {
            let (id, state) = (payment.order.payment(payment.attempt), payment.state.as_str());
            format!("{id} is {state} with the capture {:?}", payment.capture)
        });
        if let Some(capture) = &payment.capture {
            names.entry(capture).or_default().push(payment.order.payment(payment.attempt));
        }
    }
    for orphan in evidence.orphans.iter().filter(|orphan| orphan.state.is_some()) {
        if let Some(names) = names.get_mut(orphan.capture.as_str()) {
            names.push("an orphan that is paid back".to_owned());
        }
    }
    for (capture, names) in names.iter().filter(|(_, names)| names.len() > 1) {
        found.add(Rule::CaptureShared, format!("{capture} is that of {}", names.join(" and ")));
    }
}
