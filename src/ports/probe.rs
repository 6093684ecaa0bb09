//! Asks whether a component answers.

use async_trait::async_trait;

use super::store_error::StoreResult;

/// Asks whether a component answers now, for `/readyz`.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Answers the component's name in `/readyz?verbose`.
    fn name(&self) -> String;

    /// Answers whether nothing can be sold while the component is down. Without the others, orders are only delayed.
    fn is_vital(&self) -> bool;

    /// Asks the component once.
    ///
    /// # Errors
    /// The failure of the component.
    async fn check(&self) -> StoreResult<()>;
}
