//! Shares buckets of tokens by Redis, with its clock.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::Script;

use super::redis_link::RedisLink;
use crate::ports::{StoreError, StoreResult, TokenGrant, TokenLeases, TokenWish};

const LEASE: &str = "lease tokens";

/// Serves shared buckets from Redis.
pub struct RedisTokenLeases {
    link: Arc<RedisLink>,
    lease: Script,
}

impl RedisTokenLeases {
    /// Loads the script. It calls nothing.
    pub fn new(link: Arc<RedisLink>) -> Self {
        Self { link, lease: Script::new(include_str!("../../../lua/lease_tokens.lua")) }
    }
}

#[async_trait]
impl TokenLeases for RedisTokenLeases {
    async fn lease(&self, wishes: &[TokenWish]) -> StoreResult<Vec<TokenGrant>> {
        let mut call = self.lease.prepare_invoke();
        for TokenWish { bucket, rate, tokens } in wishes {
            call.key(self.link.limit(bucket)).arg(rate.rate).arg(rate.holds()).arg(tokens);
        }
        let given: Vec<(u32, u64, u64, u32)> = self.link.script(LEASE, &call).await?;
        if given.len() != wishes.len() {
            return Err(StoreError::broken(LEASE, "another number of answers than of wishes".to_owned()));
        }
        let grant = |(tokens, wait_us, given, left)| {
            let wait = Duration::from_micros(wait_us);
            TokenGrant { tokens, wait, given, left }
        };
        Ok(given.into_iter().map(grant).collect())
    }
}
