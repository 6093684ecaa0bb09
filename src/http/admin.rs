//! The handlers of the operators' listener.

pub mod breakers;
pub mod changes;
pub mod configuration;
pub mod dead_letters;
pub mod events;
pub mod health;
pub mod nodes;
pub mod orders;
pub mod payments;
pub mod reconcile;
pub mod rules;
pub mod sale_bodies;
pub mod sales;
pub mod switches;
pub mod views;
pub mod webhooks;

use actix_web::HttpRequest;

use super::auth::Cause;
use super::middleware::RequestId;
use super::problem::{Code, Problem};
use super::{Context, auth, extract};
use crate::domain::{ApiKey, Change};

/// A group of admin routes that an API key may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Reading sales and their stock.
    SalesRead,
    /// Creating and changing sales, and taking them through their life.
    SalesWrite,
    /// Reading anybody's order.
    OrdersRead,
    /// Cancelling anybody's order.
    OrdersWrite,
    /// Saying where events are sent, which leave the shop with all that they tell of buyers.
    WebhooksWrite,
    /// Reading the rules of traffic.
    LimitsRead,
    /// Changing the rules of traffic.
    LimitsWrite,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 7] = [
        Self::SalesRead,
        Self::SalesWrite,
        Self::OrdersRead,
        Self::OrdersWrite,
        Self::WebhooksWrite,
        Self::LimitsRead,
        Self::LimitsWrite,
    ];

    /// Returns the scope's word, as it is stored with an API key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SalesRead => "sales:read",
            Self::SalesWrite => "sales:write",
            Self::OrdersRead => "orders:read",
            Self::OrdersWrite => "orders:write",
            Self::WebhooksWrite => "webhooks:write",
            Self::LimitsRead => "limits:read",
            Self::LimitsWrite => "limits:write",
        }
    }
}

/// Looks up the API key of a request, and checks that it has the scope.
///
/// # Errors
/// `unauthenticated` when the request has no key, an unknown one or two, `forbidden` when the key lacks the scope,
/// `dependency_unavailable` when the directory could not be read.
pub async fn operator(request: &HttpRequest, context: &Context, scope: Scope) -> Result<ApiKey, Problem> {
    let key =
        extract::authorization(request)?.and_then(auth::bearer).ok_or_else(|| Cause::Missing.refuse())?;
    if !key.starts_with("sk_") {
        return Err(Cause::Malformed.refuse());
    }
    let found = context.shop.api_key(auth::api_key_hash(key)).await?;
    let found = found.ok_or_else(|| Cause::ApiKey.refuse())?;
    if found.scopes.iter().any(|held| held == scope.as_str()) {
        Ok(found)
    } else {
        Err(Problem::new(Code::Forbidden).with("scope", scope.as_str()))
    }
}

/// Makes the row of the audit log for the change that this request is about to make.
pub fn change(request: &HttpRequest, operator: &ApiKey, action: &'static str, reason: &str) -> Change {
    let request_id = RequestId::of(request).as_str().to_owned();
    Change { actor: operator.name.clone(), action, reason: reason.to_owned(), request_id }
}
