//! What this process has measured of late, second by second.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use crate::domain::figure::{FIGURES, FigureKey};

/// How many samples are kept: a quarter of an hour of seconds, 8 bytes for each of some forty figures.
pub const KEPT_MAX: usize = 900;

/// The samples, oldest first.
#[derive(Debug, Default)]
pub struct Figures(Mutex<Ring>);

/// Times and values have the same places.
#[derive(Debug, Default)]
struct Ring {
    /// How many samples have gone.
    gone: u64,
    at_ms: VecDeque<i64>,
    values: BTreeMap<FigureKey, VecDeque<Option<f64>>>,
}

/// Samples that were asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Sampled {
    /// The number of the last sample that was ever taken; the first one has 1.
    pub last: u64,
    /// When they were taken, in ms since 1970, ascending unless the machine's clock was set back.
    pub at_ms: Vec<i64>,
    /// The values of each figure, as many as times; `None` where a second has none.
    pub values: BTreeMap<FigureKey, Vec<Option<f64>>>,
}

impl Figures {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().expect("no code panics while holding it")
    }

    /// Keeps the figures of a moment. The oldest go when there are more than [`KEPT_MAX`], and so does a figure that
    /// has had no value for so long.
    pub fn keep(&self, at_ms: i64, mut taken: BTreeMap<FigureKey, f64>) {
        let mut ring = self.ring();
        let known = ring.at_ms.len();
        for key in taken.keys() {
            if !ring.values.contains_key(key) {
                ring.values.insert(key.clone(), std::iter::repeat_n(None, known).collect());
            }
        }
        ring.at_ms.push_back(at_ms);
        for (key, values) in &mut ring.values {
            values.push_back(taken.remove(key));
        }
        if ring.at_ms.len() > KEPT_MAX {
            ring.at_ms.pop_front();
            ring.gone += 1;
            ring.values.retain(|_, values| {
                values.pop_front();
                values.iter().any(Option::is_some)
            });
        }
    }

    /// Answers the last value of a figure, by the value of its label.
    pub fn last(&self, name: &str) -> BTreeMap<String, f64> {
        let ring = self.ring();
        let of_name = ring.values.iter().filter(|((place, _), _)| FIGURES[*place].name == name);
        of_name.filter_map(|((_, by), values)| Some((by.clone(), (*values.back()?)?))).collect()
    }

    /// Answers the samples after the one of a number.
    pub fn after(&self, number: u64) -> Sampled {
        let ring = self.ring();
        let known = usize::try_from(number.saturating_sub(ring.gone)).unwrap_or(usize::MAX);
        let first = known.min(ring.at_ms.len());
        let last = ring.gone + u64::try_from(ring.at_ms.len()).unwrap_or(u64::MAX);
        let values =
            ring.values.iter().map(|(key, values)| (key.clone(), values.range(first..).copied().collect()));
        Sampled { last, at_ms: ring.at_ms.range(first..).copied().collect(), values: values.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(figures: &[(usize, f64)]) -> BTreeMap<FigureKey, f64> {
        figures.iter().map(|(place, value)| ((*place, String::new()), *value)).collect()
    }

    #[test]
    fn every_figure_has_a_value_or_none_for_every_time() {
        let figures = Figures::default();
        figures.keep(1000, taken(&[(0, 1.0)]));
        figures.keep(2000, taken(&[(1, 5.0)]));
        figures.keep(3000, taken(&[(0, 3.0), (1, 6.0)]));
        let all = figures.after(0);
        assert_eq!(all.at_ms, [1000, 2000, 3000]);
        let values: Vec<_> = all.values.values().collect();
        assert_eq!(values, [&vec![Some(1.0), None, Some(3.0)], &vec![None, Some(5.0), Some(6.0)]]);
        assert_eq!(all.last, 3);
        assert_eq!(figures.after(2).at_ms, [3000]);
        assert_eq!(figures.last("attempts"), BTreeMap::from([(String::new(), 3.0)]));
        assert!(figures.last("streams").is_empty());
        assert_eq!(figures.after(3).at_ms, [0_i64; 0]);
    }

    #[test]
    fn the_oldest_go_and_a_figure_that_is_not_measured_any_more() {
        let figures = Figures::default();
        figures.keep(0, taken(&[(0, 1.0), (1, 1.0)]));
        for second in 1..=KEPT_MAX {
            figures.keep(i64::try_from(second).expect("small") * 1000, taken(&[(1, 2.0)]));
        }
        let all = figures.after(0);
        assert_eq!((all.at_ms.len(), all.at_ms[0], all.values.len()), (KEPT_MAX, 1000, 1));
        assert_eq!((all.last, figures.after(900).at_ms), (901, vec![900_000]));
    }
}
