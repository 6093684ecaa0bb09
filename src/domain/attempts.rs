//! How often purchases of a sale were attempted, and what came of it.

use std::collections::BTreeMap;

use super::exposition::Series;
use super::ids::SaleId;

/// Attempts by sale and outcome. Outcomes are those of `seckill_admission_total`.
pub type Attempts = BTreeMap<SaleId, BTreeMap<String, u64>>;

/// What was counted of a sale by all processes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountedAttempts {
    /// Since when, in ms since 1970; `None` before the first one.
    pub since_ms: Option<i64>,
    /// By outcome.
    pub by_outcome: BTreeMap<String, u64>,
}

/// Counts what is new in the expositions of one process.
#[derive(Debug, Default)]
pub struct AttemptCounter {
    before: BTreeMap<(SaleId, String), u64>,
}

impl AttemptCounter {
    /// Answers the attempts since the exposition before this one. Those of sales that there are not are left out.
    pub fn new_in(&mut self, exposition: &str) -> Attempts {
        let mut new = Attempts::new();
        let lines = exposition.lines().filter(|line| line.starts_with("seckill_admission_total{"));
        for series in lines.filter_map(Series::parse) {
            let (Some(sale), Some(outcome)) = (series.label("sale"), series.label("outcome")) else {
                continue;
            };
            // A purchase of a sale that there is not is counted under `-`.
            let Some(sale) = SaleId::parse(sale).ok().filter(|sale| sale.as_str() != "-") else { continue };
            #[expect(clippy::as_conversions, reason = "a count")]
            let count = series.value as u64;
            let before = self.before.entry((sale.clone(), outcome.to_owned())).or_default();
            let more = count.saturating_sub(*before);
            *before = count;
            if more > 0 {
                new.entry(sale).or_default().insert(outcome.to_owned(), more);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_counted_and_only_of_sales_that_there_are() {
        let mut counter = AttemptCounter::default();
        let text = |sold_out: u32| {
            format!(
                "# TYPE seckill_admission_total counter\n\
                 seckill_admission_total{{sale=\"drop\",outcome=\"sold_out\"}} {sold_out}\n\
                 seckill_admission_total{{sale=\"drop\",outcome=\"reserved\"}} 2\n\
                 seckill_admission_total{{sale=\"-\",outcome=\"unknown_sale\"}} 9\n\
                 seckill_shed_total{{reason=\"waiters\"}} 4\n"
            )
        };
        let drop = SaleId::parse("drop").expect("a slug");
        let counts =
            |all: &[(&str, u64)]| all.iter().map(|(outcome, n)| ((*outcome).to_owned(), *n)).collect();
        let first = counter.new_in(&text(5));
        assert_eq!(first, Attempts::from([(drop.clone(), counts(&[("sold_out", 5), ("reserved", 2)]))]));
        assert_eq!(counter.new_in(&text(5)), Attempts::new());
        assert_eq!(counter.new_in(&text(7)), Attempts::from([(drop, counts(&[("sold_out", 2)]))]));
    }
}
