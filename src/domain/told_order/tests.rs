use std::borrow::Cow;

use super::*;
use crate::domain::journal::encode;
use crate::domain::{
    IdempotencyKey, Money, Month, OrderId, Part, Quantity, SaleState, Shard, SkuId, StoredEvent, UserId,
};

const WINDOW_MS: i64 = 60_000;

fn sale() -> Sale {
    Sale {
        id: SaleId::parse("drop").expect("slug"),
        name: "Drop".to_owned(),
        state: SaleState::Preheated,
        starts_ms: 0,
        ends_ms: 1,
        buyer_limit: 1,
        unpaid_max: 3,
        access: crate::domain::Access::default(),
        payment_window_ms: WINDOW_MS,
        buckets: 1,
        epoch: 7,
        in_place: true,
        version: 1,
        items: Vec::new(),
    }
}

/// Makes a step of one order by its word; the n-th of a list is taken at the time n.
fn step(kind: &str, by: &str, at_ms: i64) -> OrderMove<'static> {
    let (from, to) = match kind {
        "persisted" => ("queued", "awaiting_payment"),
        "rejected" => ("queued", "rejected"),
        "given up" => ("queued", "cancelled"),
        "paid" => ("awaiting_payment", "paid"),
        "refunded" => ("paid", "refunded"),
        ended => ("awaiting_payment", ended),
    };
    let (sale, user) = (SaleId::parse("drop").expect("a slug"), UserId::parse("alice").expect("a user"));
    let key = IdempotencyKey::parse("k").expect("a key");
    OrderMove {
        order_id: OrderId::derive(Shard::new(0), Month::new(600), &sale, &user, &key),
        sale_id: Cow::Owned(sale),
        sku_id: Cow::Owned(SkuId::parse("phone").expect("a slug")),
        user_id: Cow::Owned(user),
        quantity: Quantity::new(2).expect("two"),
        unit_price: Cow::Owned(Money::new(1, "CNY").expect("money")),
        reference: None,
        kind: Cow::Owned(if kind == "given up" { to } else { kind }.to_owned()),
        from: Cow::Owned(from.to_owned()),
        to: Cow::Owned(to.to_owned()),
        reason: (kind == "rejected").then_some(Cow::Borrowed("limit")),
        by: Cow::Owned(by.to_owned()),
        why: None,
        withheld: kind == "refunded",
        accepted_ms: 5,
        at_ms: Some(at_ms),
    }
}

/// Makes an order of the words of its steps, each with who took it.
fn told(steps: &[(&str, &str)]) -> ToldOrder {
    let mut steps = (10..).zip(steps).map(|(at_ms, (kind, by))| step(kind, by, at_ms));
    let mut order = ToldOrder::new(steps.next().expect("a step"));
    // Events come twice, and those of one order in any order here.
    steps.collect::<Vec<_>>().into_iter().rev().for_each(|step| {
        order.add(step.clone());
        order.add(step);
    });
    order
}

const WRITTEN: (&str, &str) = ("persisted", "order_writer");
const PAID: (&str, &str) = ("paid", "payment_provider");

#[test]
fn what_was_told_is_what_is_read() {
    let mut paid = step("paid", "payment_provider", 9);
    for moves in
        [vec![step("persisted", "order_writer", 8), paid.clone()], vec![step("refunded", "operator:x", 9)]]
    {
        let count = i64::try_from(moves.len()).expect("few");
        let events = StoredEvent::of_row(Part::new(3), (41, count), 5, &encode(&moves)).expect("a row");
        for ((number, event), step) in (41..).zip(events).zip(moves) {
            assert_eq!(ToldEvent::decode(&event.encode()), Ok(ToldEvent { number, step }));
        }
    }
    // A step without a time of its own has that of its event.
    paid.at_ms = None;
    let events = StoredEvent::of_row(Part::new(3), (1, 1), 77, &encode(&[paid])).expect("a row");
    assert_eq!(ToldEvent::decode(&events[0].encode()).expect("readable").step.at_ms, Some(77));
    assert!(ToldEvent::decode(b"{}").is_err());
}

#[test]
fn an_order_without_a_row_is_made_again_up_to_where_money_came_in() {
    use OrderState::{AwaitingPayment, Cancelled, Expired, Paid, Rejected};
    for (steps, state, left) in [
        (&[WRITTEN][..], AwaitingPayment, 0),
        (&[WRITTEN, PAID], AwaitingPayment, 1),
        (&[WRITTEN, PAID, ("refunded", "operator:x")], AwaitingPayment, 2),
        (&[WRITTEN, ("paid", "buyer")], Paid, 0),
        (&[WRITTEN, ("cancelled", "buyer")], Cancelled, 0),
        (&[WRITTEN, ("expired", "expiry")], Expired, 0),
        (&[("rejected", "order_writer")], Rejected, 0),
        (&[("given up", "buyer")], Cancelled, 0),
    ] {
        let lost = told(steps).lost(None, &sale()).expect("clear").expect("lost");
        let record = lost.row.expect("a row");
        let decided = record.decided.as_ref().expect("what became of it");
        assert_eq!((decided.state, lost.steps.len()), (state, left), "{steps:?}");
        assert!(lost.steps.iter().all(|step| step.withheld == (step.kind == "refunded")));
        assert_eq!((record.epoch, record.quantity.units(), decided.created_ms), (7, 2, 10), "{steps:?}");
        let window_ms = if steps[0].1 == "order_writer" { WINDOW_MS } else { 0 };
        assert_eq!(decided.expires_ms, 10 + window_ms, "{steps:?}");
        let times: Vec<i64> = decided.steps.iter().map(|step| step.at_ms).collect();
        assert_eq!(times, (10..).take(steps.len() - left).collect::<Vec<_>>(), "{steps:?}");
    }
}

#[test]
fn a_row_takes_the_steps_that_it_has_not_and_may_know_more() {
    use OrderState::{AwaitingPayment, Cancelled, Expired, Paid};
    let expired: &[_] = &[WRITTEN, ("expired", "expiry")];
    let paid: &[_] = &[WRITTEN, PAID];
    for (steps, row, left) in
        [(expired, AwaitingPayment, 1), (paid, AwaitingPayment, 1), (paid, Paid, 0), (&paid[..1], Paid, 0)]
    {
        let lost = told(steps).lost(Some(row), &sale()).expect("clear");
        assert_eq!(lost.as_ref().map_or(0, |lost| lost.steps.len()), left, "{steps:?} of {row:?}");
        assert!(lost.is_none_or(|lost| lost.row.is_none()));
    }
    for (steps, row) in [(expired, Some(Cancelled)), (paid, Some(Expired)), (&paid[1..], None)] {
        assert!(told(steps).lost(row, &sale()).is_err(), "{steps:?} of {row:?}");
    }
}
