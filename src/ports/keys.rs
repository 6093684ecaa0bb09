//! The API keys of those who may read and change sales.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::ApiKey;

/// The directory of API keys, by the SHA-256 of their text.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Finds the key of a hash; `None` for a key that is unknown or revoked.
    async fn api_key(&self, key_hash: [u8; 32]) -> StoreResult<Option<ApiKey>>;

    /// Adds a key.
    ///
    /// # Errors
    /// Also when a key of this hash exists.
    async fn add_api_key(&self, key_hash: [u8; 32], key: &ApiKey) -> StoreResult<()>;
}
