//! The stored positions, as they are watched, halted and moved.

use std::collections::HashMap;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::{Part, Position};

/// The stored position of every partition. Order writers advance it with each batch ([`super::OrderWrites`]).
#[async_trait]
pub trait Positions: Send + Sync {
    /// Reads the positions of all partitions. Those of an instance that is down are left out.
    async fn positions(&self) -> HashMap<Part, Position>;

    /// Replaces a position that still is `seen` by `to`. Answers `false` when it is another one by now, and then
    /// changes nothing.
    async fn replace(&self, part: Part, seen: &Position, to: &Position) -> StoreResult<bool>;
}
