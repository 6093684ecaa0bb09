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

/// What waits of a sale for something else than its orders' end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Orders whose units wait to go back on sale.
    pub releases: u64,
    /// Outbox entries that were set aside for a person.
    pub set_aside: u64,
    /// Adjustments of its stock that are under way.
    pub adjustments: u64,
}

/// Settled sales.
#[async_trait]
pub trait Settling: Send + Sync {
    /// Reads all settled sales, each with the month of its orders.
    async fn settled(&self) -> StoreResult<Vec<(SaleId, Month)>>;

    /// Counts what waits of a sale.
    async fn waiting(&self, sale: &Sale) -> StoreResult<Waiting>;

    /// Keeps the report of a sale that is not settled yet. One that is there already is replaced.
    async fn seal(&self, sale: &SaleId, seal: &Seal) -> StoreResult<()>;

    /// Reads the report of a sale; `None` when it is not settled.
    async fn sealed(&self, sale: &SaleId) -> StoreResult<Option<Seal>>;

    /// Reads the sales that have a report, and of which the inventory may still have something.
    async fn uncleared(&self) -> StoreResult<Vec<SaleId>>;

    /// Removes everything that the inventory has of a sale with a report. Nothing of it is sold any more. Idempotent.
    async fn clear(&self, sale: &Sale) -> StoreResult<()>;
}
