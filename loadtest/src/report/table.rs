//! Writes the summary for a person: the verdict first, then the figures, then what was found.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::after::After;
use super::figures::Quantiles;
use super::push::Push;
use super::summary::{AuditReport, Load, SLIP_P99_MAX_MS, Stored, Summary, Verdict};
use crate::journal::Class;

/// The states in which orders are counted: what became of those that were persisted.
const ORDERS: [&str; 4] = ["paid", "refunded", "cancelled", "expired"];
/// How orders ended for their buyers.
const OUTCOMES: [&str; 6] = ["paid", "cancelled", "abandoned", "too_late", "expired", "rejected"];
/// The states of payments, in the order of their life.
const PAYMENTS: [&str; 5] = ["opening", "open", "closing", "closed", "captured"];
/// The states of refunds, in the order of their life.
const REFUNDS: [&str; 5] = ["owed", "sent", "done", "failed", "settled"];

/// Renders the whole report. `colour` marks the verdict and nothing else.
pub fn render(summary: &Summary, colour: bool) -> String {
    let mut out = String::new();
    line(&mut out, &headline(summary, colour));
    if let Some(load) = &summary.load {
        load_lines(&mut out, load);
    }
    if let Some(after) = summary.load.as_ref().and_then(|load| load.after.as_ref()) {
        after_lines(&mut out, after);
    }
    if let Some(push) = summary.load.as_ref().and_then(|load| load.push.as_ref()) {
        push_lines(&mut out, push);
    }
    if let Some(stored) = &summary.stored {
        stored_lines(&mut out, stored);
    }
    if let Some(load) = &summary.load {
        latency_lines(&mut out, load);
    }
    if let Some(audit) = &summary.audit {
        audit_lines(&mut out, audit);
    }
    for result in &summary.thresholds {
        let value = result.value.map_or("not measured".to_owned(), |value| format!("{value:.1}"));
        let verdict = if result.held { "holds" } else { "CROSSED" };
        row(&mut out, "threshold", &format!("{}: {value}, {verdict}", result.threshold));
    }
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn row(out: &mut String, name: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  {name:<11} {text}");
}

fn headline(summary: &Summary, colour: bool) -> String {
    let (word, code) = match summary.verdict {
        Verdict::Pass => ("PASS", "32"),
        Verdict::Errors => ("ERRORS", "31"),
        Verdict::ThresholdCrossed => ("THRESHOLD CROSSED", "33"),
        Verdict::Violation => ("AUDIT VIOLATION", "31"),
    };
    let word = if colour { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word.to_owned() };
    let mut parts = Vec::new();
    if let Some(load) = &summary.load {
        parts.push(format!("{} accepted of {} clicks", load.accepted, load.clicks));
        let came_back = load.after.as_ref().map_or(0, |after| after.came_back);
        if came_back > 0 {
            parts.push(format!("{came_back} at a second chance"));
        }
    }
    if let Some(stored) = &summary.stored {
        parts.push(format!("{} persisted", stored.persisted));
        let oversold: i64 = stored.stock.iter().map(|line| line.oversold).sum();
        parts.push(format!("{oversold} oversold"));
    }
    match &summary.audit {
        Some(audit) => parts.push(violations(audit)),
        None => parts.push("not audited".to_owned()),
    }
    format!("{word}  {}: {}", summary.sale, parts.join(", "))
}

fn violations(audit: &AuditReport) -> String {
    match audit.violations {
        1 => "1 violation".to_owned(),
        count => format!("{count} violations"),
    }
}

fn load_lines(out: &mut String, load: &Load) {
    let class = |name: &str| load.classes.get(name).copied().unwrap_or(0);
    let offered = load.offered_per_s.map_or(String::new(), |rate| format!(", {rate:.0} clicks/s offered"));
    row(
        out,
        "load",
        &format!(
            "{} clicks by {} buyers in {:.1} s ({}{offered}, seed {})",
            load.clicks,
            load.users,
            load.took_ms / 1000.0,
            load.shape,
            load.seed
        ),
    );
    let rate = load.accepted_per_s.map_or(String::new(), |rate| format!(" ({rate:.0}/s)"));
    let reserved = match load.accepted_reserved {
        0 => String::new(),
        reserved => format!(", {reserved} answered `reserved`"),
    };
    let replays = class("replayed");
    row(out, "accepted", &format!("{}{rate}{reserved}; {replays} replays", load.accepted));
    let reasons: Vec<String> = ["sold_out", "limited", "throttled", "shed", "closed"]
        .into_iter()
        .filter(|name| class(name) > 0)
        .map(|name| format!("{name} {}", class(name)))
        .collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(" · ")) };
    row(out, "refused", &format!("{}{reasons}", load.refused));
    row(out, "failed", &format!("{} errors, {} with unknown outcome", class("error"), class("unknown")));
    if class("error") + class("unknown") > 0 {
        let codes: Vec<String> = load.codes.iter().map(|(code, count)| format!("{code} {count}")).collect();
        row(out, "", &format!("codes: {}", codes.join(" · ")));
    }
}

fn push_lines(out: &mut String, push: &Push) {
    let told = format!(
        "{} events, {} orders: {} lost, {} steps late",
        push.events, push.orders, push.lost, push.late
    );
    let late = push.from_commit.as_ref().map_or(String::new(), |times| {
        format!(
            "; from commit p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
            times.p50_ms, times.p99_ms, times.max_ms
        )
    });
    row(out, "streams", &format!("{} listeners, {} streams: {told}{late}", push.listeners, push.opened));
    let ends = push.byes.iter().chain(&push.faults);
    let ends: Vec<String> = ends.map(|(why, count)| format!("{why} {count}")).collect();
    if !ends.is_empty() {
        row(out, "", &format!("ended: {}", ends.join(" · ")));
    }
}

fn after_lines(out: &mut String, after: &After) {
    let outcomes = counted(&after.outcomes, &OUTCOMES);
    let outcomes = if outcomes.is_empty() { "nobody did anything".to_owned() } else { outcomes };
    row(out, "buyers", &format!("{outcomes}; {} errors", after.errors()));
    if !after.errors.is_empty() {
        let errors: Vec<String> = after.errors.iter().map(|(why, count)| format!("{why} {count}")).collect();
        row(out, "", &format!("errors: {}", errors.join(" · ")));
    }
    let clicks: u64 = after.second_chances.values().sum();
    if clicks + after.unsent > 0 {
        let words = Class::ALL.map(Class::as_str);
        let answers = counted(&after.second_chances, &words);
        let unsent = if after.unsent > 0 { format!(", {} not sent", after.unsent) } else { String::new() };
        row(out, "came back", &format!("{} orders in {clicks} clicks{unsent}: {answers}", after.came_back));
    }
    row(out, "", &format!("the last buyer was done after {:.1} s", after.took_ms / 1000.0));
}

fn stored_lines(out: &mut String, stored: &Stored) {
    let rate = stored.persisted_per_s.map_or(String::new(), |rate| {
        format!("; {rate:.0}/s over the {} ms from first acceptance to last row", stored.window_ms)
    });
    row(out, "persisted", &format!("{} orders, {} rejected{rate}", stored.persisted, stored.rejected));
    for item in &stored.stock {
        let oversold =
            if item.oversold > 0 { format!(", OVERSOLD by {}", item.oversold) } else { String::new() };
        row(out, "stock", &format!("{}: {} sold of {}{oversold}", item.sku, item.sold, item.stock));
    }
    let counts = [
        ("orders", &stored.orders, &ORDERS[..]),
        ("payments", &stored.payments, &PAYMENTS[..]),
        ("refunds", &stored.refunds, &REFUNDS[..]),
    ];
    for (name, counts, words) in counts {
        let text = counted(counts, words);
        if !text.is_empty() {
            row(out, name, &text);
        }
    }
    match (stored.drain_ms, stored.quiet) {
        (Some(ms), Some(true)) => row(out, "drain", &format!("quiet {ms:.0} ms after the last answer")),
        (Some(ms), _) => row(out, "drain", &format!("NOT quiet {ms:.0} ms after the last answer")),
        _ => {}
    }
}

/// Says how many there are of each word, and leaves out those of which there are none.
fn counted(counts: &BTreeMap<&'static str, u64>, words: &[&str]) -> String {
    let all = words.iter().map(|word| (word, counts.get(*word).copied().unwrap_or(0)));
    let present = all.filter(|(_, count)| *count > 0);
    present.map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(" · ")
}

fn latency_lines(out: &mut String, load: &Load) {
    let latency = &load.latency;
    let mut name = "latency";
    for (what, quantiles) in [
        ("accepted", &latency.accepted),
        ("refused", &latency.refused),
        ("decided", &load.decided),
        ("conn wait", &latency.connection_wait),
        ("slip", &latency.slip),
    ] {
        if let Some(quantiles) = quantiles {
            row(out, name, &quantile_text(what, quantiles));
            name = "";
        }
    }
    if !latency.valid {
        let text = format!(
            "INVALID: the generator's own slip p99 exceeds {SLIP_P99_MAX_MS} ms, so these latencies are not the server's"
        );
        row(out, "", &text);
    }
    if load.undecided > 0 {
        row(out, "", &format!("{} buyers gave up polling", load.undecided));
    }
}

fn quantile_text(what: &str, q: &Quantiles) -> String {
    format!(
        "{what:<9} p50 {:>8.2} ms  p99 {:>8.2} ms  p99.9 {:>8.2} ms  max {:>8.2} ms  (n={})",
        q.p50_ms, q.p99_ms, q.p999_ms, q.max_ms, q.count
    )
}

fn audit_lines(out: &mut String, audit: &AuditReport) {
    row(out, "audit", &format!("{} rules, {}", audit.rules, violations(audit)));
    for broken in &audit.broken {
        row(out, "", &format!("{} ×{} [{}] {}", broken.rule, broken.count, broken.promise, broken.says));
        for example in &broken.examples {
            row(out, "", &format!("    {example}"));
        }
        let more = broken.count.saturating_sub(broken.examples.len());
        if more > 0 {
            row(out, "", &format!("    and {more} more"));
        }
    }
    for note in &audit.notes {
        row(out, "", &format!("note: {note}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buyers::Ending;
    use crate::evidence::{PaymentState, RefundState, RowState};

    #[test]
    fn money_is_told_where_there_is_some() {
        let counts = BTreeMap::from([("paid", 3), ("refunded", 0), ("expired", 2), ("awaiting_payment", 7)]);
        assert_eq!(counted(&counts, &ORDERS), "paid 3 · expired 2");
        assert_eq!(counted(&BTreeMap::new(), &PAYMENTS), "");
    }

    #[test]
    fn every_state_is_counted() {
        assert_eq!(PaymentState::ALL.map(PaymentState::as_str), PAYMENTS);
        assert_eq!(RefundState::ALL.map(RefundState::as_str), REFUNDS);
        assert_eq!(Ending::ALL.map(Ending::as_str), OUTCOMES);
        // The line above them counts all others.
        let others = [RowState::AwaitingPayment, RowState::Rejected];
        let ended = RowState::ALL.into_iter().filter(|state| !others.contains(state));
        assert!(ended.map(RowState::as_str).all(|word| ORDERS.contains(&word)));
    }
}
