//! The sessions of admin pages.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::ApiKey;
use crate::domain::api_key::Session;

/// The sessions, by the SHA-256 of their text. Every process sees them.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Begins a session. Those that are over, and the oldest of too many of its key, are removed.
    async fn begin(&self, session: &Session) -> StoreResult<()>;

    /// Finds a session and its key; `None` for one that is unknown, or whose key has ended at `now_ms`.
    async fn session(&self, hash: [u8; 32], now_ms: i64) -> StoreResult<Option<(Session, ApiKey)>>;

    /// Notes that a session was used.
    async fn note_seen(&self, hash: [u8; 32], seen_ms: i64) -> StoreResult<()>;

    /// Ends a session. One that there is not is no error.
    async fn end(&self, hash: [u8; 32]) -> StoreResult<()>;
}
