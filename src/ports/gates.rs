//! The operator's side of the inventory.

use std::collections::HashMap;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Sale, SkuId};

/// What stands of one bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BucketState {
    /// It has no gate.
    Absent,
    /// Keys of it are missing, though an order was held: nobody knows who holds what, and it sells nothing.
    Lost {
        /// The names of the keys, such as `buyers`.
        keys: Vec<String>,
    },
    /// It is whole.
    Whole {
        /// The available units of each SKU.
        available: HashMap<SkuId, i64>,
        /// Units that it gave to other buckets and that are not known to have come there.
        under_way: Vec<UnitMove>,
        /// Since when, by the inventory's clock, ms since 1970, it is in place and was never opened; `None` once it
        /// was.
        placing_since_ms: Option<i64>,
    },
}

/// Names how a bucket was put in place. Only who has it opens the bucket for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed(pub String);

/// Units on their way from one bucket of a sale to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitMove {
    /// The move, as it is noted where the units come from.
    pub id: String,
    /// The number of the bucket that gets them.
    pub to: u16,
    /// What is moved.
    pub sku: SkuId,
    /// How many units.
    pub units: u32,
    /// Since when, by the inventory's clock, ms since 1970.
    pub since_ms: i64,
    /// The epochs of the giving bucket and of the taking one, for which the move is; `None` in a note of version 0.1.
    pub epochs: Option<(u32, u32)>,
}

impl BucketState {
    /// Counts the units of a SKU that the bucket has or has on their way; 0 when it is not whole.
    pub fn units_of(&self, sku: &SkuId) -> i64 {
        match self {
            Self::Whole { available, under_way, .. } => {
                let moved =
                    under_way.iter().filter(|moved| moved.sku == *sku).map(|moved| i64::from(moved.units));
                available.get(sku).copied().unwrap_or(0) + moved.sum::<i64>()
            }
            Self::Absent | Self::Lost { .. } => 0,
        }
    }

    /// Answers the available units of each SKU; `None` when the bucket is not whole.
    pub fn available(&self) -> Option<&HashMap<SkuId, i64>> {
        match self {
            Self::Whole { available, .. } => Some(available),
            Self::Absent | Self::Lost { .. } => None,
        }
    }
}

/// The operator's side of the inventory: putting stock in place and opening or closing its gates.
#[async_trait]
pub trait Gates: Send + Sync {
    /// Puts a sale's stock in place in every bucket, with gates that do not sell yet. Idempotent: a bucket that is in
    /// place stays as it is. The caller knows that nothing of the sale's epoch was sold. Answers for every bucket,
    /// ascending, how it was put in place, by this call or before.
    ///
    /// # Errors
    /// Also when a bucket is in place in another epoch, or is being rebuilt.
    async fn preheat(&self, sale: &Sale) -> StoreResult<Vec<Placed>>;

    /// Brings every bucket's gate to the state that the sale has. Idempotent. An older version of the sale changes
    /// nothing, so any process may call it at any time. The gates of a sale that is not in place are only ended. A
    /// bucket that was never opened is only ended, or opened by who says how it was put in place: `placed` is what
    /// [`Self::preheat`] answered, or empty.
    ///
    /// # Errors
    /// Also when a gate is missing although the sale is in place and has not ended. The other gates are set all the
    /// same.
    async fn set_gates(&self, sale: &Sale, placed: &[Placed]) -> StoreResult<()>;

    /// Reads the inventory's clock, which decides when a sale opens and closes, in ms since 1970.
    async fn now_ms(&self) -> StoreResult<i64>;

    /// Reads what stands of every bucket, ascending.
    async fn buckets(&self, sale: &Sale) -> StoreResult<Vec<BucketState>>;

    /// Moves at most `units` of a SKU from one bucket of a sale to another, and answers how many it moved. Units are
    /// neither made nor lost: those that do not come to the other bucket stay noted as under way.
    ///
    /// # Errors
    /// When units may be under way. [`Self::finish_move`] brings them on.
    async fn move_units(&self, sale: &Sale, from: u16, to: u16, sku: &SkuId, units: u32) -> StoreResult<u32>;

    /// Brings units on that are under way from a bucket, or takes them back when one of the two was rebuilt meanwhile.
    /// Idempotent.
    async fn finish_move(&self, sale: &Sale, from: u16, moved: &UnitMove) -> StoreResult<()>;
}
