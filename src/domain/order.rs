//! An order as its buyer sees it, and why one is rejected. Which states follow each other is in [`super::order_life`].

use serde::{Deserialize, Serialize};

use super::ids::{Reference, SaleId, SkuId, UserId};
use super::money::{Money, Quantity};
use super::order_id::OrderId;
use super::order_life::OrderState;
use super::shard::Month;

/// Why the order writer rejected an accepted order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The buyer would hold more units than the buyer limit (I5).
    Limit,
    /// The ledger has no unit left (I1).
    SoldOut,
    /// Its record was a dead letter, and an operator gave its units back.
    GivenUp,
    /// Its record came when its bucket had been rebuilt without it (step 17).
    StaleEpoch,
}

impl RejectReason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Limit, Self::SoldOut, Self::GivenUp, Self::StaleEpoch];

    /// Answers the reason's word in rows and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::SoldOut => "sold_out",
            Self::GivenUp => "given_up",
            Self::StaleEpoch => "stale_epoch",
        }
    }

    /// Reads a reason's word; `None` for a word that this version does not know.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// What MySQL decided of an order, as the inventory is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The order.
    pub order: OrderId,
    /// The state that it got.
    pub state: OrderState,
    /// Of an order that holds nothing: how many units its buyer holds in other orders, if that is known. Its own units
    /// are taken off the buyer, who may buy again; these stay. `None` in every other state.
    pub buyer_keeps: Option<u32>,
}

/// An order as its buyer sees it, made from its row, its hold or its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The order.
    pub id: OrderId,
    /// Its sale.
    pub sale: SaleId,
    /// What was bought.
    pub sku: SkuId,
    /// The buyer.
    pub user: UserId,
    /// How many units were bought.
    pub quantity: Quantity,
    /// The price of one unit.
    pub unit_price: Money,
    /// The shop's own name for it.
    pub reference: Option<Reference>,
    /// The order's state.
    pub state: OrderState,
    /// Why it was rejected; `None` in every other state, and before its row was read.
    pub reason: Option<RejectReason>,
    /// When the front accepted it, ms since 1970. An order that is made from its hold has the time of its reservation.
    pub accepted_ms: i64,
    /// When its payment is due, ms since 1970; `None` before its row was read.
    pub expires_ms: Option<i64>,
    /// Whether it is pending and stays so until a person acts, because its record is a dead letter.
    pub is_delayed: bool,
}

impl Order {
    /// Answers whether it waits for its payment, and is not overdue at a time, in ms since 1970.
    pub fn is_payable(&self, now_ms: i64) -> bool {
        let is_in_time = self.expires_ms.is_some_and(|expires_ms| now_ms < expires_ms);
        self.state == OrderState::AwaitingPayment && is_in_time
    }

    /// Answers what its buyer pays for all units; `None` for more than [`Money::AMOUNT_MAX`].
    pub fn amount(&self) -> Option<Money> {
        let amount = self.unit_price.amount().checked_mul(i64::from(self.quantity.units()))?;
        Money::new(amount, self.unit_price.currency()).ok()
    }
}

/// Where a page of one buyer's orders ended. The next page starts below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderCursor {
    /// The month of the page's last order.
    pub month: Month,
    /// When that order was accepted, ms since 1970.
    pub accepted_ms: i64,
    /// That order, which comes before lower ids of the same time.
    pub order: OrderId,
}
