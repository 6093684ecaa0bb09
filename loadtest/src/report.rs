//! The report of a run or an audit. It is one value: the JSON summary is this value, and the table is a view of it.

mod after;
mod figures;
pub mod page;
mod push;
pub mod summary;
mod table;
pub mod threshold;
mod timeline;

pub use after::After;
pub use figures::{Quantiles, float};
pub use push::{Push, standing};
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
        let errors = summary.load.as_ref().map_or(0, Load::errors);
        let verdicts = [
            (errors > errors_max, Verdict::Errors),
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
    use std::time::Duration;

    use super::*;
    use crate::audit::{Rule, Violation};
    use crate::buyers::{Ending, Fault};
    use crate::crowd::{Aftermath, Harvest};

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
    fn a_buyer_without_an_ending_is_an_error_and_one_who_came_too_late_is_none() {
        let summary = |fault: Option<Fault>| {
            let asked = Asked {
                url: String::new(),
                sku: "x".to_owned(),
                shape: String::new(),
                seed: 1,
                users: 1,
                span: Duration::from_secs(1),
            };
            let mut after = Aftermath::default();
            after.endings.insert(Ending::TooLate, 3);
            after.faults.extend(fault.map(|fault| (fault.to_string(), 2)));
            let load = Load::new(asked, &Harvest { after: Some(after), ..Harvest::default() });
            Summary::new("s".to_owned(), Some(load), None, None, &[], 1)
        };
        let passed = summary(None);
        assert_eq!(passed.verdict, Verdict::Pass);
        assert!(render(&passed, false).contains("too_late 3; 0 errors"), "{}", render(&passed, false));
        let failed = summary(Some(Fault::new("pay", "no_page")));
        assert_eq!(failed.verdict, Verdict::Errors);
        assert!(render(&failed, false).contains("pay no_page 2"), "{}", render(&failed, false));
    }

    #[test]
    fn examples_are_capped_and_counted() {
        let violations: Vec<Violation> =
            (0..9).map(|n| Violation { rule: Rule::RecordsUnread, detail: n.to_string() }).collect();
        let report = AuditReport::new(&violations, 46, Vec::new());
        assert_eq!((report.violations, report.broken[0].count, report.broken[0].examples.len()), (9, 9, 5));
    }
}
