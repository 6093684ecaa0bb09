//! The processes of the shop.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::node::{Node, NodeBeat};

/// Knows which processes there are.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Notes what a process tells of itself, in place of what it told before. Answers whether an operator wants it out
    /// of service.
    async fn beat(&self, beat: &NodeBeat) -> StoreResult<bool>;

    /// Notes whether an operator wants a process out of service. Idempotent.
    async fn wish_out(&self, id: &str, is_out: bool) -> StoreResult<()>;

    /// Forgets a process that ends as it should. Idempotent.
    async fn leave(&self, id: &str) -> StoreResult<()>;

    /// Lists the processes, lost ones too, ascending by role and start. Those that were lost for
    /// [`Node::FORGOTTEN_AFTER_MS`] are left out and forgotten.
    async fn all(&self) -> StoreResult<Vec<Node>>;
}
