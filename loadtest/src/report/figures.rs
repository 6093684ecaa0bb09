//! The numbers of a report.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency that is measured, in µs. A longer one counts as this.
const MICROS_MAX: u64 = 120_000_000;

/// Quantiles of some times, with three significant digits.
#[derive(Debug, Clone, Serialize)]
pub struct Quantiles {
    /// The number of times.
    pub count: u64,
    /// The median.
    pub p50_ms: f64,
    /// 90 % are at most this.
    pub p90_ms: f64,
    /// 99 % are at most this.
    pub p99_ms: f64,
    /// 99.9 % are at most this.
    pub p999_ms: f64,
    /// The longest time.
    pub max_ms: f64,
}

impl Quantiles {
    /// Makes the quantiles of times in µs. `None` means that there are no times.
    pub fn of_micros(values: impl Iterator<Item = u64>) -> Option<Self> {
        let mut histogram: Histogram<u64> =
            Histogram::new_with_bounds(1, MICROS_MAX, 3).expect("the bounds are constants");
        for value in values {
            histogram.saturating_record(value.max(1));
        }
        let at = |quantile: f64| float(histogram.value_at_quantile(quantile)) / 1000.0;
        (!histogram.is_empty()).then(|| Self {
            count: histogram.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: float(histogram.max()) / 1000.0,
        })
    }
}

/// Converts a number for showing and comparing only: numbers above 2^53 lose their last digits.
#[expect(clippy::as_conversions, reason = "no lossless conversion exists, and a report needs none")]
pub fn float(number: u64) -> f64 {
    number as f64
}

/// Converts a count.
pub fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Converts a duration into milliseconds, with the fraction to a microsecond.
pub fn ms(duration: Duration) -> f64 {
    float(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)) / 1000.0
}

/// Returns a count per second. `None` means that no time has passed.
pub fn rate(count: u64, within: Duration) -> Option<f64> {
    (!within.is_zero()).then(|| float(count) / within.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_in_milliseconds() {
        let quantiles = Quantiles::of_micros((1..=1000).map(|n| n * 1000)).expect("values");
        assert!((quantiles.p50_ms - 500.0).abs() < 1.0, "{quantiles:?}");
        assert!((quantiles.p99_ms - 990.0).abs() < 1.0, "{quantiles:?}");
        assert_eq!(quantiles.count, 1000);
        assert!(Quantiles::of_micros(std::iter::empty()).is_none());
        assert_eq!(rate(10, Duration::from_millis(500)), Some(20.0));
        assert_eq!(rate(10, Duration::ZERO), None);
    }
}
