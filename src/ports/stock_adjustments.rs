//! Changes of the stock of sales that are on.

use std::time::Duration;

use async_trait::async_trait;

use super::store_error::{StoreError, StoreResult};
use crate::domain::{Adjustment, Change, Sale, SaleId};

/// What became of an adjustment.
#[derive(Debug)]
pub enum Adjusted {
    /// It stands everywhere.
    Done,
    /// The sale was changed since the caller read it. Nothing was done.
    VersionMoved,
    /// Orders have the units that should go. Nothing was done.
    Short {
        /// So many units are free.
        free: u32,
    },
    /// It was begun, and [`StockAdjustments::finish`] brings it to its end.
    UnderWay(StoreError),
}

/// Adjusts what a sale has of a SKU, in the directory, the pools and the inventory.
#[async_trait]
pub trait StockAdjustments: Send + Sync {
    /// Adjusts a sale that is in place, if it still has the version of `sale`, and writes the audit row. One that was
    /// left under way is brought to its end first. A repetition is a second adjustment, of another version.
    ///
    /// # Errors
    /// When nothing was done, or it is not known whether the adjustment has begun.
    async fn adjust(&self, sale: &Sale, adjustment: &Adjustment, change: &Change) -> StoreResult<Adjusted>;

    /// Reads the adjustment of a sale that is under way; `None` when none is.
    async fn under_way(&self, sale: &SaleId) -> StoreResult<Option<Adjustment>>;

    /// Brings the adjustments to their end that were begun longer ago than `age`, and answers how many these were.
    async fn finish(&self, age: Duration) -> StoreResult<usize>;
}
