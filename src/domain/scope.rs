//! What operators may do: scopes, each of which is a group of admin routes, and roles, each of which has many.

use serde::Serialize;
use utoipa::ToSchema;

/// A group of admin routes that an API key may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = OperatorScope)]
pub enum Scope {
    /// Reading sales and their stock.
    #[serde(rename = "sales:read")]
    SalesRead,
    /// Creating and changing sales, and taking them through their life.
    #[serde(rename = "sales:write")]
    SalesWrite,
    /// Adding units to a sale that sells, and taking some away.
    #[serde(rename = "stock:write")]
    StockWrite,
    /// Reading anybody's order.
    #[serde(rename = "orders:read")]
    OrdersRead,
    /// Cancelling and refunding anybody's order.
    #[serde(rename = "orders:write")]
    OrdersWrite,
    /// Reading the rules of traffic.
    #[serde(rename = "limits:read")]
    LimitsRead,
    /// Changing the rules of traffic.
    #[serde(rename = "limits:write")]
    LimitsWrite,
    /// Reading the audit log.
    #[serde(rename = "ops:read")]
    OpsRead,
    /// Taking processes out of service.
    #[serde(rename = "ops:write")]
    OpsWrite,
    /// Taking profiles of a process, which slow it down a little and tell how it works.
    #[serde(rename = "debug")]
    Debug,
    /// Saying where events are sent, which leave the shop with all that they tell of buyers.
    #[serde(rename = "webhooks:write")]
    WebhooksWrite,
    /// Reading which keys there are. Their texts are shown to nobody.
    #[serde(rename = "keys:read")]
    KeysRead,
    /// Making, rotating and revoking keys.
    #[serde(rename = "keys:write")]
    KeysWrite,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 13] = [
        Self::SalesRead,
        Self::SalesWrite,
        Self::StockWrite,
        Self::OrdersRead,
        Self::OrdersWrite,
        Self::LimitsRead,
        Self::LimitsWrite,
        Self::OpsRead,
        Self::OpsWrite,
        Self::Debug,
        Self::WebhooksWrite,
        Self::KeysRead,
        Self::KeysWrite,
    ];

    /// Returns the scope's word, as it is stored with an API key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SalesRead => "sales:read",
            Self::SalesWrite => "sales:write",
            Self::StockWrite => "stock:write",
            Self::OrdersRead => "orders:read",
            Self::OrdersWrite => "orders:write",
            Self::LimitsRead => "limits:read",
            Self::LimitsWrite => "limits:write",
            Self::OpsRead => "ops:read",
            Self::OpsWrite => "ops:write",
            Self::Debug => "debug",
            Self::WebhooksWrite => "webhooks:write",
            Self::KeysRead => "keys:read",
            Self::KeysWrite => "keys:write",
        }
    }
}

/// What somebody does in the shop. Each role may do what the one before it may, and more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = OperatorRole)]
pub enum Role {
    /// Reads everything.
    Viewer,
    /// Runs sales.
    Promoter,
    /// Helps buyers, and keeps the shop running.
    Operator,
    /// Says who may do what, and where events are sent.
    Admin,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Promoter, Self::Operator, Self::Admin];

    /// Returns the role's word, as it is stored with an API key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Promoter => "promoter",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Finds a role by its word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// Answers the least role that has a scope.
    pub fn with(scope: Scope) -> Self {
        match scope {
            Scope::SalesRead | Scope::OrdersRead | Scope::LimitsRead | Scope::OpsRead | Scope::KeysRead => {
                Self::Viewer
            }
            Scope::SalesWrite | Scope::StockWrite => Self::Promoter,
            Scope::OrdersWrite | Scope::LimitsWrite | Scope::OpsWrite | Scope::Debug => Self::Operator,
            Scope::WebhooksWrite | Scope::KeysWrite => Self::Admin,
        }
    }
}
