//! Keeps the tickets of streams in Redis, each until it is taken or too old.

use std::sync::Arc;

use async_trait::async_trait;

use super::redis_link::RedisLink;
use crate::domain::stream::TicketHolder;
use crate::ports::{StoreError, StoreResult, StreamTickets};

const GIVE: &str = "give stream ticket";
const TAKE: &str = "take stream ticket";

/// Serves tickets from Redis.
pub struct RedisStreamTickets {
    /// The link.
    pub link: Arc<RedisLink>,
}

#[async_trait]
impl StreamTickets for RedisStreamTickets {
    async fn give(&self, hash: [u8; 32], holder: &TicketHolder) -> StoreResult<()> {
        let text = serde_json::to_string(holder).expect("a holder is JSON");
        let mut give = redis::cmd("SET");
        give.arg(self.link.stream_ticket(hash)).arg(text).arg("PX").arg(TicketHolder::KEPT_MS);
        self.link.command::<()>(GIVE, &give).await
    }

    async fn take(&self, hash: [u8; 32]) -> StoreResult<Option<TicketHolder>> {
        let take = redis::cmd("GETDEL").arg(self.link.stream_ticket(hash)).to_owned();
        let found: Option<String> = self.link.command(TAKE, &take).await?;
        let read = |text: String| serde_json::from_str(&text);
        found.map(read).transpose().map_err(|error| StoreError::broken(TAKE, error.to_string()))
    }
}
