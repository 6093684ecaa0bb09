//! The events of the small sale: every move is told, and the view is the sum of all events.

use std::collections::BTreeMap;

use crate::evidence::{EventFacts, EventRow, Evidence};

/// Answers from which state and to which a move of this word leads.
fn states(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "persisted" => ("queued", "awaiting_payment"),
        "rejected" => ("queued", "rejected"),
        "paid" => ("awaiting_payment", "paid"),
        "cancelled" => ("awaiting_payment", "cancelled"),
        "expired" => ("awaiting_payment", "expired"),
        _ => ("paid", "refunded"),
    }
}

/// Tells the moves of a state anew: events and view say what moves and rows say.
pub fn tell(evidence: &mut Evidence) {
    let mut facts = EventFacts::default();
    for part in 0..evidence.layout.partitions {
        facts.logs.entry(part).or_default().next_number = 1;
    }
    let mut moves: Vec<_> = evidence.moves.iter().collect();
    moves.sort_by_key(|step| (step.order, step.at_ms));
    for step in moves {
        let row = evidence.rows.iter().find(|row| row.id == step.order);
        let part = evidence.layout.partition_of(step.order.shard());
        let log = facts.logs.entry(part).or_default();
        let number = log.next_number;
        log.rows.push((number, 1));
        log.next_number += 1;
        let (from, to) = states(&step.kind);
        let event = EventRow {
            part,
            number,
            order: step.order,
            kind: step.kind.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
            reason: row.and_then(|row| row.reason.clone()).filter(|_| to == "rejected"),
            sku: row.map_or_else(|| "phone-x".to_owned(), |row| row.sku.clone()),
            user: row.map_or_else(|| "nobody".to_owned(), |row| row.user.clone()),
            quantity: row.map_or(1, |row| row.quantity),
            unit_price: row.map_or(19_900, |row| row.unit_price),
            currency: row.map_or_else(|| "CNY".to_owned(), |row| row.currency.clone()),
            reference: row.and_then(|row| row.reference.clone()),
            at_ms: step.at_ms,
        };
        let key = (
            event.sku.clone(),
            event.at_ms.div_euclid(60_000),
            event.kind.clone(),
            event.from.clone(),
            event.to.clone(),
            event.reason.clone().unwrap_or_default(),
            event.currency.clone(),
        );
        let (orders, units, amount) = facts.sums.entry(part).or_default().entry(key).or_default();
        *orders += 1;
        *units += event.quantity;
        *amount += event.quantity * event.unit_price;
        let (_, last, events) = facts.marks.entry(part).or_insert((number, number, 0));
        (*last, *events) = (number, *events + 1);
        facts.events.push(event);
    }
    let ends: BTreeMap<u16, i64> = facts.logs.iter().map(|(part, log)| (*part, log.next_number)).collect();
    for reader in ["views", "topic"] {
        facts.readers.extend(ends.iter().map(|(part, end)| ((reader.to_owned(), *part), *end)));
    }
    facts.events.sort_by_key(|event| (event.part, event.number));
    evidence.events = facts;
}
