//! The operator's side of the inventory.

use std::collections::HashMap;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Sale, SkuId};

/// The operator's side of the inventory: putting stock in place and opening or closing its gates.
#[async_trait]
pub trait Gates: Send + Sync {
    /// Puts a sale's stock and gates in place in every bucket. Idempotent: a bucket that is in place stays as it is.
    ///
    /// # Errors
    /// Also when a bucket is in place in another epoch.
    async fn preheat(&self, sale: &Sale) -> StoreResult<()>;

    /// Brings every bucket's gate to the state that the sale has. Idempotent. An older version of the sale changes
    /// nothing, so any process may call it at any time.
    ///
    /// # Errors
    /// Also when a gate is in another epoch, or is missing although the sale has not ended.
    async fn set_gates(&self, sale: &Sale) -> StoreResult<()>;

    /// Reads the available units of every bucket (ascending) by SKU; `None` for a bucket that is not in place.
    async fn available(&self, sale: &Sale) -> StoreResult<Vec<Option<HashMap<SkuId, i64>>>>;
}
