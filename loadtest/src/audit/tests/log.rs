//! Tests of records and positions.

use super::super::Rule;
use super::super::world::with_dead_letter;
use super::{broken, log};

#[test]
fn a_read_record_without_row() {
    broken(&[Rule::RecordWithoutRow], |evidence| {
        with_dead_letter(evidence);
        evidence.books[0].dead_letters.clear();
    });
}

#[test]
fn a_position_behind_the_end_of_the_log() {
    broken(&[Rule::PositionBeyondLog], |evidence| {
        *evidence.books[1].positions.get_mut(&3).expect("partition 3") += 7;
    });
}

#[test]
fn records_that_nobody_read() {
    broken(&[Rule::RecordsUnread], |evidence| {
        let last = log(evidence).records[0].part;
        let books = evidence.books.iter_mut().find(|books| books.positions.contains_key(&last));
        *books.expect("a stored position").positions.get_mut(&last).expect("stored") -= 1;
    });
}

#[test]
fn a_record_in_the_wrong_partition() {
    broken(&[Rule::WrongPartition], |evidence| {
        let record = &mut log(evidence).records[0];
        let from = record.part;
        record.part = (from + 1) % 4;
        record.offset = 0;
        let to = record.part;
        // An empty partition has no position yet.
        for books in &mut evidence.books {
            if let Some(position) = books.positions.get_mut(&to) {
                *position = (*position).max(1);
            }
        }
        let end = &mut log(evidence).partitions[usize::from(to)].end;
        *end = (*end).max(1);
    });
}

#[test]
fn a_row_that_no_record_asked_for() {
    broken(&[Rule::RowWithoutRecord], |evidence| {
        log(evidence).records.retain(|record| record.order.as_ref().is_none_or(|order| order.user != "u-4"));
    });
}
