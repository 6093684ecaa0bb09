//! The report of a run or an audit. It is one value: the JSON summary is this value, and the table is a view of it.

mod figures;
pub mod summary;
mod table;
pub mod threshold;

pub use figures::{Quantiles, float};
pub use summary::{Asked, AuditReport, Load, Stored, Summary, Verdict};
pub use table::render;
pub use threshold::Threshold;

impl Summary {
    /// Puts the parts together, judges the thresholds, and takes the worst verdict.
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
    use crate::audit::{Rule, Violation};

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
