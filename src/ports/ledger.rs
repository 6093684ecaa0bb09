//! The units of sales in the databases: pools and ledgers.

use std::collections::HashMap;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Holdings, Sale, SkuId};

/// The pools and ledgers: every instance has one of each for every SKU.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Opens a pool and a ledger for every item of a sale on every instance. Idempotent.
    async fn open_pools(&self, sale: &Sale) -> StoreResult<()>;

    /// Reads what all instances together hold of every SKU. A SKU without a pool is not among them.
    async fn holdings(&self, sale: &Sale) -> StoreResult<HashMap<SkuId, Holdings>>;
}
