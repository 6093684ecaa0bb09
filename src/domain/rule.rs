//! Rules of traffic, as operators make them: how often somebody may ask for something, and who may not ask at all.
//!
//! Invariant: a rule that exists is valid, because [`RuleTerms::check`] is asked before one is kept. Its document keeps
//! the words of its kind, so that a new kind needs no new table. A process that cannot read one rule takes none of the
//! newer ones over.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ids::{RuleId, SaleId, UserId};

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

/// A way of the public listener that rules may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `POST /sales/{sale}/orders`.
    Purchase,
    /// `GET /orders/{order}`.
    OrderRead,
    /// `GET /orders`.
    OrderList,
    /// `POST /orders/{order}/pay`.
    Pay,
    /// `POST /orders/{order}/cancel`.
    Cancel,
    /// `GET /sales/{sale}`.
    SaleRead,
    /// `GET /sales`.
    SaleList,
}

impl Way {
    /// All ways.
    pub const ALL: [Self; 7] = [
        Self::Purchase,
        Self::OrderRead,
        Self::OrderList,
        Self::Pay,
        Self::Cancel,
        Self::SaleRead,
        Self::SaleList,
    ];

    /// Answers whether its requests name a user, by their token.
    fn names_user(self) -> bool {
        !matches!(self, Self::SaleRead | Self::SaleList)
    }

    /// Answers whether its requests name a sale, by their path.
    fn names_sale(self) -> bool {
        matches!(self, Self::Purchase | Self::SaleRead)
    }

    /// Answers its place among [`Self::ALL`].
    pub fn index(self) -> usize {
        match self {
            Self::Purchase => 0,
            Self::OrderRead => 1,
            Self::OrderList => 2,
            Self::Pay => 3,
            Self::Cancel => 4,
            Self::SaleRead => 5,
            Self::SaleList => 6,
        }
    }
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everybody's.
    #[default]
    All,
    /// Those of one way.
    Route,
    /// Those of one user, as the token says. Requests that need no token are not counted.
    User,
    /// Those of one IPv4 address, or of one IPv6 /64 network.
    Address,
    /// Those about one sale. A request about none is not counted.
    Sale,
}

/// Which requests a rule is about: all that fit to every field that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Those of one way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Way>,
    /// Those about one sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sale: Option<SaleId>,
}

impl About {
    fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens to the requests that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "value", rename_all = "snake_case")]
pub enum Limit {
    /// So many pass, counted by [`Scope`].
    TokenBucket(TokenRate),
    /// None of a caller's passes.
    Block(Caller),
    /// All of a caller's pass, whatever other rules say.
    Allow(Caller),
}

impl Limit {
    /// The word of the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TokenBucket(_) => "token_bucket",
            Self::Block(_) => "block",
            Self::Allow(_) => "allow",
        }
    }
}

/// The numbers of a token bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRate {
    /// Requests a second, 1 to [`TokenRate::RATE_MAX`].
    pub rate: u32,
    /// Requests at once, 0 (as many as a second has) to [`TokenRate::RATE_MAX`].
    #[serde(default)]
    pub burst: u32,
}

impl TokenRate {
    /// The highest rate and burst.
    pub const RATE_MAX: u32 = 1_000_000;
}

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// A user.
    User(UserId),
    /// All addresses of a network; a single address is the network of it alone.
    Address(#[serde(with = "network")] IpNet),
}

/// Whether a rule refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleMode {
    /// It does.
    #[default]
    Enforce,
    /// It only counts what it would refuse.
    DryRun,
}

/// A fault in a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct InvalidRule {
    /// The JSON pointer of the field.
    pub pointer: &'static str,
    /// What the field has to be.
    pub detail: String,
}

impl RuleTerms {
    /// The most characters of a reason.
    pub const REASON_MAX: usize = 200;

    /// Checks what the types do not say.
    ///
    /// # Errors
    /// The first fault.
    pub fn check(&self) -> Result<(), InvalidRule> {
        let fault = |pointer, detail: &str| Err(InvalidRule { pointer, detail: detail.to_owned() });
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
        match &self.limit {
            Limit::TokenBucket(TokenRate { rate, burst }) => {
                if !(1..=TokenRate::RATE_MAX).contains(rate) {
                    return fault("/value/rate", "must be from 1 to 1000000");
                }
                if *burst > TokenRate::RATE_MAX {
                    return fault("/value/burst", "must be from 0 to 1000000");
                }
            }
            Limit::Block(_) | Limit::Allow(_) => {
                if self.scope != Scope::All {
                    return fault("/scope", "a rule about one caller counts nobody: leave it out");
                }
                if !self.about.is_all() {
                    return fault("/match", "a rule about one caller holds for all requests: leave it out");
                }
            }
        }
        Ok(())
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

/// Reads and writes a network: `203.0.113.0/24`, or an address alone.
mod network {
    use std::net::IpAddr;

    use ipnet::IpNet;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub fn serialize<S: Serializer>(network: &IpNet, output: S) -> Result<S::Ok, S::Error> {
        output.collect_str(network)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<IpNet, D::Error> {
        let text = String::deserialize(input)?;
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network = network
            .map_err(|_| de::Error::custom("must be an address or a network such as 203.0.113.0/24"))?;
        // A network is named by any of its addresses, and kept by its first one.
        Ok(network.trunc())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(document: serde_json::Value) -> Result<RuleTerms, String> {
        RuleTerms::read(&document.to_string())
    }

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        for document in [
            r#"{"scope":"address","match":{"route":"purchase"},"kind":"token_bucket","value":{"rate":50,"burst":100},"mode":"enforce","reason":"r"}"#,
            r#"{"scope":"user","match":{"route":"purchase","sale":"drop"},"kind":"token_bucket","value":{"rate":5,"burst":0},"mode":"dry_run","until_ms":7,"reason":"r"}"#,
            r#"{"scope":"all","kind":"block","value":{"user":"u1"},"mode":"enforce","reason":"r"}"#,
            r#"{"scope":"all","kind":"block","value":{"address":"203.0.113.0/24"},"mode":"enforce","reason":"r"}"#,
            r#"{"scope":"all","kind":"allow","value":{"user":"u1"},"mode":"enforce","reason":"愿"}"#,
        ] {
            let read = RuleTerms::read(document).expect(document).document();
            let as_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
            assert_eq!(as_json(&read), as_json(document));
        }
        let network = |text: &str| {
            let document =
                serde_json::json!({ "kind": "block", "value": { "address": text }, "reason": "r" });
            read(document).map(|terms| terms.document()).unwrap_or_default().contains("\"203.0.113.0/24\"")
        };
        assert!(network("203.0.113.7/24"), "kept by its first address");
        let one =
            serde_json::json!({ "kind": "block", "value": { "address": "203.0.113.7" }, "reason": "r" });
        assert!(read(one).expect("one address").document().contains("\"203.0.113.7/32\""));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        let rate = |rate: u32, burst: u32| serde_json::json!({ "kind": "token_bucket", "value": { "rate": rate, "burst": burst }, "reason": "r" });
        assert!(read(rate(1, 0)).is_ok() && read(rate(1_000_000, 1_000_000)).is_ok());
        let block =
            |value: serde_json::Value| serde_json::json!({ "kind": "block", "value": value, "reason": "r" });
        let with = |name: &str, value: serde_json::Value| {
            let mut rule = rate(1, 0);
            rule[name] = value;
            rule
        };
        let counted = |scope: &str, about: serde_json::Value| {
            let mut rule = with("match", about);
            rule["scope"] = scope.into();
            rule
        };
        assert!(read(counted("user", serde_json::json!({ "route": "pay" }))).is_ok());
        for wrong in [
            rate(0, 1),
            rate(1_000_001, 1),
            rate(1, 1_000_001),
            with("kind", "sliding_window".into()),
            with("value", serde_json::json!({ "rate": 1, "brust": 2 })),
            with("scope", "country".into()),
            with("match", serde_json::json!({ "route": "nowhere" })),
            with("match", serde_json::json!({ "path": "/" })),
            with("mode", "maybe".into()),
            with("reason", "".into()),
            with("reason", "x".repeat(201).into()),
            with("more", 1.into()),
            counted("user", serde_json::json!({ "route": "sale_list" })),
            counted("sale", serde_json::json!({ "route": "order_read" })),
            counted("all", serde_json::json!({ "route": "order_list", "sale": "drop" })),
            block(serde_json::json!({ "user": "" })),
            block(serde_json::json!({ "address": "203.0.113.0/33" })),
            block(serde_json::json!({ "address": "everybody" })),
            block(serde_json::json!({ "user": "a", "address": "1.1.1.1" })),
            serde_json::json!({ "scope": "user", "kind": "block", "value": { "user": "u" }, "reason": "r" }),
            serde_json::json!({ "match": { "sale": "s" }, "kind": "allow", "value": { "user": "u" }, "reason": "r" }),
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rule_holds_until_its_end() {
        let mut terms = read(serde_json::json!({ "kind": "block", "value": { "user": "u" }, "reason": "r" }))
            .expect("a rule");
        assert!(terms.holds_at(i64::MAX));
        terms.until_ms = Some(10);
        assert!(terms.holds_at(9) && !terms.holds_at(10));
    }
}
