//! Tests of events and views.

use super::super::Rule;
use super::super::world::{PHONE, good, id_of, of_rows, row};
use super::{broken_from, broken_told, broken_told_from};
use crate::evidence::{EventRow, Evidence, RowState};

/// Finds the event that tells the only step of `u-4`.
fn event(evidence: &mut Evidence) -> &mut EventRow {
    let order = id_of("u-4", "k");
    evidence.events.events.iter_mut().find(|event| event.order == order).expect("it is told")
}

/// The state of a buyer whose order was paid.
fn paid() -> Evidence {
    of_rows(vec![row("u-4", "k", PHONE, 1, RowState::Paid)])
}

#[test]
fn a_move_from_nowhere() {
    broken_told(&[Rule::EventStatesDiffer, Rule::ViewDiffers], |evidence| {
        event(evidence).from = "paid".to_owned();
    });
    broken_told(&[Rule::EventStatesDiffer, Rule::EventsDoNotFollow, Rule::ViewDiffers], |evidence| {
        event(evidence).to = "refunded".to_owned();
    });
}

#[test]
fn a_move_that_no_event_tells() {
    broken_told(&[Rule::MoveUntold, Rule::ViewDiffers], |evidence| {
        let order = id_of("u-4", "k");
        evidence.events.events.retain(|event| event.order != order);
    });
    // The events of the partition from before a time are gone.
    broken_told(&[], |evidence| {
        let part = evidence.layout.partition_of(id_of("u-4", "k").shard());
        let log = evidence.events.logs.get_mut(&part).expect("a partition");
        log.rows.remove(0);
        let first = log.rows.first().map_or(log.next_number, |(first, _)| *first);
        evidence.events.events.retain(|event| event.part != part || event.number >= first);
    });
}

#[test]
fn a_move_that_is_told_twice() {
    broken_told_from(
        paid(),
        &[Rule::MoveToldTwice, Rule::EventsDoNotFollow, Rule::EventNumbersDiffer],
        |evidence| {
            let mut again = event(evidence).clone();
            again.number = 9;
            evidence.events.logs.get_mut(&again.part).expect("a partition").rows.push((9, 1));
            evidence.events.events.push(again);
        },
    );
}

#[test]
fn an_event_of_nothing() {
    broken_told(&[Rule::EventWithoutMove, Rule::EventsDoNotFollow, Rule::ViewDiffers], |evidence| {
        let mut phantom = event(evidence).clone();
        (phantom.kind, phantom.from, phantom.to) =
            ("cancelled".to_owned(), "awaiting_payment".to_owned(), "cancelled".to_owned());
        evidence.events.events.push(phantom);
    });
}

#[test]
fn an_event_that_says_something_else() {
    broken_told(&[Rule::EventDiffers, Rule::ViewDiffers], |evidence| event(evidence).quantity += 1);
    broken_told(&[Rule::EventDiffers], |evidence| event(evidence).at_ms += 1);
    broken_told(&[Rule::EventDiffers], |evidence| event(evidence).user = "u-5".to_owned());
}

#[test]
fn an_order_whose_events_come_in_another_order() {
    broken_told_from(paid(), &[Rule::EventsDoNotFollow], |evidence| {
        let numbers: Vec<i64> = evidence.events.events.iter().map(|event| event.number).collect();
        let events = &mut evidence.events.events;
        (events[0].number, events[1].number) = (numbers[1], numbers[0]);
        events.sort_by_key(|event| (event.part, event.number));
    });
    broken_told_from(paid(), &[Rule::EventsDoNotFollow, Rule::MoveUntold, Rule::ViewDiffers], |evidence| {
        evidence.events.events.pop();
    });
}

#[test]
fn an_event_in_another_partition() {
    broken_told(&[Rule::EventMisplaced, Rule::ViewDiffers], |evidence| event(evidence).part ^= 1);
}

#[test]
fn numbers_with_a_gap_or_an_overlap() {
    for by in [-1, 1] {
        broken_told(&[Rule::EventNumbersDiffer], |evidence| {
            let log = evidence.events.logs.values_mut().find(|log| log.rows.len() > 1).expect("one with two");
            log.rows[1].0 += by;
        });
    }
    broken_told(&[Rule::EventNumbersDiffer], |evidence| {
        evidence.events.logs.values_mut().next().expect("a partition").next_number += 1;
    });
}

#[test]
fn a_row_of_events_that_cannot_be_read() {
    broken_told(&[Rule::EventDamaged], |evidence| {
        let log = evidence.events.logs.values_mut().find(|log| !log.rows.is_empty()).expect("one with rows");
        log.damaged.push(log.rows[0].0);
    });
}

#[test]
fn a_reader_that_is_ahead() {
    broken_told(&[Rule::ReaderAhead], |evidence| {
        let reader = evidence.events.readers.iter_mut().find(|((reader, _), _)| reader == "topic");
        *reader.expect("a reader").1 += 1;
    });
}

#[test]
fn a_view_that_counts_something_else() {
    broken_told(&[Rule::ViewDiffers], |evidence| {
        let sums = evidence.events.sums.values_mut().next().expect("sums");
        sums.values_mut().next().expect("a sum").2 += 1;
    });
    broken_told(&[Rule::ViewDiffers], |evidence| {
        let mark = evidence.events.marks.values_mut().next().expect("a mark");
        mark.2 += 1;
    });
    // A reader that is behind has counted less, and the view says so.
    let mut behind = good();
    let part = behind.events.events[0].part;
    *behind.events.readers.get_mut(&("views".to_owned(), part)).expect("the reader") = 1;
    behind.events.sums.remove(&part);
    behind.events.marks.remove(&part);
    broken_told_from(behind, &[], |_| ());
}

#[test]
fn a_state_that_was_told_anew_is_good() {
    broken_from(paid(), &[], |_| ());
}
