//! What happened when: the answers of each stretch of a run, and the rows that came of them.

use std::collections::BTreeMap;

use serde::Serialize;

use super::figures::{self, Quantiles};
use crate::evidence::OrderRow;
use crate::journal::Entry;

/// The most stretches of a timeline. A longer run has longer stretches.
const STRETCHES_MAX: u64 = 300;
const SECOND_US: u64 = 1_000_000;

/// The answers of one stretch, by when their clicks were meant to be sent.
#[derive(Debug, Serialize)]
pub struct Stretch {
    /// When it begins, in ms since the start of the run.
    pub at_ms: u64,
    /// How long it is, in ms.
    pub lasts_ms: u64,
    /// Answers of each class; classes without answers are left out.
    pub classes: BTreeMap<&'static str, u64>,
    /// Latency of all answers.
    pub latency: Option<Quantiles>,
}

/// The rows of one stretch, by the servers' own stamps.
#[derive(Debug, Serialize)]
pub struct RowStretch {
    /// When it ends, in ms since the first acceptance.
    pub until_ms: u64,
    /// Orders that were accepted until then.
    pub accepted: u64,
    /// Orders whose rows were there then.
    pub persisted: u64,
}

/// Returns how long the stretches of a run are, in µs: a tenth of a second or more.
fn step_us(span_us: u64) -> u64 {
    span_us.div_ceil(STRETCHES_MAX).next_multiple_of(SECOND_US / 10).max(SECOND_US / 10)
}

/// Cuts the answers of a run into stretches.
pub fn answers(entries: &[Entry]) -> Vec<Stretch> {
    let step = step_us(entries.iter().map(|entry| entry.at_us).max().unwrap_or(0) + 1);
    let mut cut: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        cut.entry(entry.at_us / step).or_default().push(entry);
    }
    let stretch = |(number, entries): (u64, Vec<&Entry>)| {
        let mut classes = BTreeMap::new();
        for entry in &entries {
            *classes.entry(entry.class.as_str()).or_default() += 1;
        }
        Stretch {
            at_ms: number * step / 1000,
            lasts_ms: step / 1000,
            classes,
            latency: Quantiles::of_micros(entries.iter().map(|entry| entry.latency_us)),
        }
    };
    cut.into_iter().map(stretch).collect()
}

/// Counts what was accepted and what had a row at the end of each stretch.
pub fn rows<'a>(rows: impl Iterator<Item = &'a OrderRow>) -> Vec<RowStretch> {
    let (mut accepted, mut persisted): (Vec<i64>, Vec<i64>) =
        rows.map(|row| (row.accepted_ms, row.created_ms)).unzip();
    accepted.sort_unstable();
    persisted.sort_unstable();
    let (Some(first), Some(last)) = (accepted.first().copied(), persisted.last().copied()) else {
        return Vec::new();
    };
    let span_ms = u64::try_from(last - first).unwrap_or(0) + 1;
    let step_ms = step_us(span_ms * 1000) / 1000;
    let count = |times: &[i64], until_ms: u64| {
        let until = first.saturating_add(i64::try_from(until_ms).unwrap_or(i64::MAX));
        figures::count(times.partition_point(|at| *at <= until))
    };
    let ends = (1..=span_ms.div_ceil(step_ms)).map(|number| number * step_ms);
    ends.map(|until_ms| RowStretch {
        until_ms,
        accepted: count(&accepted, until_ms),
        persisted: count(&persisted, until_ms),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_has_no_more_stretches_than_a_short_one() {
        assert_eq!(step_us(1), 100_000);
        assert_eq!(step_us(30 * SECOND_US), 100_000);
        assert_eq!(step_us(300 * SECOND_US), SECOND_US);
        assert_eq!(step_us(3600 * SECOND_US), 12 * SECOND_US);
    }
}
