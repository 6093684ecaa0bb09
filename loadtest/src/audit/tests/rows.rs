//! Tests of rows, claims and moves.

use super::super::world::{PHONE, id_of, of_rows, place_of, row};
use super::super::{Rule, audit};
use super::{broken, broken_from, log, row_of, rules};
use crate::evidence::{Action, Claim, Evidence, Move, OrderRow, RowState};

#[test]
fn an_order_that_stands_twice() {
    broken(&[Rule::DuplicateOrder, Rule::WrongMonth], |evidence| {
        let mut twin = evidence.rows.iter().find(|row| row.state == RowState::Rejected).expect("one").clone();
        twin.yyyymm = 202_606;
        evidence.rows.push(twin);
    });
}

#[test]
fn an_order_in_the_wrong_shard() {
    broken(&[Rule::WrongShard], |evidence| {
        // The row stands in the neighbouring shard of the same instance, and its moves stand there too.
        let order = id_of("u-4", "k");
        row_of(evidence, "u-4").place.shard ^= 1;
        let shard = row_of(evidence, "u-4").place.shard;
        evidence
            .moves
            .iter_mut()
            .filter(|step| step.order == order)
            .for_each(|step| step.place.shard = shard);
    });
}

#[test]
fn an_order_in_the_wrong_month() {
    broken(&[Rule::WrongMonth], |evidence| row_of(evidence, "u-4").yyyymm = 202_606);
}

#[test]
fn an_order_on_the_wrong_instance() {
    broken(&[Rule::WrongInstance], |evidence| {
        row_of(evidence, "u-4").place.server = "127.0.0.1:9".into();
    });
}

#[test]
fn an_order_at_another_price() {
    broken(&[Rule::PriceDiffers, Rule::RowDiffersFromRecord], |evidence| {
        row_of(evidence, "u-4").unit_price = 1;
    });
    // The price is wrong even when the log agrees with the row.
    broken(&[Rule::PriceDiffers], |evidence| {
        row_of(evidence, "u-4").unit_price = 1;
        let records = log(evidence).records.iter_mut().filter_map(|record| record.order.as_mut());
        records.filter(|order| order.user == "u-4").for_each(|order| order.unit_price = 1);
    });
}

#[test]
fn a_rejection_without_reason() {
    broken(&[Rule::ReasonDiffers], |evidence| {
        evidence.rows.iter_mut().for_each(|row| row.reason = None);
    });
}

#[test]
fn an_order_accepted_before_the_opening() {
    broken(&[], |evidence| accepted_at(evidence, evidence.sale.starts_ms));
    broken(&[Rule::AcceptedBeforeOpening], |evidence| accepted_at(evidence, evidence.sale.starts_ms - 1));
}

/// Sets when the order of `u-4` was accepted, in its row and in its record.
fn accepted_at(evidence: &mut Evidence, at_ms: i64) {
    row_of(evidence, "u-4").accepted_ms = at_ms;
    let records = log(evidence).records.iter_mut().filter_map(|record| record.order.as_mut());
    records.filter(|order| order.user == "u-4").for_each(|order| order.accepted_ms = at_ms);
}

#[test]
fn an_order_accepted_at_the_end_or_after_it() {
    broken(&[], |evidence| accepted_at(evidence, evidence.sale.ends_ms - 1));
    broken(&[Rule::AcceptedAfterEnd], |evidence| accepted_at(evidence, evidence.sale.ends_ms));
}

#[test]
fn an_order_accepted_while_the_sale_was_shut() {
    let shut = |evidence: &mut Evidence, words: &[(&str, i64)]| {
        let action = |(word, at_s): &(&str, i64)| Action {
            at_ms: evidence.sale.starts_ms + at_s * 1000,
            word: (*word).to_owned(),
        };
        evidence.sale.actions.extend(words.iter().map(action).collect::<Vec<_>>());
        accepted_at(evidence, evidence.sale.starts_ms + 60_000);
    };
    let close = |evidence: &mut Evidence| evidence.sale.state = "ended".to_owned();
    let paused = [("pause", 30), ("pause", 58), ("resume", 90)];
    broken(&[Rule::AcceptedWhileShut], |evidence| shut(evidence, &paused));
    broken(&[Rule::AcceptedWhileShut], |evidence| {
        shut(evidence, &[("end", 30)]);
        close(evidence);
    });
    // A repeated pause may be noted last while the sale sells again.
    broken(&[], |evidence| shut(evidence, &[("pause", 20), ("resume", 25), ("pause", 30)]));
    // It was resumed after it was read.
    broken(&[], |evidence| {
        shut(evidence, &[("end", 30)]);
        close(evidence);
        evidence.sale.read_ms = evidence.sale.starts_ms + 50_000;
    });
    // The buckets are told one after the other, and afterwards all is open again.
    broken(&[], |evidence| shut(evidence, &[("pause", 58), ("resume", 90)]));
    broken(&[], |evidence| shut(evidence, &[("pause", 30), ("resume", 59)]));
}

#[test]
fn a_payment_that_is_due_at_another_time() {
    broken(&[Rule::ExpiryDiffers], |evidence| row_of(evidence, "u-4").expires_ms += 1);
}

#[test]
fn an_order_that_expired_before_its_payment_was_due() {
    let expired_at = |late_ms: i64| {
        move |evidence: &mut Evidence| {
            let due_ms = evidence.rows[0].expires_ms;
            let step = evidence.moves.iter_mut().find(|step| step.kind == "expired");
            step.expect("it has expired").at_ms = due_ms + late_ms;
        }
    };
    let expired = || of_rows(vec![row("u-0", "k", PHONE, 1, RowState::Expired)]);
    broken_from(expired(), &[], expired_at(0));
    broken_from(expired(), &[Rule::ExpiredEarly], expired_at(-1));
}

#[test]
fn moves_that_do_not_lead_to_the_state() {
    broken(&[Rule::MovesDiffer], |evidence| drop(evidence.moves.remove(0)));
    broken(&[Rule::MovesDiffer, Rule::EventsDoNotFollow], |evidence| {
        let at_ms = evidence.rows[0].expires_ms;
        let step = Move { kind: "expired".to_owned(), at_ms, ..evidence.moves[0].clone() };
        evidence.moves.push(step);
    });
    broken(&[Rule::MoveWithoutRow], |evidence| {
        let step = Move { order: id_of("u-0", "gone"), ..evidence.moves[0].clone() };
        evidence.moves.push(step);
    });
}

#[test]
fn a_buyer_above_the_limit() {
    // Every store agrees that u-0 holds three; only the limit says two.
    let mut rows: Vec<OrderRow> = Vec::new();
    for key in ["k", "k2", "k3"] {
        rows.push(row("u-0", key, PHONE, 1, RowState::AwaitingPayment));
    }
    let mut evidence = of_rows(rows);
    for (claim, unit) in evidence.claims.iter_mut().zip([0, 1, 1]) {
        claim.unit = unit;
    }
    assert_eq!(rules(&evidence), [Rule::LimitExceeded].into(), "{:#?}", audit(&evidence));
}

#[test]
fn a_live_order_without_claim_and_a_claim_without_order() {
    broken(&[Rule::ClaimsDiffer], |evidence| drop(evidence.claims.remove(0)));
    broken(&[Rule::ClaimWithoutLiveOrder], |evidence| {
        let order = id_of("u-9", "k2");
        let claim = Claim { place: place_of("u-9"), user: "u-9".to_owned(), unit: 1, order };
        evidence.claims.push(claim);
    });
}
