//! The views of sales, as sums of what their events say.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::view::{Counted, CountedSales, Counts};
use crate::domain::{EventNumbers, Instance, Part, SaleId};

/// The name of the reader of events that builds the views.
pub const VIEWS: &str = "views";

/// The sums of every sale and partition. The reader [`VIEWS`] of [`super::OrderEvents`] moves on in the transaction
/// that adds what it has read, so every event counts once.
#[async_trait]
pub trait Views: Send + Sync {
    /// Adds what events say, and moves the reader on from `from` to `to`, of the same partitions of one instance.
    /// Answers `false` when the reader is not at `from`, and changes nothing then.
    async fn add(
        &self,
        at: Instance,
        (from, to): (&EventNumbers, &EventNumbers),
        sales: &CountedSales,
    ) -> StoreResult<bool>;

    /// Reads the sums of a sale, of all partitions together.
    async fn counts(&self, sale: &SaleId) -> StoreResult<Counts>;

    /// Reads the sums of a sale in one partition.
    async fn counts_in(&self, part: Part, sale: &SaleId) -> StoreResult<Counts>;

    /// Reads of which events the sums of every sale in a partition are, without the sums.
    async fn marks(&self, part: Part) -> StoreResult<Vec<(SaleId, Counted)>>;

    /// Puts other sums in place of those of some sales in a partition. Answers `false` when the reader is not at
    /// `upto`, and changes nothing then.
    async fn replace(&self, part: Part, upto: i64, sales: &[(SaleId, Counted)]) -> StoreResult<bool>;
}
