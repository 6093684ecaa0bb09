//! Rules of traffic, as operators make them: how often somebody may ask for something, and who may not ask at all.
//!
//! Invariant: a rule that exists is valid, because [`RuleTerms::check`] is asked before one is kept. Its document keeps
//! the words of its kind, so that a new kind needs no new table. A process that cannot read one rule takes none of the
//! newer ones over.

mod dependency;
mod grey;
mod limit;
mod scope;
mod switch;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ids::RuleId;
pub use dependency::*;
pub use grey::*;
pub use limit::*;
use scope::fault;
pub use scope::{About, InvalidRule, Scope, Way};
pub use switch::*;

/// Most rules of a shop. Every process keeps all of them, and a request walks those of its route.
pub const RULES_MAX: usize = 1000;

/// A rule, and the version of all rules in which it was changed last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Its name.
    pub id: RuleId,
    /// What it says.
    #[serde(flatten)]
    pub terms: RuleTerms,
    /// The version of all rules that its last change made.
    pub version: u64,
}

/// All rules at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Grows with every change of a rule; 0 before the first one.
    pub version: u64,
    /// The rules, ascending by id, at most [`RULES_MAX`].
    pub rules: Vec<Rule>,
}

/// A change of one rule.
#[derive(Debug, Clone)]
pub struct RuleChange {
    /// The rule.
    pub id: RuleId,
    /// What it says from now on; `None` removes it.
    pub terms: Option<RuleTerms>,
    /// The versions of the rule of which it has to have one; `None` for whatever it is.
    pub seen: Option<Vec<u64>>,
}

/// What became of a change of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleChanged {
    /// It stands. All rules have this version now.
    Done(u64),
    /// Somebody has changed the rule meanwhile. Nothing was changed.
    VersionMoved,
    /// There is no such rule to remove.
    Unknown,
    /// There are as many rules as there may be. Nothing was changed.
    TooMany,
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Document", try_from = "Document")]
pub struct RuleTerms {
    /// Whose requests are counted together.
    pub scope: Scope,
    /// Which requests it is about.
    pub about: About,
    /// What happens to them.
    pub limit: Limit,
    /// Whether it refuses, or only counts what it would refuse.
    pub mode: RuleMode,
    /// When it ends, ms since 1970; `None` for a rule that stays.
    pub until_ms: Option<i64>,
    /// Why it is there, in the operator's words.
    pub reason: String,
}

/// Whether a rule refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleMode {
    /// It does.
    #[default]
    Enforce,
    /// It only counts what it would refuse.
    DryRun,
}

impl RuleTerms {
    /// The most characters of a reason.
    pub const REASON_MAX: usize = 200;

    /// Makes the terms of a rule that holds for everything.
    pub fn of_all(limit: Limit, until_ms: Option<i64>, reason: String) -> Self {
        let (scope, about) = (Scope::All, About::default());
        Self { scope, about, limit, mode: RuleMode::Enforce, until_ms, reason }
    }

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self) -> Result<(), InvalidRule> {
        if !(1..=Self::REASON_MAX).contains(&self.reason.chars().count()) {
            return fault("/reason", "must have 1 to 200 characters");
        }
        if let Some(way) = self.about.route {
            if self.scope == Scope::User && !way.names_user() {
                return fault("/scope", "requests of this route name no user");
            }
            if self.scope == Scope::Sale && !way.names_sale() {
                return fault("/scope", "requests of this route name no sale");
            }
            if self.about.sale.is_some() && !way.names_sale() {
                return fault("/match/sale", "requests of this route name no sale");
            }
        }
        self.limit.check(self.scope, &self.about)
    }

    /// Answers whether it holds at a moment.
    pub fn holds_at(&self, now_ms: i64) -> bool {
        self.until_ms.is_none_or(|until_ms| now_ms < until_ms)
    }

    /// Answers the terms as they are kept.
    pub fn document(&self) -> String {
        serde_json::to_string(self).expect("terms are JSON")
    }

    /// Reads what [`Self::document`] answered.
    ///
    /// # Errors
    /// When this version does not know a word of it, or it is damaged.
    pub fn read(document: &str) -> Result<Self, String> {
        let terms: Self = serde_json::from_str(document).map_err(|error| error.to_string())?;
        terms.check().map_err(|error| error.to_string())?;
        Ok(terms)
    }
}

/// A rule's terms in JSON, where kind and value stand beside the rest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    scope: Scope,
    #[serde(default, rename = "match", skip_serializing_if = "About::is_all")]
    about: About,
    kind: String,
    value: serde_json::Value,
    #[serde(default)]
    mode: RuleMode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_ms: Option<i64>,
    reason: String,
}

impl From<RuleTerms> for Document {
    fn from(terms: RuleTerms) -> Self {
        let RuleTerms { scope, about, limit, mode, until_ms, reason } = terms;
        let mut parts = serde_json::to_value(&limit).expect("a limit is JSON");
        Self {
            scope,
            about,
            kind: limit.kind().to_owned(),
            value: parts["value"].take(),
            mode,
            until_ms,
            reason,
        }
    }
}

impl TryFrom<Document> for RuleTerms {
    type Error = serde_json::Error;

    fn try_from(document: Document) -> Result<Self, Self::Error> {
        let Document { scope, about, kind, value, mode, until_ms, reason } = document;
        let limit = serde_json::from_value(serde_json::json!({ "kind": kind, "value": value }))?;
        Ok(Self { scope, about, limit, mode, until_ms, reason })
    }
}

#[cfg(test)]
mod tests;
