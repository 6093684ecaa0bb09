//! Subscriptions, and how what they are owed leaves the shop.

use async_trait::async_trait;

use super::store_error::StoreResult;
use crate::domain::subscription::{Subscription, SubscriptionChange, SubscriptionId};

/// The addresses to which events are sent.
#[async_trait]
pub trait Subscriptions: Send + Sync {
    /// Reads all of them, oldest first, at most [`Subscription::MAX`]. A row that this version cannot read is counted
    /// and passed over.
    async fn all(&self) -> StoreResult<Vec<Subscription>>;

    /// Adds one. Answers `false` when there are [`Subscription::MAX`] already.
    async fn add(&self, subscription: &Subscription) -> StoreResult<bool>;

    /// Lets something happen to one. Answers whether there is one of this id to which it happens.
    async fn change(&self, id: &SubscriptionId, change: &SubscriptionChange) -> StoreResult<bool>;

    /// Removes one, and forgets where it was. Answers whether there was one.
    async fn remove(&self, id: &SubscriptionId) -> StoreResult<bool>;
}

/// Something that is sent to an address that an operator gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    /// The address.
    pub url: &'a str,
    /// The id of what is sent. The receiver knows by it what it has had.
    pub id: &'a str,
    /// The value of the header `Content-Type`.
    pub content_type: &'static str,
    /// The signature of the body: `t=SECONDS,v1=HEX`.
    pub signature: String,
    /// The body.
    pub body: Vec<u8>,
}

/// Sends messages out of the shop, and only to addresses to which the configuration lets them go.
#[async_trait]
pub trait Outbound: Send + Sync {
    /// Sends a message.
    ///
    /// # Errors
    /// Why it was not taken, in words for operators: no connection, an address that is not allowed, an answer other
    /// than 2xx, or none in time.
    async fn send(&self, message: &Message<'_>) -> Result<(), String>;

    /// Checks an address as far as that is possible without calling it.
    ///
    /// # Errors
    /// Why nothing may be sent there.
    fn check(&self, url: &str) -> Result<(), String>;
}
