//! What a run or an audit found, as one value: the JSON summary is this value, the table is a view of it.

mod figures;
mod table;
pub mod threshold;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use crate::audit::{Rule, Violation};
use crate::collect::settle::Settled;
use crate::crowd::Harvest;
use crate::evidence::Evidence;
use crate::ids::OrderId;
use crate::journal::{Class, Entry};

pub use figures::{Quantiles, float};
pub use table::render;
pub use threshold::{Threshold, ThresholdResult};

/// Latency says nothing about the server when the generator itself is later than this at p99. Source:
/// docs/benchmarks.md, method.
pub const SLIP_P99_MAX_MS: f64 = 1.0;
/// Violations of one rule that are shown.
const EXAMPLES_MAX: usize = 5;

/// How it ended; the strongest of them decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    /// Answers of class `error` above what was allowed.
    Errors,
    ThresholdCrossed,
    Violation,
}

impl Verdict {
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Errors => 1,
            Self::ThresholdCrossed => 99,
            Self::Violation => 98,
        }
    }
}

/// Everything that was found out.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub verdict: Verdict,
    pub sale: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditReport>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<ThresholdResult>,
}

/// What the generator saw.
#[derive(Debug, Serialize)]
pub struct Load {
    pub url: String,
    pub sku: String,
    /// The shape in words.
    pub shape: String,
    pub seed: u64,
    pub clicks: u64,
    pub users: u32,
    /// From the start to the last answer.
    pub took_ms: f64,
    /// Every class, also those with 0.
    pub classes: BTreeMap<&'static str, u64>,
    /// Orders accepted: answers of class `won`. Replays are not counted again.
    pub accepted: u64,
    /// Those of them that were answered before the order log had acknowledged them.
    pub accepted_reserved: u64,
    pub refused: u64,
    /// Codes of all answers that were not accepted.
    pub codes: BTreeMap<String, u64>,
    /// Clicks per second of the schedule.
    pub offered_per_s: Option<f64>,
    /// Accepted orders per second, from the start to the last of them.
    pub accepted_per_s: Option<f64>,
    pub latency: Latency,
    /// Buyers who polled until their order was decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<Quantiles>,
    /// Buyers who gave up polling.
    pub undecided: u64,
}

/// From the intended send to the whole answer.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Whether the generator kept its schedule well enough for the figures to mean anything.
    pub valid: bool,
    pub accepted: Option<Quantiles>,
    pub refused: Option<Quantiles>,
    /// How late clicks were sent.
    pub slip: Option<Quantiles>,
    /// Waiting for a free connection, part of the latency.
    pub connection_wait: Option<Quantiles>,
}

/// What stands in the stores.
#[derive(Debug, Serialize)]
pub struct Stored {
    /// Order rows of this run that hold or held units.
    pub persisted: u64,
    /// Accepted orders that the order writer had to refuse.
    pub rejected: u64,
    /// Persisted orders per second from the first acceptance to the last row, by the servers' own stamps
    /// (`accepted_ms` of the front, `created_ms` of the writer).
    pub persisted_per_s: Option<f64>,
    /// The window of that rate.
    pub window_ms: i64,
    /// From acceptance to row, by the same stamps: whole milliseconds.
    pub accept_to_row: Option<Quantiles>,
    /// From the last answer until log and outbox were seen empty.
    pub drain_ms: Option<f64>,
    pub quiet: Option<bool>,
    pub stock: Vec<StockLine>,
}

#[derive(Debug, Serialize)]
pub struct StockLine {
    pub sku: String,
    pub stock: i64,
    /// Live units.
    pub sold: i64,
    pub oversold: i64,
}

#[derive(Debug, Serialize)]
pub struct AuditReport {
    pub rules: usize,
    pub violations: usize,
    pub broken: Vec<BrokenRule>,
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub struct BrokenRule {
    pub rule: Rule,
    pub promise: &'static str,
    pub says: &'static str,
    pub count: usize,
    pub examples: Vec<String>,
}

/// What a run was asked to be.
#[derive(Debug)]
pub struct Asked {
    pub url: String,
    pub sku: String,
    pub shape: String,
    pub seed: u64,
    pub users: u32,
    pub span: Duration,
}

impl Load {
    pub fn new(asked: Asked, harvest: &Harvest) -> Self {
        let entries = &harvest.entries;
        let count = |wanted: &dyn Fn(&Entry) -> bool| {
            figures::count(entries.iter().filter(|entry| wanted(entry)).count())
        };
        let classes = Class::ALL.map(|class| (class.as_str(), count(&|entry| entry.class == class)));
        let mut codes: BTreeMap<String, u64> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| !entry.class.is_accepted()) {
            let code = entry.code.clone().unwrap_or_else(|| format!("http_{}", entry.http_status));
            *codes.entry(code).or_default() += 1;
        }
        let accepted = count(&|entry| entry.class == Class::Won);
        let won = entries.iter().filter(|entry| entry.class == Class::Won);
        let last_won_us = won.map(|entry| entry.at_us + entry.latency_us).max();
        let clicks = figures::count(entries.len());
        Self {
            url: asked.url,
            sku: asked.sku,
            shape: asked.shape,
            seed: asked.seed,
            clicks,
            users: asked.users,
            took_ms: figures::ms(harvest.took),
            classes: classes.into(),
            accepted,
            accepted_reserved: count(&|entry| {
                entry.class == Class::Won && entry.order_status.as_deref() == Some("reserved")
            }),
            refused: count(&|entry| entry.class.is_refused()),
            codes,
            offered_per_s: figures::rate(clicks, asked.span),
            accepted_per_s: last_won_us.and_then(|us| figures::rate(accepted, Duration::from_micros(us))),
            latency: Latency::of(entries),
            decided: Quantiles::of_micros(harvest.decided_us.iter().copied()),
            undecided: harvest.undecided,
        }
    }
}

impl Latency {
    fn of(entries: &[Entry]) -> Self {
        let of = |wanted: fn(Class) -> bool| {
            let wanted = entries.iter().filter(|entry| wanted(entry.class));
            Quantiles::of_micros(wanted.map(|entry| entry.latency_us))
        };
        let slip = Quantiles::of_micros(entries.iter().map(|entry| entry.slip_us));
        Self {
            valid: slip.as_ref().is_none_or(|slip| slip.p99_ms <= SLIP_P99_MAX_MS),
            accepted: of(Class::is_accepted),
            refused: of(Class::is_refused),
            slip,
            connection_wait: Quantiles::of_micros(entries.iter().map(|entry| entry.wait_us)),
        }
    }
}

impl Stored {
    pub fn new(evidence: &Evidence, before: &BTreeSet<OrderId>, settled: Option<Settled>) -> Self {
        let ours = || evidence.rows.iter().filter(|row| !before.contains(&row.id));
        let is_rejected = |state| state == crate::evidence::RowState::Rejected;
        let kept = || ours().filter(|row| !is_rejected(row.state));
        let persisted = figures::count(kept().count());
        let first = kept().map(|row| row.accepted_ms).min().unwrap_or(0);
        let last = kept().map(|row| row.created_ms).max().unwrap_or(0);
        let window = Duration::from_millis(u64::try_from(last - first).unwrap_or(0));
        let line = |item: &crate::evidence::ItemFacts| {
            let live = evidence.rows.iter().filter(|row| row.sku == item.sku && row.state.is_live());
            let sold: i64 = live.map(|row| row.quantity).sum();
            let oversold = (sold - item.stock).max(0);
            StockLine { sku: item.sku.clone(), stock: item.stock, sold, oversold }
        };
        let ages = kept().map(|row| u64::try_from((row.created_ms - row.accepted_ms) * 1000).unwrap_or(0));
        Self {
            persisted,
            rejected: figures::count(ours().filter(|row| is_rejected(row.state)).count()),
            persisted_per_s: figures::rate(persisted, window),
            window_ms: last - first,
            accept_to_row: Quantiles::of_micros(ages),
            drain_ms: settled.map(|settled| figures::ms(settled.took)),
            quiet: settled.map(|settled| settled.quiet),
            stock: evidence.sale.items.iter().map(line).collect(),
        }
    }
}

impl AuditReport {
    /// `rules`: how many were judged.
    pub fn new(violations: &[Violation], rules: usize, notes: Vec<String>) -> Self {
        let mut by_rule: BTreeMap<Rule, Vec<&str>> = BTreeMap::new();
        for violation in violations {
            by_rule.entry(violation.rule).or_default().push(&violation.detail);
        }
        let broken = by_rule.into_iter().map(|(rule, details)| BrokenRule {
            rule,
            promise: rule.promise(),
            says: rule.says(),
            count: details.len(),
            examples: details.iter().take(EXAMPLES_MAX).map(|detail| (*detail).to_owned()).collect(),
        });
        Self { rules, violations: violations.len(), broken: broken.collect(), notes }
    }
}

impl Summary {
    /// Puts the parts together and judges.
    pub fn new(
        sale: String,
        load: Option<Load>,
        stored: Option<Stored>,
        audit: Option<AuditReport>,
        thresholds: &[Threshold],
        errors_max: u64,
    ) -> Self {
        let mut summary = Self { verdict: Verdict::Pass, sale, load, stored, audit, thresholds: Vec::new() };
        summary.thresholds = thresholds.iter().map(|threshold| threshold.judge(&summary)).collect();
        let errors = summary.load.as_ref().and_then(|load| load.classes.get("error")).copied();
        let verdicts = [
            (errors.unwrap_or(0) > errors_max, Verdict::Errors),
            (summary.thresholds.iter().any(|result| !result.held), Verdict::ThresholdCrossed),
            (summary.audit.as_ref().is_some_and(|audit| audit.violations > 0), Verdict::Violation),
        ];
        let worst = verdicts.into_iter().filter(|(applies, _)| *applies).map(|(_, verdict)| verdict).max();
        summary.verdict = worst.unwrap_or(Verdict::Pass);
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_verdict_wins() {
        let violation = Violation { rule: Rule::SoldOverStock, detail: "x".to_owned() };
        let audit = || Some(AuditReport::new(std::slice::from_ref(&violation), 46, Vec::new()));
        let crossed: Threshold = "persisted<5".parse().expect("a threshold");
        let thresholds = [crossed];
        let summary = |audit, thresholds: &[Threshold]| {
            Summary::new("s".to_owned(), None, None, audit, thresholds, 0).verdict
        };
        assert_eq!(summary(None, &[]), Verdict::Pass);
        assert_eq!(
            summary(None, &thresholds),
            Verdict::ThresholdCrossed,
            "what was not measured does not hold"
        );
        assert_eq!(summary(audit(), &thresholds), Verdict::Violation);
        assert_eq!(Verdict::Violation.exit_code(), 98);
    }

    #[test]
    fn examples_are_capped_and_counted() {
        let violations: Vec<Violation> =
            (0..9).map(|n| Violation { rule: Rule::RecordsUnread, detail: n.to_string() }).collect();
        let report = AuditReport::new(&violations, 46, Vec::new());
        assert_eq!((report.violations, report.broken[0].count, report.broken[0].examples.len()), (9, 9, 5));
    }
}
