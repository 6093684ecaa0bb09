//! The log of who changed what and why.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::Change;
use crate::domain::audit::{AuditQuery, AuditRow};
use crate::domain::operator::Subject;

/// The audit log. A change of what the directory keeps writes its own audit row, as [`super::SaleStore`] does. Whatever
/// changes something else notes it here before.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Writes one audit row.
    async fn note(&self, change: &Change, subject: &Subject) -> StoreResult<()>;

    /// Reads rows, descending by number.
    async fn rows(&self, query: &AuditQuery) -> StoreResult<Vec<AuditRow>>;
}
