//! Conditions on the figures, such as `p99_ms<200`, that turn into an exit code.

use std::str::FromStr;

use super::figures::{Quantiles, float};
use super::summary::{Summary, ThresholdResult};

/// The figures that can be compared. Latencies are those of accepted answers unless the name says otherwise.
pub const METRICS: [&str; 29] = [
    "p50_ms",
    "p99_ms",
    "p999_ms",
    "max_ms",
    "refused_p50_ms",
    "refused_p99_ms",
    "refused_p999_ms",
    "refused_max_ms",
    "slip_p99_ms",
    "won",
    "replayed",
    "sold_out",
    "limited",
    "throttled",
    "shed",
    "closed",
    "unknown",
    "error",
    "accepted",
    "accepted_per_s",
    "persisted",
    "persisted_per_s",
    "rejected",
    "oversold",
    "drain_ms",
    "undecided",
    "push_lost",
    "push_late",
    "push_p99_ms",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
}

/// A condition: `METRIC<NUMBER`, also with `<=`, `>` and `>=`.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    text: String,
    metric: &'static str,
    comparison: Comparison,
    bound: f64,
}

impl FromStr for Threshold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(['<', '>']).ok_or("expected METRIC<NUMBER, for example p99_ms<200")?;
        let (name, rest) = text.split_at(at);
        let (comparison, bound) = match (rest.strip_prefix("<="), rest.strip_prefix(">=")) {
            (Some(bound), _) => (Comparison::AtMost, bound),
            (_, Some(bound)) => (Comparison::AtLeast, bound),
            _ if rest.starts_with('<') => (Comparison::Below, &rest[1..]),
            _ => (Comparison::Above, &rest[1..]),
        };
        let metric = METRICS.into_iter().find(|metric| *metric == name.trim());
        let metric = metric.ok_or_else(|| format!("{name:?} is none of {}", METRICS.join(", ")))?;
        let bound = bound.trim().parse().map_err(|_| format!("{bound:?} is not a number"))?;
        Ok(Self { text: text.to_owned(), metric, comparison, bound })
    }
}

impl Threshold {
    /// Compares the figure of a summary with the bound. A figure that was not measured does not hold.
    pub fn judge(&self, summary: &Summary) -> ThresholdResult {
        let value = value(summary, self.metric);
        let held = value.is_some_and(|value| match self.comparison {
            Comparison::Below => value < self.bound,
            Comparison::AtMost => value <= self.bound,
            Comparison::Above => value > self.bound,
            Comparison::AtLeast => value >= self.bound,
        });
        ThresholdResult { threshold: self.text.clone(), value, held }
    }
}

fn value(summary: &Summary, metric: &str) -> Option<f64> {
    let stored = summary.stored.as_ref();
    let load = summary.load.as_ref();
    let latency = load.map(|load| &load.latency);
    let quantile = |quantiles: Option<&Quantiles>, name: &str| {
        let quantiles = quantiles?;
        match name {
            "p50_ms" => Some(quantiles.p50_ms),
            "p99_ms" => Some(quantiles.p99_ms),
            "p999_ms" => Some(quantiles.p999_ms),
            "max_ms" => Some(quantiles.max_ms),
            _ => None,
        }
    };
    match metric {
        "slip_p99_ms" => quantile(latency?.slip.as_ref(), "p99_ms"),
        "accepted" => Some(float(load?.accepted)),
        "accepted_per_s" => load?.accepted_per_s,
        "undecided" => Some(float(load?.undecided)),
        // Of no order there is nothing to say.
        "push_lost" => load?.push.as_ref().filter(|push| push.orders > 0).map(|push| float(push.lost)),
        "push_late" => load?.push.as_ref().filter(|push| push.orders > 0).map(|push| float(push.late)),
        "push_p99_ms" => quantile(load?.push.as_ref()?.from_commit.as_ref(), "p99_ms"),
        "persisted" => Some(float(stored?.persisted)),
        "persisted_per_s" => stored?.persisted_per_s,
        "rejected" => Some(float(stored?.rejected)),
        "drain_ms" => stored?.drain_ms,
        "oversold" => {
            let units: i64 = stored?.stock.iter().map(|line| line.oversold).sum();
            u64::try_from(units).ok().map(float)
        }
        _ => match metric.strip_prefix("refused_") {
            Some(name) => quantile(latency?.refused.as_ref(), name),
            None if metric.ends_with("_ms") => quantile(latency?.accepted.as_ref(), metric),
            None => load?.classes.get(metric).copied().map(float),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_metric_a_comparison_and_a_number() {
        let threshold: Threshold = "p99_ms <= 200.5".parse().expect("valid");
        assert_eq!((threshold.metric, threshold.bound), ("p99_ms", 200.5));
        assert_eq!(threshold.comparison, Comparison::AtMost);
        for wrong in ["p99_ms", "p98_ms<1", "p99_ms<fast", "<5"] {
            assert!(wrong.parse::<Threshold>().is_err(), "{wrong}");
        }
    }
}
