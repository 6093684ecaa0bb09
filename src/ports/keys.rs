//! The API keys of operators.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::api_key::{KeyId, StoredKey};
use crate::domain::{ApiKey, Change};

/// The directory of API keys, by the SHA-256 of their text.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Finds the key of a hash; `None` for a key that is unknown, or has ended at `now_ms`.
    async fn api_key(&self, key_hash: [u8; 32], now_ms: i64) -> StoreResult<Option<ApiKey>>;

    /// Reads the keys, first those without an end, of both those that were made last first, at most 10,000.
    async fn api_keys(&self) -> StoreResult<Vec<StoredKey>>;

    /// Adds a key and its audit row in one transaction.
    ///
    /// # Errors
    /// Also when a key of this hash exists.
    async fn add_api_key(&self, key_hash: [u8; 32], key: &ApiKey, change: &Change) -> StoreResult<()>;

    /// Adds a key in the place of another one, which ends at `ends_ms`, and the audit row, in one transaction. Answers
    /// `false`, and changes nothing, when there is no such key or it has an end already.
    async fn replace_api_key(
        &self,
        id: KeyId,
        (key_hash, key): ([u8; 32], &ApiKey),
        ends_ms: i64,
        change: &Change,
    ) -> StoreResult<bool>;

    /// Ends a key at `now_ms`, and writes the audit row, in one transaction. Answers `false`, and changes nothing, when
    /// there is no such key or it has ended.
    async fn end_api_key(&self, id: KeyId, now_ms: i64, change: &Change) -> StoreResult<bool>;

    /// Notes when a key was used.
    async fn note_use(&self, key_hash: [u8; 32], used_ms: i64) -> StoreResult<()>;
}
