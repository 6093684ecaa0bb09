//! The audit log as it is read: who changed what, when and why.

use super::ids::SaleId;

/// Which rows of the audit log are wanted. `None` leaves a condition out.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Of this operator.
    pub actor: Option<String>,
    /// Of this action.
    pub action: Option<String>,
    /// Of this sale.
    pub sale: Option<SaleId>,
    /// Not before this time, ms since 1970.
    pub since_ms: Option<i64>,
    /// Before this time, ms since 1970.
    pub until_ms: Option<i64>,
    /// With a smaller number than this.
    pub before: Option<i64>,
    /// The most rows, from 1 on.
    pub limit: u32,
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number. A row that was written later has a greater one.
    pub number: i64,
    /// When it was written, ms since 1970.
    pub at_ms: i64,
    /// Who: see [`super::Change::actor`].
    pub actor: String,
    /// What was done.
    pub action: String,
    /// The sale that was changed, when it was a sale.
    pub sale: Option<String>,
    /// Why.
    pub reason: String,
    /// The request that asked for it; `-` when none did.
    pub request_id: String,
    /// What was changed, in JSON: a sale as it was then, or what names anything else.
    pub subject: String,
}
