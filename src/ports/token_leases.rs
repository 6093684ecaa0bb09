//! Buckets of tokens that all processes share.

use std::time::Duration;

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::rule::TokenRate;

/// Gives out tokens of shared buckets. A bucket that nobody knows is full.
#[async_trait]
pub trait TokenLeases: Send + Sync {
    /// Takes up to the wished tokens out of each bucket, and answers in the order of the wishes. No two wishes name one
    /// bucket. Whoever takes tokens lets at most as many requests pass; those that are not used are lost. Not
    /// idempotent: a call that failed may have taken them.
    async fn lease(&self, wishes: &[TokenWish]) -> StoreResult<Vec<TokenGrant>>;
}

/// A wish for tokens of a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenWish {
    /// The bucket's name, of any characters.
    pub bucket: String,
    /// How fast it fills, and how much it holds. Wishes that say something else of one bucket are answered by what they
    /// say.
    pub rate: TokenRate,
    /// How many tokens are wished for, at least 1.
    pub tokens: u32,
}

/// What a bucket gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenGrant {
    /// The tokens: as many as were wished for, or all that there were.
    pub tokens: u32,
    /// How long it is until there is another one; zero when there is one.
    pub wait: Duration,
    /// How many tokens the bucket has given to all processes. It grows, and begins again when the bucket is forgotten.
    pub given: u64,
    /// How many tokens are left for all.
    pub left: u32,
}
