//! The figures and findings of a run or an audit. The JSON summary has the same fields.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::after::After;
use super::figures::{self, Quantiles};
use super::push::Push;
use super::timeline::{self, RowStretch, Stretch};
use crate::audit::{Rule, Violation};
use crate::collect::settle::Settled;
use crate::crowd::Harvest;
use crate::evidence::{Evidence, ItemFacts, PaymentState, RefundState, RowState};
use crate::ids::OrderId;
use crate::journal::{Class, Entry};

/// The longest slip at p99. When the generator itself is later than this, latency says nothing about the server.
/// Source: docs/benchmarks.md, method.
pub const SLIP_P99_MAX_MS: f64 = 1.0;
/// The most violations of one rule that are shown.
const EXAMPLES_MAX: usize = 5;

/// How a run or an audit ended, ascending by weight. The worst finding decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is wrong.
    Pass,
    /// There were more answers of class `error`, buyers whose orders came to no end, and orders that listeners were not
    /// told of, than were allowed.
    Errors,
    /// A threshold does not hold.
    ThresholdCrossed,
    /// The audit found a violation.
    Violation,
}

impl Verdict {
    /// Returns the exit code of the process.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Errors => 1,
            Self::ThresholdCrossed => 99,
            Self::Violation => 98,
        }
    }
}

/// Everything that a run or an audit found.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// How it ended.
    pub verdict: Verdict,
    /// The sale's id.
    pub sale: String,
    /// What the generator saw; `None` for an audit alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Load>,
    /// What stands in the stores; `None` when they were not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
    /// What the audit found; `None` when it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditReport>,
    /// The thresholds that were given, in that order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub thresholds: Vec<ThresholdResult>,
}

/// What the generator saw.
#[derive(Debug, Serialize)]
pub struct Load {
    /// The shopper API.
    pub url: String,
    /// The SKU that everybody bought.
    pub sku: String,
    /// The shape in words.
    pub shape: String,
    /// The seed of the schedule.
    pub seed: u64,
    /// Clicks that were scheduled.
    pub clicks: u64,
    /// Distinct users.
    pub users: u32,
    /// From the start to the last answer.
    pub took_ms: f64,
    /// Answers of every class, also of those with 0.
    pub classes: BTreeMap<&'static str, u64>,
    /// Orders accepted: answers of class `won`. Replays are not counted again.
    pub accepted: u64,
    /// Of the accepted orders, those that were answered before the order log had acknowledged them.
    pub accepted_reserved: u64,
    /// Answers that promised that no order was made.
    pub refused: u64,
    /// Codes of all answers that were not accepted.
    pub codes: BTreeMap<String, u64>,
    /// Clicks per second of the schedule.
    pub offered_per_s: Option<f64>,
    /// Accepted orders per second, from the start to the last of them.
    pub accepted_per_s: Option<f64>,
    /// The latencies.
    pub latency: Latency,
    /// From the intended click until a polling buyer saw the order decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decided: Option<Quantiles>,
    /// Buyers who gave up polling.
    pub undecided: u64,
    /// What buyers did afterwards; `None` when they were to do nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
    /// What listeners were told; `None` when nobody listened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    /// The answers, by when their clicks were meant to be sent.
    pub timeline: Vec<Stretch>,
}

/// The latencies: from the intended send to the whole answer.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// Whether the generator kept its schedule well enough for the figures to mean anything.
    pub valid: bool,
    /// Latency of accepted answers, replays included.
    pub accepted: Option<Quantiles>,
    /// Latency of refusals.
    pub refused: Option<Quantiles>,
    /// How late clicks were sent.
    pub slip: Option<Quantiles>,
    /// How long clicks waited for a free connection, which is part of the latency.
    pub connection_wait: Option<Quantiles>,
}

/// What stands in the stores.
#[derive(Debug, Serialize)]
pub struct Stored {
    /// Order rows of this run that hold or held units.
    pub persisted: u64,
    /// Accepted orders that the order writer rejected.
    pub rejected: u64,
    /// Persisted orders per second from the first acceptance to the last row, by the servers' own stamps
    /// (`accepted_ms` of the front, `created_ms` of the writer).
    pub persisted_per_s: Option<f64>,
    /// The window of that rate.
    pub window_ms: i64,
    /// From acceptance to row, by the same stamps: whole milliseconds.
    pub accept_to_row: Option<Quantiles>,
    /// From the last answer until log and outbox were seen empty, or until the waiting was given up.
    pub drain_ms: Option<f64>,
    /// Whether log and outbox were seen empty.
    pub quiet: Option<bool>,
    /// The units of every item.
    pub stock: Vec<StockLine>,
    /// Order rows of this run in every state, also in those with 0. An order that was refunded was paid before.
    pub orders: BTreeMap<&'static str, u64>,
    /// Payments of these orders in every state.
    pub payments: BTreeMap<&'static str, u64>,
    /// Refunds of these orders in every state.
    pub refunds: BTreeMap<&'static str, u64>,
    /// Orders that were accepted, and rows that were there, over time.
    pub timeline: Vec<RowStretch>,
}

/// The units of one item.
#[derive(Debug, Serialize)]
pub struct StockLine {
    /// The SKU.
    pub sku: String,
    /// The item's stock.
    pub stock: i64,
    /// Live units.
    pub sold: i64,
    /// Live units beyond the stock.
    pub oversold: i64,
}

/// What the audit found.
#[derive(Debug, Serialize)]
pub struct AuditReport {
    /// How many rules were judged.
    pub rules: usize,
    /// How many violations were found.
    pub violations: usize,
    /// The broken rules, in the order of [`Rule::ALL`].
    pub broken: Vec<BrokenRule>,
    /// What a reader must know beside the violations.
    pub notes: Vec<String>,
}

/// One broken rule, with some of its violations.
#[derive(Debug, Serialize)]
pub struct BrokenRule {
    /// The rule.
    pub rule: Rule,
    /// The promise that the rule serves.
    pub promise: &'static str,
    /// The sentence that must be true.
    pub says: &'static str,
    /// How many violations were found.
    pub count: usize,
    /// The first of the violations.
    pub examples: Vec<String>,
}

/// What a run was asked to be.
#[derive(Debug)]
pub struct Asked {
    /// The shopper API.
    pub url: String,
    /// The SKU that everybody buys.
    pub sku: String,
    /// The shape in words.
    pub shape: String,
    /// The seed of the schedule.
    pub seed: u64,
    /// Distinct users.
    pub users: u32,
    /// From the start to the last intended click.
    pub span: Duration,
}

impl Load {
    /// Sums up what the generator saw.
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
            after: harvest.after.as_ref().map(After::new),
            push: None,
            timeline: timeline::answers(entries),
        }
    }

    /// Counts what was a failure: answers of class `error`, buyers whose orders had no ending, and orders of listeners
    /// whose state nobody told.
    pub fn errors(&self) -> u64 {
        let clicks = self.classes.get("error").copied().unwrap_or(0);
        let lost = self.push.as_ref().map_or(0, |push| push.lost);
        clicks + self.after.as_ref().map_or(0, After::errors) + lost
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
    /// Sums up the evidence. Orders of `before` stood before the run, and they count for the stock only.
    pub fn new(evidence: &Evidence, before: &BTreeSet<OrderId>, settled: Option<Settled>) -> Self {
        let ours = || evidence.rows.iter().filter(|row| !before.contains(&row.id));
        let is_rejected = |state| state == RowState::Rejected;
        let kept = || ours().filter(|row| !is_rejected(row.state));
        let persisted = figures::count(kept().count());
        let first = kept().map(|row| row.accepted_ms).min().unwrap_or(0);
        let last = kept().map(|row| row.created_ms).max().unwrap_or(0);
        let window = Duration::from_millis(u64::try_from(last - first).unwrap_or(0));
        let line = |item: &ItemFacts| {
            let live = evidence.rows.iter().filter(|row| row.sku == item.sku && row.state.is_live());
            let sold: i64 = live.map(|row| row.quantity).sum();
            let oversold = (sold - item.stock).max(0);
            StockLine { sku: item.sku.clone(), stock: item.stock, sold, oversold }
        };
        let payments = evidence.payments.iter().filter(|payment| !before.contains(&payment.order));
        let refunds = evidence.refunds.iter().filter(|refund| !before.contains(&refund.order));
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
            orders: by_word(RowState::ALL.map(RowState::as_str), ours().map(|row| row.state.as_str())),
            payments: by_word(
                PaymentState::ALL.map(PaymentState::as_str),
                payments.map(|payment| payment.state.as_str()),
            ),
            refunds: by_word(
                RefundState::ALL.map(RefundState::as_str),
                refunds.map(|refund| refund.state.as_str()),
            ),
            timeline: timeline::rows(kept()),
        }
    }
}

/// Counts how often each word is found. A word that is not found counts 0.
fn by_word<const N: usize>(
    words: [&'static str; N],
    found: impl Iterator<Item = &'static str>,
) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::from(words.map(|word| (word, 0)));
    for word in found {
        *counts.entry(word).or_default() += 1;
    }
    counts
}

impl AuditReport {
    /// Groups the violations by rule. `rules` is the number of rules that were judged.
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

/// Whether a threshold holds.
#[derive(Debug, Serialize)]
pub struct ThresholdResult {
    /// The threshold, as it was given.
    pub threshold: String,
    /// The figure. When it is `None`, this run did not measure it, and the threshold does not hold.
    pub value: Option<f64>,
    /// Whether the threshold holds.
    pub held: bool,
}
