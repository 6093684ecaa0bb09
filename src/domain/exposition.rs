//! The text in which Prometheus reads what a process measures, as far as the process judges it itself.

/// A line with a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Series<'a> {
    /// The metric; of a histogram with `_bucket`, `_sum` or `_count` behind it.
    pub metric: &'a str,
    /// Its value.
    pub value: f64,
    labels: &'a str,
}

impl<'a> Series<'a> {
    /// Reads a line; `None` for a comment, and for what has no value.
    pub fn parse(line: &'a str) -> Option<Self> {
        let (name, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
        let value = value.parse().ok()?;
        let (metric, labels) = name.split_once('{').unwrap_or((name, ""));
        Some(Self { metric, value, labels: labels.trim_end_matches('}') })
    }

    /// Answers the value of a label. None of ours that is asked for has a comma or a quotation mark in its value.
    pub fn label(&self, name: &str) -> Option<&'a str> {
        let mut labels = self.labels.split(',').filter_map(|label| label.split_once('='));
        labels.find(|(known, _)| *known == name).map(|(_, value)| value.trim_matches('"'))
    }
}
