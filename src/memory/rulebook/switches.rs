//! What operators have switched off.

use crate::domain::rule::{Rule, RuleMode, Switch, Way};

/// Until when each switch holds, ms since 1970.
#[derive(Default)]
pub struct Switches([Option<i64>; Switch::ALL.len()]);

impl Switches {
    /// Adds a rule. A dry run switches nothing off.
    pub fn add(&mut self, rule: &Rule, switch: Switch) {
        if rule.terms.mode == RuleMode::Enforce {
            let until_ms = Some(rule.terms.until_ms.unwrap_or(i64::MAX));
            let of_switch = &mut self.0[switch.index()];
            *of_switch = until_ms.max(*of_switch);
        }
    }

    /// Answers whether it is off.
    pub fn holds(&self, switch: Switch, now_ms: i64) -> bool {
        self.0[switch.index()].is_some_and(|until_ms| now_ms < until_ms)
    }

    /// Answers the first switch that refuses the requests of a way.
    pub fn refusing(&self, way: Way, now_ms: i64) -> Option<Switch> {
        Switch::ALL.into_iter().find(|switch| switch.refuses(way) && self.holds(*switch, now_ms))
    }
}
