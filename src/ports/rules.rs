//! The rules of traffic.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::Change;
use crate::domain::rule::{RuleChange, RuleChanged, RuleSet};

/// Keeps the rules. Their version grows with every change.
#[async_trait]
pub trait Rules: Send + Sync {
    /// Reads all rules as they are at one moment; `None` while they have the version `known`. Theirs is the smaller one
    /// after the directory was restored from a copy.
    ///
    /// # Errors
    /// Also when one of them cannot be read by this version of the program.
    async fn other_than(&self, known: u64) -> StoreResult<Option<RuleSet>>;

    /// Changes a rule, and notes it in the audit log: both or neither. Idempotent, but for the version.
    async fn change(&self, wish: &RuleChange, change: &Change) -> StoreResult<RuleChanged>;
}
