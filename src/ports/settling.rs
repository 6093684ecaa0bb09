//! What is left of a sale that is over, and how it leaves the inventory.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Month, Sale, SaleId};

/// The report of a settled sale, as it was when it was settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// When it was settled, ms since 1970.
    pub sealed_ms: i64,
    /// The SHA-256 of its view's text, in hexadecimal digits.
    pub hash: String,
    /// The last event of each partition that the view is built of, as JSON.
    pub numbers: String,
    /// The report, as JSON. It holds the view.
    pub report: String,
}

/// Settled sales.
#[async_trait]
pub trait Settling: Send + Sync {
    /// Reads all settled sales, each with the month of its orders.
    async fn settled(&self) -> StoreResult<Vec<(SaleId, Month)>>;

    /// Counts the orders of a sale whose units wait to go back on sale.
    async fn owed(&self, sale: &Sale) -> StoreResult<u64>;

    /// Keeps the report of a sale. One that is there already is replaced.
    async fn seal(&self, sale: &SaleId, seal: &Seal) -> StoreResult<()>;

    /// Reads the report of a sale; `None` when it has none.
    async fn sealed(&self, sale: &SaleId) -> StoreResult<Option<Seal>>;

    /// Reads the sales that have a report, and of which the inventory may still have something.
    async fn uncleared(&self) -> StoreResult<Vec<SaleId>>;

    /// Removes everything that the inventory has of a sale with a report. Nothing of it is sold any more. Idempotent.
    async fn clear(&self, sale: &Sale) -> StoreResult<()>;
}
