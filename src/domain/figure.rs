//! Figures: what a process measures every second, for its own pages. A shop needs no other program to be seen into.

use std::collections::BTreeMap;

use super::exposition::Series;

/// How a figure comes of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Taken {
    /// What it grows by in a second.
    Rate,
    /// What it is.
    Level,
    /// The value below which this part of what a second has measured lies, interpolated in its bucket.
    Quantile(f64),
}

/// A figure.
#[derive(Debug, PartialEq)]
pub struct Figure {
    /// Its name.
    pub name: &'static str,
    /// Its unit: `per_second`, `seconds` or `count`.
    pub unit: &'static str,
    metric: &'static str,
    /// The label whose values have figures of their own. Series that differ in other labels are added up.
    by: Option<&'static str>,
    /// The value of a label that a series must have.
    of: Option<(&'static str, &'static str)>,
    taken: Taken,
}

const fn rate(name: &'static str, metric: &'static str, by: Option<&'static str>) -> Figure {
    Figure { name, unit: "per_second", metric, by, of: None, taken: Taken::Rate }
}

const fn level(name: &'static str, metric: &'static str) -> Figure {
    Figure { name, unit: "count", metric, by: None, of: None, taken: Taken::Level }
}

const fn p99(name: &'static str, metric: &'static str, by: Option<&'static str>) -> Figure {
    Figure { name, unit: "seconds", metric, by, of: None, taken: Taken::Quantile(0.99) }
}

const fn of_purchases(name: &'static str, quantile: f64) -> Figure {
    let of = Some(("route", "/api/v1/sales/{sale}/orders"));
    let metric = "http_server_request_duration_seconds_bucket";
    Figure { name, unit: "seconds", metric, by: None, of, taken: Taken::Quantile(quantile) }
}

/// All figures.
pub const FIGURES: &[Figure] = &[
    rate("attempts", "seckill_admission_total", Some("outcome")),
    rate("orders_written", "seckill_order_persist_seconds_count", None),
    of_purchases("purchase_p50", 0.5),
    of_purchases("purchase_p99", 0.99),
    p99("persist_p99", "seckill_order_persist_seconds_bucket", None),
    p99("commit_p99", "seckill_writer_commit_duration_seconds_bucket", None),
    p99("call_p99", "db_client_operation_duration_seconds_bucket", Some("system")),
    level("orders_pending", "seckill_orders_pending"),
    level("outbox_orders", "seckill_outbox_orders"),
    level("purchases_in_flight", "seckill_purchases_in_flight"),
    level("streams", "seckill_streams"),
];

/// A figure by its place in [`FIGURES`], and the value of the label that it is told apart by; empty for none.
pub type FigureKey = (usize, String);

/// The values of a figure's series, ascending by the upper bound of their bucket. What is no histogram has one, whose
/// bound is infinite.
type Values = Vec<(f64, f64)>;

/// Makes figures of expositions that follow each other.
#[derive(Debug, Default)]
pub struct FigureTaker {
    before: Option<BTreeMap<FigureKey, Values>>,
}

impl FigureTaker {
    /// Answers the figures of the time since the exposition before, which was so many seconds ago. A figure without a
    /// value is left out: a rate in the first exposition, and a quantile of nothing.
    pub fn take(&mut self, exposition: &str, seconds: f64) -> BTreeMap<FigureKey, f64> {
        let mut sums: BTreeMap<FigureKey, Values> = BTreeMap::new();
        for series in exposition.lines().filter_map(Series::parse) {
            for (place, figure) in FIGURES.iter().enumerate().filter(|(_, figure)| figure.is_of(&series)) {
                let by = figure.by.and_then(|label| series.label(label)).unwrap_or_default();
                let bound = series.label("le").and_then(|le| le.parse().ok()).unwrap_or(f64::INFINITY);
                let values = sums.entry((place, by.to_owned())).or_default();
                match values.binary_search_by(|(known, _)| known.total_cmp(&bound)) {
                    Ok(found) => values[found].1 += series.value,
                    Err(missing) => values.insert(missing, (bound, series.value)),
                }
            }
        }
        let figure = |key: &FigureKey, now: &Values| {
            // What was not there before had nothing, but for the first time.
            let (empty, is_first) = (Values::new(), self.before.is_none());
            let before = self.before.as_ref().and_then(|before| before.get(key)).unwrap_or(&empty);
            match FIGURES[key.0].taken {
                Taken::Level => now.last().map(|(_, value)| *value),
                _ if is_first => None,
                Taken::Rate => {
                    let was = before.last().map_or(0.0, |(_, value)| *value);
                    Some((now.last()?.1 - was).max(0.0) / seconds)
                }
                Taken::Quantile(part) => quantile(&grown(before, now), part),
            }
        };
        let taken = sums.iter().filter_map(|(key, now)| Some((key.clone(), figure(key, now)?))).collect();
        self.before = Some(sums);
        taken
    }
}

impl Figure {
    fn is_of(&self, series: &Series<'_>) -> bool {
        self.metric == series.metric
            && self.of.is_none_or(|(label, value)| series.label(label) == Some(value))
    }
}

/// Answers what the buckets of a histogram have grown by. A bucket that was not there before had nothing.
fn grown(before: &Values, now: &Values) -> Values {
    let of = |bound: &f64| {
        let found = before.binary_search_by(|(known, _)| known.total_cmp(bound));
        found.map_or(0.0, |found| before[found].1)
    };
    now.iter().map(|(bound, value)| (*bound, (value - of(bound)).max(0.0))).collect()
}

/// Answers a quantile of a histogram whose buckets count all below their bound; `None` when it has nothing. What lies
/// above the last bound counts as that bound.
fn quantile(values: &Values, part: f64) -> Option<f64> {
    let (_, all) = *values.last()?;
    if all <= 0.0 {
        return None;
    }
    let wanted = part * all;
    let mut below = (0.0, 0.0);
    for (bound, count) in values {
        if *count >= wanted {
            let (from, before) = below;
            let within = if *count > before { (wanted - before) / (count - before) } else { 1.0 };
            return Some(if bound.is_finite() { from + (bound - from) * within } else { from });
        }
        below = (*bound, *count);
    }
    Some(below.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(taken: &BTreeMap<FigureKey, f64>) -> Vec<String> {
        let name =
            |((place, by), value): (&FigureKey, &f64)| format!("{} {by} {value:.4}", FIGURES[*place].name);
        taken.iter().map(name).collect()
    }

    fn buckets(sale: &str, counts: [u32; 4]) -> String {
        let bounds = ["0.001", "0.0025", "0.005", "+Inf"];
        let line = |(le, count)| {
            format!(
                "http_server_request_duration_seconds_bucket{{method=\"POST\",route=\"/api/v1/sales/{{sale}}/{sale}\",\
                 status=\"202\",le=\"{le}\"}} {count}\n"
            )
        };
        bounds.into_iter().zip(counts).map(line).collect()
    }

    #[test]
    fn a_rate_is_what_a_counter_grows_by_in_a_second_summed_over_sales() {
        let mut taker = FigureTaker::default();
        let text = |one: u32, other: u32| {
            format!(
                "seckill_admission_total{{sale=\"a\",outcome=\"sold_out\"}} {one}\n\
                 seckill_admission_total{{sale=\"b\",outcome=\"sold_out\"}} {other}\n\
                 seckill_orders_pending 7\n"
            )
        };
        assert_eq!(named(&taker.take(&text(10, 0), 1.0)), ["orders_pending  7.0000"]);
        let second = taker.take(&text(14, 6), 2.0);
        assert_eq!(named(&second), ["attempts sold_out 5.0000", "orders_pending  7.0000"]);
        let restarted = taker.take(&text(1, 1), 1.0);
        assert_eq!(named(&restarted), ["attempts sold_out 0.0000", "orders_pending  7.0000"]);
    }

    #[test]
    fn a_quantile_is_of_what_the_last_second_has_measured() {
        let mut taker = FigureTaker::default();
        taker.take(&buckets("orders", [1000, 1000, 1000, 1000]), 1.0);
        let taken = taker.take(&buckets("orders", [1050, 1100, 1100, 1100]), 1.0);
        assert_eq!(named(&taken), ["purchase_p50  0.0010", "purchase_p99  0.0025"]);
        assert_eq!(named(&taker.take(&buckets("orders", [1050, 1100, 1100, 1100]), 1.0)), [""; 0]);
        let slow = taker.take(&buckets("orders", [1050, 1100, 1100, 1200]), 1.0);
        assert_eq!(named(&slow), ["purchase_p50  0.0050", "purchase_p99  0.0050"], "above the last bound");
        assert!(taker.take(&buckets("stock", [1, 2, 3, 4]), 1.0).is_empty(), "of another route");
    }

    #[test]
    fn the_first_purchases_of_a_process_have_a_time() {
        let mut taker = FigureTaker::default();
        assert!(taker.take("", 1.0).is_empty());
        let taken = taker.take(&buckets("orders", [50, 100, 100, 100]), 1.0);
        assert_eq!(named(&taken), ["purchase_p50  0.0010", "purchase_p99  0.0025"]);
    }
}
