//! How an order ends for its buyer.

use std::fmt;

/// How an order ends for its buyer. In all of these the shop does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ending {
    /// The order is paid.
    Paid,
    /// The order is cancelled.
    Cancelled,
    /// The buyer has left the order alone.
    Abandoned,
    /// The buyer came too late: the order could not be paid any more, or the payment page was closed.
    TooLate,
    /// The order has expired.
    Expired,
    /// The order writer refused the order.
    Rejected,
}

impl Ending {
    /// All endings.
    pub const ALL: [Self; 6] =
        [Self::Paid, Self::Cancelled, Self::Abandoned, Self::TooLate, Self::Expired, Self::Rejected];

    /// Returns the ending's word in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paid => "paid",
            Self::Cancelled => "cancelled",
            Self::Abandoned => "abandoned",
            Self::TooLate => "too_late",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }

    /// Returns the ending of an order in a state. `None` means that the order goes on. A refunded order was paid
    /// before.
    pub fn of_order(status: &str) -> Option<Self> {
        match status {
            "paid" | "refunded" => Some(Self::Paid),
            "cancelled" => Some(Self::Cancelled),
            "expired" => Some(Self::Expired),
            "rejected" => Some(Self::Rejected),
            _ => None,
        }
    }
}

/// What kept a buyer from an ending. It is a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What the buyer was doing.
    step: &'static str,
    /// The problem's code, or the tool's own word.
    why: String,
}

impl Fault {
    /// Makes a fault.
    pub fn new(step: &'static str, why: impl Into<String>) -> Self {
        Self { step, why: why.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.step, self.why)
    }
}
