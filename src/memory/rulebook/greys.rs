//! What some users see or get, and the others do not.

use std::collections::HashMap;

use crate::domain::rule::{Gives, Grey, Rule, RuleMode};
use crate::domain::{DeviceId, FlagId, RuleId, SaleId, UserId};

/// The grey rules. A dry run gives nothing, and hides nothing.
#[derive(Default)]
pub struct Greys {
    sales: HashMap<SaleId, Vec<Drawn>>,
    flags: Vec<(FlagId, Drawn)>,
    canaries: Vec<Drawn>,
}

/// A rule that draws.
struct Drawn {
    rule: RuleId,
    grey: Grey,
    until_ms: i64,
}

impl Drawn {
    fn admits(&self, user: &UserId, device: Option<&DeviceId>, now_ms: i64) -> bool {
        now_ms < self.until_ms && self.grey.admits(&self.rule, user, device)
    }
}

/// What somebody gets beside what all get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Whether a proxy should send them to the canary.
    pub canary: bool,
    /// The features, ascending by rule.
    pub flags: Vec<FlagId>,
}

impl Greys {
    /// Adds a rule.
    pub fn add(&mut self, rule: &Rule, grey: &Grey) {
        if rule.terms.mode == RuleMode::DryRun {
            return;
        }
        let until_ms = rule.terms.until_ms.unwrap_or(i64::MAX);
        let drawn = Drawn { rule: rule.id.clone(), grey: grey.clone(), until_ms };
        match &grey.gives {
            Gives::Sale(sale) => self.sales.entry(sale.clone()).or_default().push(drawn),
            Gives::Flag(flag) => self.flags.push((flag.clone(), drawn)),
            Gives::Canary => self.canaries.push(drawn),
        }
    }

    /// Answers whether a sale is hidden from some.
    pub fn hides_any(&self) -> bool {
        !self.sales.is_empty()
    }

    /// Answers whether somebody sees a sale. Who is not known sees no sale that is grey.
    pub fn shows(&self, sale: &SaleId, who: Option<(&UserId, Option<&DeviceId>)>, now_ms: i64) -> bool {
        let Some(rules) = self.sales.get(sale) else { return true };
        let mut holding = rules.iter().filter(|drawn| now_ms < drawn.until_ms).peekable();
        // A rule that is over hides nothing any more.
        holding.peek().is_none()
            || who.is_some_and(|(user, device)| holding.any(|drawn| drawn.admits(user, device, now_ms)))
    }

    /// Answers what somebody gets.
    pub fn given(&self, user: &UserId, device: Option<&DeviceId>, now_ms: i64) -> Given {
        let admits = |drawn: &Drawn| drawn.admits(user, device, now_ms);
        let flags = self.flags.iter().filter(|(_, drawn)| admits(drawn)).map(|(flag, _)| flag.clone());
        Given { canary: self.canaries.iter().any(admits), flags: flags.collect() }
    }
}
