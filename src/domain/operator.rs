//! What operators leave behind: who changed what and why, and what the ledgers answer them.

/// Who changes a sale and why; becomes one row of the audit log.
#[derive(Debug, Clone)]
pub struct Change {
    pub actor: String,
    pub action: &'static str,
    pub reason: String,
    pub request_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub name: String,
    pub scopes: Vec<String>,
}

/// What the ledgers of all instances and the pool hold of one SKU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    pub stock: i64,
    pub granted: i64,
    pub allotted: i64,
    pub held: i64,
    pub sold: i64,
}
