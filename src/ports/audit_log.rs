//! The log of who changed what and why.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::Change;
use crate::domain::operator::Subject;

/// The audit log. A change of a sale's row writes its own audit row ([`super::SaleStore`]). Whatever changes something
/// else notes it here before.
#[async_trait]
pub trait AuditLog: Send + Sync {
    /// Writes one audit row.
    async fn note(&self, change: &Change, subject: &Subject) -> StoreResult<()>;
}
