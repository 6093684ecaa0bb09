//! An order and its states.

use serde::{Deserialize, Serialize};

use super::ids::{OrderId, SaleId, SkuId, UserId};
use super::money::{Money, Quantity};
use super::record::{Decided, OrderRecord};
use super::shard::Month;

/// `reserved` and `queued` live only in Redis and the order log; the others only in MySQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// Held in Redis; the order log has not acknowledged it yet. The loss of the Redis host may end it.
    Reserved,
    /// Acknowledged by the order log: it reaches a final state whatever fails (I3).
    Queued,
    AwaitingPayment,
    Paid,
    Cancelled,
    Expired,
    Rejected,
}

impl OrderState {
    pub const ALL: [Self; 7] = [
        Self::Reserved,
        Self::Queued,
        Self::AwaitingPayment,
        Self::Paid,
        Self::Cancelled,
        Self::Expired,
        Self::Rejected,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Queued => "queued",
            Self::AwaitingPayment => "awaiting_payment",
            Self::Paid => "paid",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether MySQL has not decided yet.
    pub fn is_pending(self) -> bool {
        matches!(self, Self::Reserved | Self::Queued)
    }

    /// Paid, cancelled, expired, rejected: nothing changes any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Paid | Self::Cancelled | Self::Expired | Self::Rejected)
    }

    /// Whether the order holds no units although a row exists, so that Redis owes its stock back.
    pub fn is_released(self) -> bool {
        matches!(self, Self::Cancelled | Self::Expired | Self::Rejected)
    }
}

/// Why the order writer refused an accepted order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The buyer already holds the limit (I5).
    Limit,
    /// The ledger has no unit left (I1).
    SoldOut,
}

impl RejectReason {
    pub const ALL: [Self; 2] = [Self::Limit, Self::SoldOut];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::SoldOut => "sold_out",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// An order as its buyer sees it, from wherever it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub id: OrderId,
    pub sale: SaleId,
    pub sku: SkuId,
    pub user: UserId,
    pub quantity: Quantity,
    pub unit_price: Money,
    pub state: OrderState,
    /// Only for `rejected`.
    pub reason: Option<RejectReason>,
    /// When the front accepted it, ms since 1970.
    pub accepted_ms: i64,
    /// When payment is due, ms since 1970; `None` before the row exists.
    pub expires_ms: Option<i64>,
}

impl Order {
    /// The record that makes the same order in another backend. `epoch` and `created_ms` are its row's.
    ///
    /// # Errors
    /// A text that says why, for an order in a state that no import can make.
    pub fn exported(self, epoch: u32, created_ms: i64) -> Result<OrderRecord, String> {
        let rejected = match (self.state, self.reason) {
            (OrderState::AwaitingPayment, None) => None,
            (OrderState::Rejected, Some(reason)) => Some(reason),
            (state, _) => {
                return Err(format!("{} is {}: this version cannot export it", self.id, state.as_str()));
            }
        };
        let expires_ms = self.expires_ms.unwrap_or(created_ms);
        Ok(OrderRecord {
            v: OrderRecord::VERSION,
            order_id: self.id,
            sale_id: self.sale,
            sku_id: self.sku,
            user_id: self.user,
            quantity: self.quantity,
            unit_price: self.unit_price,
            epoch,
            accepted_ms: self.accepted_ms,
            decided: Some(Decided { rejected, created_ms, expires_ms }),
        })
    }
}

/// Where a page of one buyer's orders ended: the next one starts below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderCursor {
    pub month: Month,
    pub accepted_ms: i64,
    pub order: OrderId,
}
