//! What operators leave behind and what they are told: who changed what and why, their keys, and the ledgers' units.

/// Who changes a sale and why; becomes one row of the audit log.
#[derive(Debug, Clone)]
pub struct Change {
    /// The name of the operator's API key, or `import`.
    pub actor: String,
    /// The word of what is done.
    pub action: &'static str,
    /// Why it is done, in the operator's words.
    pub reason: String,
    /// The id of the request that asked for it; `-` when there was none.
    pub request_id: String,
}

/// What the directory knows of an operator's API key. The key's text is not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The operator's name, which the audit log shows.
    pub name: String,
    /// The words of what the key may do, such as `sales:read`.
    pub scopes: Vec<String>,
}

/// The units of one SKU in the pools and ledgers of all instances together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The stock of all pools.
    pub stock: i64,
    /// Units that left the pools.
    pub granted: i64,
    /// Units that the instances may hold and sell.
    pub allotted: i64,
    /// Units of orders that wait for their payment.
    pub held: i64,
    /// Units of paid orders.
    pub sold: i64,
}
