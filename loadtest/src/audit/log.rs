//! Checks the order log: every record became a row or a dead letter, and every row came from a record.

use std::collections::BTreeMap;

use super::index::Index;
use super::{Findings, Rule};
use crate::evidence::{LogFacts, OrderRow, RecordFacts};
use crate::ids::OrderId;

/// Checks positions, records and rows against the log, when the log was read.
pub fn check(index: &Index<'_>, found: &mut Findings) {
    let Some(log) = &index.evidence.log else { return };
    for (part, facts) in (0u16..).zip(&log.partitions) {
        let position = index.position(part);
        found.check(position <= facts.end, Rule::PositionBeyondLog, || {
            format!("partition {part}: position {position}, the log ends at {}", facts.end)
        });
    }
    let unread = index.unread();
    found.check(unread == 0, Rule::RecordsUnread, || format!("{unread} records of the sale are not written"));
    check_records(index, log, found);
    check_rows(index, log, found);
}

fn check_records(index: &Index<'_>, log: &LogFacts, found: &mut Findings) {
    for record in &log.records {
        let place = format!("partition {} offset {}", record.part, record.offset);
        let is_dead = index.is_dead_letter(record.part, record.offset);
        let has_row = record.order.as_ref().is_some_and(|order| index.rows.contains_key(&order.id));
        let is_read = record.offset < index.position(record.part);
        let id = record.order.as_ref().map_or("not a record".to_owned(), |order| order.id.to_string());
        found.check(has_row || is_dead || !is_read, Rule::RecordWithoutRow, || format!("{place}: {id}"));
        let Some(order) = &record.order else { continue };
        let expected = index.evidence.layout.partition_of(order.id.shard() % index.evidence.layout.shards);
        // A record in the wrong partition must be a dead letter. Then all is well.
        found.check(record.part == expected || is_dead, Rule::WrongPartition, || {
            format!("{place}: {id} belongs to partition {expected}")
        });
    }
}

fn check_rows(index: &Index<'_>, log: &LogFacts, found: &mut Findings) {
    let mut records: BTreeMap<OrderId, Vec<&RecordFacts>> = BTreeMap::new();
    for order in log.records.iter().filter_map(|record| record.order.as_ref()) {
        records.entry(order.id).or_default().push(order);
    }
    for (id, row) in &index.rows {
        let Some(same_id) = records.get(id) else {
            let part = index.evidence.layout.partition_of(id.shard() % index.evidence.layout.shards);
            let is_whole = log.partitions.get(usize::from(part)).is_some_and(|facts| facts.low == 0);
            found.check(!is_whole, Rule::RowWithoutRecord, || id.to_string());
            continue;
        };
        let agrees = same_id.iter().any(|record| **record == as_record(row));
        found.check(agrees, Rule::RowDiffersFromRecord, || {
            format!("row {:?}, record {:?}", as_record(row), same_id[0])
        });
    }
}

fn as_record(row: &OrderRow) -> RecordFacts {
    RecordFacts {
        id: row.id,
        sku: row.sku.clone(),
        user: row.user.clone(),
        quantity: row.quantity,
        unit_price: row.unit_price,
        currency: row.currency.clone(),
        reference: row.reference.clone(),
        epoch: row.epoch,
        accepted_ms: row.accepted_ms,
    }
}
