//! The money of orders: what the stores say of it, and what the payment provider has booked.

use super::place::Place;
use crate::ids::OrderId;

/// The state of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PaymentState {
    /// The provider may not know it yet.
    Opening,
    /// The provider has a page on which it can be paid.
    Open,
    /// It shall not be paid any more, and the provider has not said yet whether it was.
    Closing,
    /// It was not captured and never will be.
    Closed,
    /// The provider has the money.
    Captured,
}

impl PaymentState {
    /// All states, in the order of a payment's life.
    pub const ALL: [Self; 5] = [Self::Opening, Self::Open, Self::Closing, Self::Closed, Self::Captured];

    /// Returns the state's word in rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Captured => "captured",
        }
    }

    /// Reads the state's word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Returns whether the provider has given its final answer.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Closed | Self::Captured)
    }
}

/// The state of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RefundState {
    /// The provider has not accepted it yet.
    Owed,
    /// The provider has accepted it.
    Sent,
    /// The buyer has the money.
    Done,
    /// The provider could not pay it back.
    Failed,
    /// It had failed, and its buyer has the money in another way, which the provider's books do not show.
    Settled,
}

impl RefundState {
    /// All states, in the order of a refund's life.
    pub const ALL: [Self; 5] = [Self::Owed, Self::Sent, Self::Done, Self::Failed, Self::Settled];

    /// Returns the state's word in rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owed => "owed",
            Self::Sent => "sent",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Settled => "settled",
        }
    }

    /// Reads the state's word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A row of `payments`: one attempt to pay an order.
#[derive(Debug, Clone)]
pub struct PaymentRow {
    /// Where the row was found.
    pub place: Place,
    /// The order.
    pub order: OrderId,
    /// The number of the attempt, from 1.
    pub attempt: i64,
    /// The payment's state.
    pub state: PaymentState,
    /// The payment's id in the request to the provider.
    pub id: String,
    /// The deployment's name in the request.
    pub deployment: String,
    /// The amount in the request, in the smallest unit of its currency.
    pub amount: i64,
    /// The currency's code in the request.
    pub currency: String,
    /// The provider's id of the page; `None` while the provider has not answered.
    pub reference: Option<String>,
    /// The provider's id of the capture.
    pub capture: Option<String>,
}

/// A row of `refunds`: a capture of a payment that is paid back.
#[derive(Debug, Clone)]
pub struct RefundRow {
    /// Where the row was found.
    pub place: Place,
    /// The order.
    pub order: OrderId,
    /// The number of the attempt whose capture is paid back.
    pub attempt: i64,
    /// The amount, in the smallest unit of its currency.
    pub amount: i64,
    /// The currency's code.
    pub currency: String,
    /// The provider's id of the capture.
    pub capture: String,
    /// The word for why it is paid back.
    pub reason: String,
    /// The refund's state.
    pub state: RefundState,
}

impl RefundRow {
    /// The reason of a refund on which an operator decided.
    pub const OPERATOR: &str = "operator";
    /// The reason of a refund of what nobody had asked for.
    pub const OTHER_AMOUNT: &str = "other_amount";
}

/// A row of `orphan_captures`: a capture that no payment explains.
#[derive(Debug, Clone)]
pub struct OrphanRow {
    /// The provider's id of the capture.
    pub capture: String,
    /// The payment that the capture names.
    pub payment: String,
    /// The amount, in the smallest unit of its currency.
    pub amount: i64,
    /// The currency's code.
    pub currency: String,
    /// Where the refund of the capture is; `None` while the capture waits for its payment.
    pub state: Option<RefundState>,
}

/// A capture in the provider's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booked {
    /// The payment that the capture names; empty when it names none.
    pub payment: String,
    /// The deployment that the capture names; empty when it names none.
    pub deployment: String,
    /// The provider's id of the capture.
    pub reference: String,
    /// The amount that was captured, in the smallest unit of its currency.
    pub amount: i64,
    /// The currency's code, in capitals.
    pub currency: String,
    /// The amount of it that was paid back.
    pub refunded: i64,
}
