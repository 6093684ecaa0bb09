//! Which requests a rule is about, and whose are counted together.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::ids::SaleId;

/// A way of the public listener that rules may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `POST /sales/{sale}/orders`.
    Purchase,
    /// `POST /sales/{sale}/token`.
    Token,
    /// `GET /orders/{order}`.
    OrderRead,
    /// `GET /orders`.
    OrderList,
    /// `POST /orders/{order}/pay`.
    Pay,
    /// `POST /orders/{order}/cancel`.
    Cancel,
    /// `GET /sales/{sale}`.
    SaleRead,
    /// `GET /sales`.
    SaleList,
    /// `GET /stream` and `GET /ws`.
    Stream,
}

impl Way {
    /// All ways.
    pub const ALL: [Self; 9] = [
        Self::Purchase,
        Self::Token,
        Self::OrderRead,
        Self::OrderList,
        Self::Pay,
        Self::Cancel,
        Self::SaleRead,
        Self::SaleList,
        Self::Stream,
    ];

    /// Answers whether its requests name a user, by their token.
    pub(super) fn names_user(self) -> bool {
        !matches!(self, Self::SaleRead | Self::SaleList | Self::Stream)
    }

    /// Answers whether its requests name a sale, by their path.
    pub(super) fn names_sale(self) -> bool {
        matches!(self, Self::Purchase | Self::Token | Self::SaleRead)
    }

    /// Answers its word in rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::Token => "token",
            Self::OrderRead => "order_read",
            Self::OrderList => "order_list",
            Self::Pay => "pay",
            Self::Cancel => "cancel",
            Self::SaleRead => "sale_read",
            Self::SaleList => "sale_list",
            Self::Stream => "stream",
        }
    }

    /// Answers its place among [`Self::ALL`].
    pub fn index(self) -> usize {
        match self {
            Self::Purchase => 0,
            Self::Token => 1,
            Self::OrderRead => 2,
            Self::OrderList => 3,
            Self::Pay => 4,
            Self::Cancel => 5,
            Self::SaleRead => 6,
            Self::SaleList => 7,
            Self::Stream => 8,
        }
    }
}

/// Whose requests are counted together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Everybody's.
    #[default]
    All,
    /// Those of one way.
    Route,
    /// Those of one user, as the token says. Requests that need no token are not counted.
    User,
    /// Those of one IPv4 address, or of one IPv6 /64 network.
    Address,
    /// Those of one device. Requests that name none are counted by their address, so that nobody gains by leaving it
    /// out.
    Device,
    /// Those about one sale. A request about none is not counted.
    Sale,
}

impl Scope {
    /// Answers whether it counts the requests of one caller together, and not those of many.
    pub fn is_own(self) -> bool {
        matches!(self, Self::User | Self::Address | Self::Device)
    }
}

/// Which requests a rule is about: all that fit to every field that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Those of one way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Way>,
    /// Those about one sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sale: Option<SaleId>,
}

impl About {
    pub(super) fn is_all(&self) -> bool {
        *self == Self::default()
    }
}

/// A fault in a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct InvalidRule {
    /// The JSON pointer of the field.
    pub pointer: &'static str,
    /// What the field has to be.
    pub detail: String,
}

/// Answers a fault.
pub(super) fn fault(pointer: &'static str, detail: &str) -> Result<(), InvalidRule> {
    Err(InvalidRule { pointer, detail: detail.to_owned() })
}
