//! How much of a limit is left for somebody, as clients are told.

use std::sync::Arc;

use crate::domain::RuleId;

/// How a rule is told to clients: `"name";q=quota;w=window`, as the header `RateLimit-Policy` has it. Source:
/// draft-ietf-httpapi-ratelimit-headers-10 §3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The rule.
    pub rule: RuleId,
    /// The text.
    pub text: String,
}

impl Policy {
    /// Makes the policy of a bucket: its quota is what it holds, and its window the time in which it fills.
    pub fn new(rule: &RuleId, rate: u32, holds: u32) -> Arc<Self> {
        let text = format!("\"{rule}\";q={holds};w={}", holds.div_ceil(rate));
        Arc::new(Self { rule: rule.clone(), text })
    }
}

/// How much of a limit is left for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The limit.
    pub policy: Arc<Policy>,
    /// Requests that may follow at once.
    pub remaining: u64,
    /// After how many ns all of it is there again.
    pub full_in_ns: u64,
}

impl Standing {
    /// Answers the scarcer one of two.
    pub fn scarcer(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(one), Some(other)) if other.remaining < one.remaining => Some(other),
            (one, other) => one.or(other),
        }
    }
}
