//! Switches: what operators turn off while it is too much.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::scope::Way;
use crate::domain::ids::RuleId;

/// What an operator switches off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Everything by which shoppers change something. What the payment provider tells is taken all the same.
    ReadOnly,
    /// Purchases.
    NoPurchases,
    /// New sales: none is created or published.
    NoNewSales,
    /// Lists of orders and of sales.
    NoLists,
    /// Waiting for a decision: the answer comes at once.
    NoWaits,
    /// Streams: those that there are end, and their clients ask again and again instead.
    NoStreams,
}

impl Switch {
    /// All switches.
    pub const ALL: [Self; 6] =
        [Self::ReadOnly, Self::NoPurchases, Self::NoNewSales, Self::NoLists, Self::NoWaits, Self::NoStreams];

    /// Answers its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::NoPurchases => "no_purchases",
            Self::NoNewSales => "no_new_sales",
            Self::NoLists => "no_lists",
            Self::NoWaits => "no_waits",
            Self::NoStreams => "no_streams",
        }
    }

    /// Answers its place among [`Self::ALL`].
    pub fn index(self) -> usize {
        match self {
            Self::ReadOnly => 0,
            Self::NoPurchases => 1,
            Self::NoNewSales => 2,
            Self::NoLists => 3,
            Self::NoWaits => 4,
            Self::NoStreams => 5,
        }
    }

    /// Answers whether it refuses the requests of a way.
    pub fn refuses(self, way: Way) -> bool {
        match self {
            Self::ReadOnly => matches!(way, Way::Purchase | Way::Token | Way::Pay | Way::Cancel),
            Self::NoPurchases => matches!(way, Way::Purchase | Way::Token),
            Self::NoLists => matches!(way, Way::OrderList | Way::SaleList),
            Self::NoStreams => way == Way::Stream,
            Self::NoNewSales | Self::NoWaits => false,
        }
    }

    /// Answers the name of the rule by which operators set it.
    pub fn rule(self) -> RuleId {
        RuleId::parse(&format!("switch-{}", self.as_str().replace('_', "-"))).expect("a slug")
    }
}
