//! Checks the events against the moves and the rows, and the view against the events.

use std::collections::{BTreeMap, BTreeSet};

use super::index::Index;
use super::{Findings, Rule};
use crate::config::Mode;
use crate::evidence::{EventFacts, EventLog, EventRow, Move, SumKey};
use crate::ids::OrderId;
use crate::order_life;

/// The reader that builds the views.
const VIEWS: &str = "views";

/// Checks everything that the events say.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    let facts = &index.evidence.events;
    for (part, log) in &facts.logs {
        check_numbers(*part, log, found);
    }
    for ((reader, part), next) in &facts.readers {
        let end = facts.logs.get(part).map_or(0, |log| log.next_number);
        found.check(*next <= end, Rule::ReaderAhead, || {
            format!("{reader} wants event {next} of partition {part}, which gets {end} next")
        });
    }
    check_moves(index, found);
    check_rows(index, found);
    check_view(facts, found);
}

fn check_numbers(part: u16, log: &EventLog, found: &mut Findings) {
    let mut next = log.rows.first().map_or(log.next_number, |(first, _)| *first);
    for (first, events) in &log.rows {
        found.check(*first == next && *events > 0, Rule::EventNumbersDiffer, || {
            format!("partition {part}: {events} events begin at {first}, and {next} was to come")
        });
        next = first + events;
    }
    found.check(next == log.next_number, Rule::EventNumbersDiffer, || {
        format!("partition {part}: the next event gets {}, and {next} was to come", log.next_number)
    });
    found.check(log.damaged.is_empty(), Rule::EventDamaged, || {
        format!("partition {part}: the rows from {:?} on cannot be read", log.damaged)
    });
}

/// Compares events with moves, one by one.
fn check_moves(index: &Index<'_>, found: &mut Findings) {
    let facts = &index.evidence.events;
    let mut told: BTreeMap<(OrderId, &str), Vec<&EventRow>> = BTreeMap::new();
    for event in &facts.events {
        told.entry((event.order, &event.kind)).or_default().push(event);
    }
    let moves: BTreeMap<(OrderId, &str), &Move> =
        index.evidence.moves.iter().map(|step| ((step.order, step.kind.as_str()), step)).collect();
    let is_whole = |order: OrderId| {
        facts.logs.get(&part_of(index, order)).is_some_and(|log| log.is_whole() && log.damaged.is_empty())
    };
    for key in moves.keys() {
        found.check(told.contains_key(key) || !is_whole(key.0), Rule::MoveUntold, || {
            format!("no event tells that {} was {}", key.0, key.1)
        });
    }
    for ((order, kind), events) in &told {
        let numbers: Vec<i64> = events.iter().map(|event| event.number).collect();
        found.check(events.len() == 1, Rule::MoveToldTwice, || {
            format!("events {numbers:?} tell that {order} was {kind}")
        });
        let Some(step) = moves.get(&(*order, *kind)) else {
            found.add(Rule::EventWithoutMove, format!("event {numbers:?} tells that {order} was {kind}"));
            continue;
        };
        for event in events {
            let EventRow { number, from, to, at_ms, .. } = event;
            found.check(order_life::goes(from, kind, to), Rule::EventStatesDiffer, || {
                format!("event {number}: {order} was {kind} from {from:?} to {to:?}")
            });
            found.check(*at_ms == step.at_ms, Rule::EventDiffers, || {
                format!("event {number} of {order} was at {at_ms}, its move at {}", step.at_ms)
            });
            let part = part_of(index, *order);
            found.check(event.part == part, Rule::EventMisplaced, || {
                format!("event {} of {order} is in partition {}, not {part}", event.number, event.part)
            });
        }
    }
}

fn part_of(index: &Index<'_>, order: OrderId) -> u16 {
    match index.evidence.mode {
        Mode::Distributed => index.evidence.layout.partition_of(order.shard()),
        Mode::Embedded => 0,
    }
}

/// Compares the events of each order with its row, and with each other.
fn check_rows(index: &Index<'_>, found: &mut Findings) {
    let mut told: BTreeMap<OrderId, Vec<&EventRow>> = BTreeMap::new();
    for event in &index.evidence.events.events {
        told.entry(event.order).or_default().push(event);
    }
    for (order, mut events) in told {
        events.sort_by_key(|event| (event.part, event.number));
        let follow = events.windows(2).all(|pair| pair[0].to == pair[1].from);
        found.check(follow, Rule::EventsDoNotFollow, || {
            let steps: Vec<_> = events.iter().map(|event| (event.number, &event.from, &event.to)).collect();
            format!("the events of {order} are {steps:?}")
        });
        let Some(row) = index.rows.get(&order) else { continue };
        for event in &events {
            let says = (event.quantity, event.unit_price, &event.currency);
            let stands = (row.quantity, row.unit_price, &row.currency);
            let says = (&event.sku, &event.user, &event.reference, says);
            let stands = (&row.sku, &row.user, &row.reference, stands);
            found.check(says == stands, Rule::EventDiffers, || {
                format!("event {} of {order} says {says:?}, its row {stands:?}", event.number)
            });
        }
        let last = events.last().map(|event| event.to.as_str());
        found.check(last == Some(row.state.as_str()), Rule::EventsDoNotFollow, || {
            format!("the last event of {order} leads to {last:?}, and its row is {}", row.state.as_str())
        });
    }
}

/// Adds the events up to the view's reader, and compares the sums with the view.
fn check_view(facts: &EventFacts, found: &mut Findings) {
    let parts: BTreeSet<u16> = facts.sums.keys().chain(facts.logs.keys()).copied().collect();
    let whole = |part: &u16| facts.logs.get(part).is_some_and(|log| log.is_whole() && log.damaged.is_empty());
    for part in parts.into_iter().filter(whole) {
        let upto = facts.readers.get(&(VIEWS.to_owned(), part)).copied().unwrap_or(1);
        let counted =
            facts.events.iter().filter(|event| event.part == part && event.number < upto).collect::<Vec<_>>();
        let mut sums: BTreeMap<SumKey, (i64, i64, i64)> = BTreeMap::new();
        for event in &counted {
            let (orders, units, amount) = sums.entry(key(event)).or_default();
            (*orders, *units) = (*orders + 1, *units + event.quantity);
            *amount += event.quantity * event.unit_price;
        }
        let empty = BTreeMap::new();
        let stands = facts.sums.get(&part).unwrap_or(&empty);
        for key in sums.keys().chain(stands.keys()).collect::<BTreeSet<_>>() {
            let (of_events, of_view) = (sums.get(key), stands.get(key));
            found.check(of_events == of_view, Rule::ViewDiffers, || {
                format!("partition {part} {key:?}: the view says {of_view:?}, the events {of_events:?}")
            });
        }
        let mark = counted.first().zip(counted.last()).map(|(first, last)| {
            (first.number, last.number, i64::try_from(counted.len()).unwrap_or(i64::MAX))
        });
        let marked = facts.marks.get(&part).copied();
        found.check(mark == marked, Rule::ViewDiffers, || {
            format!("partition {part}: the view is of events {marked:?}, and these are {mark:?}")
        });
    }
}

fn key(event: &EventRow) -> SumKey {
    (
        event.sku.clone(),
        event.at_ms.div_euclid(60_000),
        event.kind.clone(),
        event.from.clone(),
        event.to.clone(),
        event.reason.clone().unwrap_or_default(),
        event.currency.clone(),
    )
}
